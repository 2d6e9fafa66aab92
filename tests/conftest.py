"""Test settings: torch, where it is installed, starts as the IEEE witness, and the package is found in a checkout."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ["ATEN_CPU_CAPABILITY"] = "default"

import refoptim

if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(str(Path(__file__).parents[1]))

from gpu_report import pytest_runtest_logreport as pytest_runtest_logreport
from gpu_report import pytest_sessionfinish as pytest_sessionfinish


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the stand-in for CuPy that needs no GPU."""
    from refoptim.engines import cuda

    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("fake_cupy")))
    cuda.machine.cache_clear()
    yield importlib.import_module("cupy")
    cuda.machine.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        del sys.modules[name]
