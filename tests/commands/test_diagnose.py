"""The command ``refoptim diagnose``: curves, implementations with schedules, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.command_line import call

EARLY = "lr\n0.1\n0.1\n0.01\n0.01\n0.01\n0.001\n0.001\n0.001\n"
"""StepLR(step_size=3) at 0.1, one epoch ahead."""


def test_a_curve_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(EARLY, encoding="utf-8")
    result = call("diagnose", tmp_path / "x.csv", "--scheduler", "StepLR(step_size=3)", "--lr", "0.1", "--json")
    assert result.exit_code == 1
    (said,) = json.loads(result.stdout)["diagnoses"]
    assert (said["scheduler"], said["verdict"], said["names"]) == ("StepLR", "another rule", ["ScheduleAhead"])
    right = "lr\n0.1\n0.1\n0.1\n0.01\n0.01\n0.01\n"
    (tmp_path / "y.csv").write_text(right, encoding="utf-8")
    said = call("diagnose", tmp_path / "y.csv", "--scheduler", "StepLR(step_size=3)", "--lr", "0.1").stdout
    assert said.startswith("StepLR: same rule")


SCHEDULES = """
from refoptim.conformance.adapters import Adapter


class Late(Adapter):
    def make(self, optimizer, hyper, parameters):
        raise NotImplementedError

    step = parameters = make

    def schedule(self, name, settings, lr, epochs):
        return [lr * settings["gamma"] ** (max(k - 1, 0) // settings["step_size"]) for k in range(epochs + 1)]
"""


def test_schedules_of_an_implementation_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_schedules.py").write_text(SCHEDULES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    result = call("diagnose", "--impl", "late_schedules:Late", "--pattern", "StepLR", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    (said,) = document["diagnoses"]
    assert document["implementation"] == "late_schedules:Late"
    assert (said["scheduler"], said["verdict"], said["names"]) == ("StepLR", "another rule", ["ScheduleBehind"])


def test_why_nothing_could_be_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refuses.py").write_text(
        "from refoptim.conformance.adapters import Adapter\n\n\nclass Mine(Adapter):\n"
        "    def why_not(self, case, dtype):\n        return 'Lion alone'\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    refused = call("diagnose", "--impl", "refuses:Mine", "--pattern", "adam-default")
    assert (refused.exit_code, refused.stderr) == (2, "Error: nothing could be run: Lion alone\n")
    missing = call("diagnose", "--impl", "refuses:Mine", "--pattern", "no-such-case")
    assert (missing.exit_code, missing.stderr) == (2, "Error: nothing could be run: no case matches\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", "0.1"), "a curve needs --scheduler and --lr"),
        (("--scheduler", "StepLR(step_size=3)"), "a curve needs --scheduler and --lr"),
        (("--scheduler", "StepLR(step_size=3", "--lr", "0.1"), "was never closed"),
        (("--scheduler", "NoLR()", "--lr", "0.1"), "NoLR"),
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "x.csv").write_text(EARLY, encoding="utf-8")
    result = call("diagnose", tmp_path / "x.csv", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
