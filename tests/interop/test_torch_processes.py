"""Optimizers of torch that are refoptim's, in two processes: DDP, ZeroRedundancyOptimizer, FSDP2 with DCP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

SCRIPT = ROOT / "tests" / "helpers" / "torch_ranks.py"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run all ways in one pair of processes; return what went wrong in each."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    paths = [str(ROOT), str(Path(SCRIPT).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(meeting)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["data_parallel", "zero_redundancy", "fully_sharded", "needs_whole"])
def test_two_processes(way: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[way], outcomes[way]
