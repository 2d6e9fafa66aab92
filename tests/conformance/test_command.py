"""The command refoptim conformance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from refoptim.conformance import cases, run

from helpers.implementations import CASES, Late, Loses, Plain, named, results
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
    assert "All promises hold." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_command_fails_where_a_promise_is_broken(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Late), "--pattern", "SGD-PLAIN", "--dtype", "float64")
    assert done.exit_code == 1
    assert "FAILS: sgd-plain float64" in done.output
    assert "step 7, param.1 [2, 3]" in done.output
    assert "\x1b" not in done.output
    assert done.output.endswith("1 promise is broken\n")


def test_a_broken_promise_comes_with_the_mistakes_that_its_case_catches(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = ("--impl", named(Late), "--pattern", "sgd-plain")
    caught = {flag: cases.flags()[flag] for flag in CASES["sgd-plain"].flags}
    assert caught
    lines = command(*arguments).stdout.splitlines()
    after = next(i for i, line in enumerate(lines) if line.startswith("FAILS: sgd-plain float64")) + 1
    assert lines[after : after + 1 + len(caught)] == ["this case catches:", *(f"  {k}: {x}" for k, x in caught.items())]
    document = json.loads(command(*arguments, "--json", "--report", str(tmp_path / "r.html")).stdout)
    assert [r["catches"] for r in document["results"] if r["outcome"] == run.FAILS] == [caught]
    assert [r["flags"] for r in document["results"] if r["outcome"] == run.FAILS] == [[]]
    assert not [r for r in document["results"] if r["outcome"] != run.FAILS and r["catches"]]
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert all(f"<b>{flag}</b>" in text for flag in caught)


def test_the_mistakes_follow_the_last_line_of_a_case(command: Callable[..., Any]) -> None:
    lines = command("--impl", named(Loses), "--pattern", "radam-coupled").stdout.splitlines()
    fails = [i for i, line in enumerate(lines) if line.startswith("FAILS: radam-coupled-decay ")]
    assert len(fails) > 1 and fails == [*range(fails[0], fails[-1] + 1)]
    assert [i for i, line in enumerate(lines) if line == "this case catches:"] == [fails[-1] + 1]


def test_rows_in_which_nothing_ran_are_counted_and_not_shown(command: Callable[..., Any]) -> None:
    found = results(named(Plain), "sgd")
    rows, ran = ({(r.optimizer, r.dtype) for r in found if r.ran or not only} for only in (False, True))
    lines = command("--impl", named(Plain), "--pattern", "sgd").stdout.splitlines()
    table = [line for line in lines if "\t" in line]
    assert table == [f"optimizer\tstorage\t{named(Plain)}", "SGD\tfloat64\tEXACT"]
    assert f"{len(rows) - len(ran)} rows are left out, in which nothing ran: why is said below" in lines
    assert f"{len(found) - 1} not run, {named(Plain)}: plain descent in float64 alone" in lines
    assert lines[-1] == "all promises hold"


def test_engines_say_why_something_was_not_run(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "lacking", lambda dtype: "no such storage" if dtype == "bfloat16" else "")
    done = command("--engine", "numpy", "--pattern", "sgd-plain")
    assert "SGD\tbfloat16\t" in done.stdout and "left out" not in done.stdout
    assert "\n1 not run, numpy: no such storage\n" in done.stdout


def test_the_last_line_says_that_there_are_no_kernels(command: Callable[..., Any], bare: None) -> None:
    def last(*more: str) -> str:
        return str(command("--pattern", "sgd-plain", "--dtype", "float64", *more).stdout.splitlines()[-1])

    assert last().startswith("host not run: its kernels were not built") and last().endswith(" (refoptim doctor)")
    assert last("--engine", "numpy") == last("--impl", named(Plain)) == "all promises hold"


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
        (("--impl", named(Plain), "--pattern", "adam-coupled"), "nothing could be run: plain descent in float64 alone"),
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
