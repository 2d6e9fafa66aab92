"""The plot command draws what schedulers do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from refoptim.conformance.spec import parse, setting

from helpers import ROOT
from refoptim.commands.plot import plot

DOCS = ROOT / "docs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(plot, ["lr", *map(str, arguments)])


@pytest.fixture(scope="module")
def matplotlib() -> Any:
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def values(*arguments: object) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_values_are_those_of_the_formula() -> None:
    (curve,) = values("StepLR", "--set", "step_size=2", "--set", "gamma=0.5", "--lr", 0.5, "--epochs", 5)
    assert curve["lr"] == [0.5, 0.5, 0.25, 0.25, 0.125]
    assert curve["label"] == "StepLR, step_size=2, gamma=0.5"


def test_settings_reach_the_schedulers_that_take_them() -> None:
    first, second = values(
        "StepLR(step_size=1)", "LambdaLR(lr_lambda=lambda e: 1 / (1 + e))", "--set", "gamma=0.25", "--epochs", 2
    )
    assert first["lr"] == [0.1, 0.1 * 0.25]
    assert second["lr"] == [0.1, 0.1 * (1 / 2)]


def test_momenta_and_metrics_take_part() -> None:
    (curve,) = values("CyclicLR(base_lr=0.5, max_lr=1.0, step_size_up=2, base_momentum=0.5)", "--epochs", 3)
    assert curve["momentum"] == pytest.approx([0.9, 0.7, 0.5], rel=1e-15)
    (curve,) = values("ReduceLROnPlateau(patience=1)", "--metrics", "lambda epoch: max(3, 5 - epoch)", "--epochs", 9)
    assert curve["lr"].count(0.1) == 5


def test_an_early_end_is_told() -> None:
    result = run("OneCycleLR(max_lr=0.5, total_steps=4)", "--json")
    assert "ends after 5 epochs: Tried to step 5 times" in result.stderr
    assert len(json.loads(result.stdout)[0]["lr"]) == 5


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_drawn_the_same_every_time(suffix: str, tmp_path: Path, matplotlib: Any) -> None:
    written = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{suffix}"
        result = run("StepLR(step_size=9)", "ExponentialLR(gamma=0.9)", "--momentum", "--log", "-o", path)
        assert (result.exit_code, result.stdout) == (0, ""), result.output
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_a_picture_shows_every_curve_and_its_label(tmp_path: Path, matplotlib: Any) -> None:
    def curves(*texts: str) -> int:
        run(*texts, "-o", tmp_path / "x.svg")
        found = ElementTree.parse(tmp_path / "x.svg").getroot()
        text = "".join(found.itertext())
        assert all(label in text for label in (*texts, "learning rate", "epoch"))
        return sum("#1f77b4" in (x.get("style") or "") or "#ff7f0e" in (x.get("style") or "") for x in found.iter())

    assert curves("StepLR(step_size=9)", "ConstantLR(factor=0.5)") == 2 * curves("StepLR(step_size=9)") == 4


BAD = [
    (["Foo"], "there is no scheduler 'Foo': choose one of ChainedScheduler"),
    (["StepLR(step_size=0)"], "step_size must be in [1, inf)"),
    (["StepLR"], "missing 1 required positional argument: 'step_size'"),
    (["StepLR(step_size=3"], "is no scheduler"),
    (["StepLR(step_size=open)"], "'open' is no setting"),
    (["StepLR(**{})"], "write it like StepLR(step_size=30)"),
    (["'StepLR'"], "write it like StepLR(step_size=30)"),
    (["LambdaLR(lr_lambda=lambda e: e.__class__)"], "only numbers and sqrt"),
    (["LambdaLR(lr_lambda=lambda e: (lambda: e)())"], "only numbers and sqrt"),
    (["LambdaLR(lr_lambda=lambda e: open(e))"], "only numbers and sqrt"),
    (["LambdaLR(lr_lambda=lambda e: 1 / e)"], "division by zero"),
    (["StepLR(step_size=3)", "--set", "T_max=3"], "no scheduler here takes 'T_max'"),
    (["StepLR(step_size=3)", "--set", "gamma"], "'gamma' is not of the form NAME=VALUE"),
    (["StepLR(step_size=3)", "--metrics", "3"], "'3' is no function"),
    (["StepLR(step_size=3)", "--epochs", "0"], "--epochs"),
    (["StepLR(step_size=3)", "-o", "x.gif"], "must end in .png or .svg"),
    (["StepLR(step_size=3)", "-o", "no/such/folder/x.png"], "no/such/folder"),
    ([], "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_wrong_command_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code != 0
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("StepLR(step_size=3)", "-o", tmp_path / "x.png")
    assert result.exit_code == 1
    assert "pip install matplotlib" in result.stderr


def test_settings_are_literals_functions_or_text() -> None:
    assert [setting(text) for text in ("3", "[0.5, 1e-3]", "cos", "None")] == [3, [0.5, 1e-3], "cos", None]
    assert setting("lambda epoch: 2 if epoch > 1 and not epoch == 5 else cos(0)")(3) == 2
    assert parse("SequentialLR(StepLR(step_size=2), milestones=[])").members[0].name == "StepLR"
