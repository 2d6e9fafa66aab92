"""The command refoptim conformance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from refoptim.conformance import cases, run

from helpers.implementations import CASES, Late, Plain, named, results
from helpers.installed import table, written
from refoptim.engines import cuda, host


def test_all_promises_hold(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("--json", "--report", str(tmp_path / "r.html"), "--junit", str(tmp_path / "j.xml"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["ok"]
    counted = {(r["golden"], r["distance"]) for r in document["results"] if r["golden"] == "reference"}
    assert counted <= {("reference", "EXACT"), ("reference", "not run")}
    exact = {r["optimizer"] for r in document["results"] if r["golden"] == "torch-ieee" and r["distance"] == "EXACT"}
    assert len(exact) >= 13
    engines = {"numpy", *(["host"] if not host.missing() else []), *(["cuda"] if not cuda.missing() else [])}
    assert set(document["versions"]) == engines
    assert {"CosineAnnealingLR", "ReduceLROnPlateau"} <= {r["optimizer"] for r in document["results"]}
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
    assert "All is well: all promises hold." in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(written()) >= 14
    assert written() == table(document["results"]), "\n".join(table(document["results"]))


def test_the_command_fails_where_a_promise_is_broken(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Late), "--pattern", "SGD-PLAIN", "--dtype", "float64")
    assert done.exit_code == 1
    assert "FAILS: sgd-plain float64" in done.output
    assert "step 7, param.1 [2, 3]" in done.output
    assert "\x1b" not in done.output
    assert done.output.endswith("1 promise is broken\n")


def test_a_broken_promise_comes_with_its_case(command: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("--impl", named(Late), "--pattern", "sgd-plain")
    case = CASES["sgd-plain"]
    about = [f"  sgd-plain: {case.comment}", "  hyperparameters: lr=0.3, weight_decay=0.1"]
    paths = [str(tmp_path / name) for name in ("r.html", "j.xml")]
    done = command(*arguments, "--report", paths[0], "--junit", paths[1])
    lines = done.stdout.splitlines()
    assert [x for x in about if x not in lines] == []
    assert "catches" not in done.stdout
    for path in paths:
        text = Path(path).read_text(encoding="utf-8")
        assert all(line.strip() in text for line in about) and "catches" not in text
    document = json.loads(command(*arguments, "--json").stdout)
    (said,) = document["diagnoses"]
    assert (said["implementation"], said["optimizer"], said["names"]) == (named(Late), "SGD", [])
    assert "same rule, rounded otherwise" in said["text"]
    assert json.loads(command(*arguments, "--json", "--no-diagnose").stdout)["diagnoses"] == []
    (verdict,) = document["verdicts"]
    assert (verdict["optimizer"], verdict["verdict"], verdict["step"]) == ("SGD", "same rule", 7)
    assert f"SGD, {named(Late)}: {verdict['line']}" in lines


@pytest.mark.parametrize(
    ("options", "code"), [(("--ulp", "0"), 1), (("--ulp", "1"), 0), (("--rtol", "1e-14"), 0), (("--atol", "1e-30"), 1)]
)
def test_a_tolerance_takes_the_place_of_the_promise(
    command: Callable[..., Any], options: tuple[str, ...], code: int
) -> None:
    """What is wrong by one number in step 7 alone; the steps after it do not see it."""
    done = command("--impl", named(Late), "--pattern", "sgd-plain", *options)
    assert done.exit_code == code, done.output


def test_two_measures_are_refused(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Late), "--pattern", "sgd-plain", "--ulp", "1", "--rtol", "1e-5")
    assert done.exit_code == 2 and "--ulp does not go with" in done.output


class Raises(Plain):
    """Plain descent that raises in some cases."""

    def why_not(self, case: cases.Case, dtype: str) -> str | None:
        return None if case.id in ("sgd-plain", "sgd-default") and dtype == "float64" else "no"

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        super().make(optimizer, hyper, parameters)
        if not hyper["weight_decay"]:
            raise ValueError("no decay")


def test_a_row_says_how_many_raised_and_where(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.implementations.Raises", Raises, raising=False)
    arguments = ("--impl", "helpers.implementations:Raises", "--pattern", "sgd")
    text = command(*arguments).stdout
    assert "SGD\tfloat64\t1 of 2 raised\n" in text
    line = Raises.make.__code__.co_firstlineno + 3
    assert f"ValueError: no decay (tests/conformance/test_command.py:{line} in make)" in text
    assert "Traceback" not in text
    assert "Traceback (most recent call last):" in command(*arguments, "--traceback").stdout
    assert "SGD, helpers.implementations:Raises: same bits; 1 of 2 raised" in text


def test_rows_in_which_nothing_ran_are_counted_and_not_shown(command: Callable[..., Any]) -> None:
    found = results(named(Plain), "sgd")
    rows, ran = ({(r.optimizer, r.dtype) for r in found if r.ran or not only} for only in (False, True))
    lines = command("--impl", named(Plain), "--pattern", "sgd").stdout.splitlines()
    table = [line for line in lines if "\t" in line]
    assert table == [f"optimizer\tstorage\t{named(Plain)}", "SGD\tfloat64\tEXACT"]
    assert f"{len(rows) - len(ran)} rows are left out, in which nothing ran: why is said below" in lines
    asked = sum(not r.case.endswith("-cautious") for r in found)
    assert f"{asked - 1} not run, {named(Plain)}: plain descent in float64 alone" in lines
    assert lines[-1] == "all is well: all promises hold"


def test_engines_say_why_something_was_not_run(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "lacking", lambda dtype: "no such storage" if dtype == "bfloat16" else "")
    done = command("--engine", "numpy", "--pattern", "sgd-plain")
    assert "SGD\tbfloat16\t" in done.stdout and "left out" not in done.stdout
    assert "\n1 not run, numpy: no such storage\n" in done.stdout


def test_the_last_line_says_that_there_are_no_kernels(command: Callable[..., Any], bare: None) -> None:
    def last(*more: str) -> str:
        return str(command("--pattern", "sgd-plain", "--dtype", "float64", *more).stdout.splitlines()[-1])

    assert last().startswith("host not run: its kernels were not built") and last().endswith(" (refoptim doctor)")
    assert last("--engine", "numpy") == last("--impl", named(Plain)) == "all is well: all promises hold"


def test_the_command_says_what_is_wrong(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, bare: None
) -> None:
    for arguments, message in [
        (("--engine", "host"), "engine host is not available: its kernels were not built"),
        (("--engine", "cuda"), "engine cuda is not available: kernels on a GPU need CuPy"),
        (("--impl", "a:"), "'--impl': expected package.module:Class, got 'a:'"),
        (("--impl", ":X"), "'--impl': expected package.module:Class, got ':X'"),
        (("--impl", "nothing"), "no implementation 'nothing'"),
        (("--pattern", "no such case"), "no case matches"),
        (
            ("--impl", named(Plain), "--pattern", "adam-coupled-decay"),
            "nothing could be run: plain descent in float64 alone",
        ),
        (
            ("--pattern", "sgd-plain", "--report", "/no/such/folder/x.html"),
            "there is no such folder: '/no/such/folder'",
        ),
    ]:
        done = command(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output

    def flushed() -> None:
        raise RuntimeError("float32 sums lose subnormals")

    monkeypatch.setattr(run, "check_arithmetic", flushed)
    done = command("--pattern", "sgd-plain")
    assert (done.exit_code, "lose subnormals" in done.output) == (2, True)
