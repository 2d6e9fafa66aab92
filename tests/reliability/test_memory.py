"""Where memory runs out, at whatever allocation, nothing is left half done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from helpers.kernels import NEEDS_KERNELS

SOURCE = ROOT / "tests" / "helpers" / "failing_malloc.c"

pytestmark = [
    NEEDS_KERNELS,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libraries are preloaded as on Linux"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="the library whose allocations fail needs gcc"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that lets allocations fail."""
    path = tmp_path_factory.mktemp("memory") / "failing_malloc.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE), "-ldl"], check=True)
    return path


def starved(library: Path, stride: int, *names: str) -> Any:
    """Let every ``stride``-th allocation of trials fail, and return what came of it."""
    script = str(SOURCE.with_name("short_of_memory.py"))
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, str(stride), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_allocation_of_some_trials(library: Path) -> None:
    names = ["Adam, step 3", "NAdam, threads", "Adafactor, threads", "SGD, step 1, kernels", "SGD, load_state_dict"]
    came = starved(library, 1, *names)
    assert came["wrong"] == []
    assert came["faults"] > 100


@pytest.mark.faults
def test_every_allocation(library: Path) -> None:
    came = starved(library, 1)
    assert came["wrong"] == []
    assert came["faults"] > 3000
