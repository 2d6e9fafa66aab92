"""Commands that compute refuse to in a process that loses subnormal numbers, and say what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.command_line import call
from helpers.processor import FLUSHING, needs_mxcsr

PROGRAM = f"""
import sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT)]!r}
import refoptim
if {str(ROOT)!r} not in refoptim.__path__:
    refoptim.__path__.append({str(ROOT)!r})
from helpers.processor import set_mxcsr
from refoptim.commands.main import main
set_mxcsr(0x1F80 | int(sys.argv.pop(1)))
main()
"""

pytestmark = [pytest.mark.platform, needs_mxcsr, pytest.mark.parametrize("flushing", FLUSHING)]


def run(flushing: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(FLUSHING[flushing]), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, "COLUMNS": "400"}, capture_output=True, text=True, check=False)


def refused(flushing: str, *arguments: str | Path) -> None:
    done = run(flushing, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert all(f"({x})" in done.stderr for x in flushing.split(" and ")), done.stderr
    assert "in this process" in done.stderr and "start a process without that" in done.stderr


def test_doctor_says_what_is_wrong(flushing: str) -> None:
    done = run(flushing, "doctor", "--json")
    document = json.loads(done.stdout)
    wrong = {x["name"]: x["value"] for x in document["findings"] if x["ok"] is False}
    assert (done.returncode, document["healthy"]) == (1, False)
    for dtype in ("float32", "float64"):
        assert all(f"({x})" in wrong[f"{dtype}: subnormals, rounding to nearest"] for x in flushing.split(" and "))


def test_no_golden_is_made_or_verified(flushing: str, tmp_path: Path) -> None:
    path, suite = tmp_path / "adam.npz", tmp_path / "suite"
    for name in ("adam", "lbfgs", "StepLR"):
        settings = ["--set", "step_size=3"] if name == "StepLR" else []
        refused(flushing, "golden", "generate", name, *settings, "-o", path)
        assert not path.exists()
    refused(flushing, "golden", "export-suite", suite, "--pattern", "sgd-plain")
    assert not list(suite.glob("*"))
    assert call("golden", "generate", "adam", "-o", path).exit_code == 0
    assert call("golden", "export-suite", suite, "--pattern", "sgd-plain").exit_code == 0
    for what in (path, suite, ROOT / "conformance/golden/reference/sgd.json"):
        refused(flushing, "golden", "verify", what)


def test_no_engine_is_blamed(flushing: str) -> None:
    refused(flushing, "conformance", "--pattern", "sgd-plain")


def test_no_error_is_measured(flushing: str) -> None:
    pytest.importorskip("mpmath", reason="mpmath, which accuracy computes with, is not installed")
    refused(flushing, "accuracy", "--pattern", "sgd", "--dtype", "float32", "--impl", "numpy", "--steps", "2")
