"""The command refoptim conformance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from refoptim.conformance import run

from helpers.implementations import Late, Plain, named
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
        (("--pattern", "sgd-plain", "--report", "/no/such/folder/x.html"), "cannot write the report"),
    ]:
        done = command(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output

    def flushed() -> None:
        raise RuntimeError("float32 sums lose subnormals")

    monkeypatch.setattr(run, "check_arithmetic", flushed)
    done = command("--pattern", "sgd-plain")
    assert (done.exit_code, "lose subnormals" in done.output) == (2, True)
