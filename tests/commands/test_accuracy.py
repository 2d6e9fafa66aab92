"""The accuracy command: a table, JSON, a picture, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from refoptim.conformance.accuracy import Row

from refoptim.commands import accuracy as command
from refoptim.commands.accuracy import accuracy
from refoptim.commands.main import main

QUICK = ["--pattern", "sgd-momentum", "--steps", "3", "--impl", "numpy"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(accuracy, [*map(str, arguments)])


@pytest.fixture(autouse=True)
def _needs_mpmath() -> None:
    pytest.importorskip("mpmath", reason="exact arithmetic needs mpmath")


def test_it_is_a_command() -> None:
    assert main.commands["accuracy"] is accuracy


def test_a_table_is_printed() -> None:
    result = run(*QUICK, "--dtype", "float32", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    head, *rows = [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]
    assert head == ["optimizer", "storage", "implementation", "largest ULP", "mean ULP", "of the way"]
    assert [x[:3] for x in rows] == [["SGD", "float64", "numpy"], ["SGD", "float32", "numpy"]]
    largest, mean, relative = (float(x) for x in rows[1][3:])
    assert 0 < mean < largest
    assert 0 < relative < 1e-5
    assert "numpy: refoptim" in result.stdout


def test_json_says_all() -> None:
    result = run(*QUICK, "--dtype", "float64", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert (found["ok"], found["digits"], found["steps"], found["missing"]) == (True, 50, 3, [])
    assert [(x["optimizer"], x["cases"], x["count"]) for x in found["rows"]] == [("SGD", ["sgd-momentum"], 54)]


def test_a_picture_shows_storages_and_implementations(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    written = []
    for name in ("a.svg", "b.svg"):
        result = run(*QUICK, "--dtype", "float32", "--dtype", "float64", "-o", tmp_path / name)
        assert (result.exit_code, result.stderr) == (0, f"wrote {tmp_path / name}\n"), result.output
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    text = "".join(ElementTree.fromstring(written[0]).itertext())
    assert all(word in text for word in ("float32", "float64", "SGD", "numpy", "ULP"))


def test_an_infinite_error_is_drawn_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    inf = float("inf")
    ours = Row("Adam", "float16", "host", inf, inf, inf, 1, ("a",))
    theirs = Row("Adam", "float16", "torch-for-loop", 4.0, 2.0, 0.5, 1, ("a",))
    monkeypatch.setattr(command, "_measured", lambda *_: [ours, theirs])
    result = run("--impl", "numpy", "-o", tmp_path / "a.svg")
    assert result.exit_code == 1
    assert "above torch: Adam float16, host: inf ULP, 2 ULP" in result.stdout
    assert "∞" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    document = run("--impl", "numpy", "--json")
    assert document.exit_code == 1
    assert json.loads(document.stdout)["rows"][0]["mean_ulp"] == "inf"


@pytest.mark.parametrize(("mean", "factor", "code"), [(3.9, 2, 0), (4.1, 2, 1), (4.1, 3, 0), (2.1, 1, 1)])
def test_too_far_above_torch_is_a_failure(mean: float, factor: float, code: int, monkeypatch: Any) -> None:
    ours = Row("Adam", "float32", "numpy", 9.0, mean, 0.5, 1, ("a",))
    theirs = Row("Adam", "float32", "torch-for-loop", 9.0, 2.0, 0.5, 1, ("a",))
    monkeypatch.setattr(command, "_measured", lambda *_: [ours, theirs])
    assert run("--impl", "numpy", "--factor", factor).exit_code == code


BAD = [
    (["--pattern", "nothing"], "nothing could be measured: no case matches 'nothing'"),
    (["--impl", "nobody"], "no implementation 'nobody'"),
    (["--dtype", "int8"], "--dtype"),
    (["--steps", "0"], "--steps"),
    (["--factor", "0.5"], "--factor"),
    ([*QUICK, "--dtype", "float64", "-o", "x.gif"], "must end in .png or .svg"),
    ([*QUICK, "--dtype", "float64", "-o", "no/such/x.svg"], "no/such"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_wrong_command_says_what_is_wrong(arguments: list[str], message: str) -> None:
    result = run(*arguments, *([] if "--impl" in arguments else ["--impl", "numpy"]))
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_mpmath_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    result = run(*QUICK)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: this needs mpmath: pip install mpmath\n"
