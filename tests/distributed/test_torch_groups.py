"""Ranks that are processes of torch.distributed, with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, ranks

torch = pytest.importorskip("torch", reason="torch is not installed")

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

PROGRAM = ROOT / "tests" / "helpers" / "mpi_ranks.py"


def outcome(tmp_path: Path, size: int, *arguments: str) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), f"torch:{size}:{tmp_path / 'meeting'}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.mpi
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_each_kind_of_optimizer_has_the_bits_of_one_process(tmp_path: Path, size: int) -> None:
    found = outcome(tmp_path, size, "few")
    for name in ("AdamW", "Adafactor", "SparseAdam"):
        assert found[name] == ranks.plain_run(name, "float32"), name
    assert found["LBFGS"] == ranks.plain_minimum(size, "LBFGS", "float64", line_search_fn="strong_wolfe")


def test_a_rank_that_fails_is_named(tmp_path: Path) -> None:
    found = outcome(tmp_path, 2, "fault")
    assert "rank 1" in found["told"][0]
    assert found["told"][1].startswith("ValueError")
    assert found["same"]
