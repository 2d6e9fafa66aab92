"""Test settings: torch, where it is installed, starts as the IEEE witness, and the package is found in a checkout."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ["ATEN_CPU_CAPABILITY"] = "default"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests run side by side on the same processors

import refoptim
from helpers import ROOT

if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(str(ROOT))

from helpers.gpu_report import pytest_runtest_logreport as pytest_runtest_logreport
from helpers.gpu_report import pytest_sessionfinish as pytest_sessionfinish
from helpers.sampling import pytest_collection_modifyitems as pytest_collection_modifyitems
from ptx.stand_in import cupy_on_ptx as cupy_on_ptx
from refoptim.engines import cuda, host, nvrtc
from refoptim.optimizers import ahead, base


@pytest.fixture
def torch() -> Any:
    """Return torch, the live witness."""
    return pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows by one with each plan that is made."""
    made: list[Any] = []
    plan = base.make_plan

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return plan(*arguments)

    monkeypatch.setattr(base, "make_plan", counted)
    return made


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Return how often rules compute the scalars of each step, by its number, for steps that are repeated."""
    found: Counter[int] = Counter()
    own = ahead.step_scalars

    def noted(rule: Any, h: Any, k: int, *arguments: Any, **more: Any) -> Any:
        found[k] += 1
        return own(rule, h, k, *arguments, **more)

    monkeypatch.setattr(ahead, "step_scalars", noted)
    return found


@pytest.fixture(scope="session")
def ptx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where all processes of a session keep PTX that was compiled."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ptx"


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the stand-in for CuPy that needs no GPU."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "helpers" / "fake_cupy"))
    cuda.machine.cache_clear()
    yield importlib.import_module("cupy")
    cuda.machine.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        del sys.modules[name]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, fake_cupy: Any) -> list[str]:
    """Put a compiler in the place of NVRTC whose binaries the stand-in takes; return the list of what it compiles."""
    done: list[str] = []

    def compile(source: str, arch: str, *, major: int | None = None, flags: tuple[str, ...] = ()) -> bytes:  # noqa: A001
        assert major == 13
        (entry,) = (x[len("-DCHOSEN_") : -len("=~,1")] for x in flags if x.startswith("-DCHOSEN_"))
        done.append(arch)
        return fake_cupy._raw.MAGIC + f"{arch} {entry}".encode()

    monkeypatch.setattr(nvrtc, "compile", compile)
    monkeypatch.setattr(nvrtc, "version", lambda major: (major, 5))
    monkeypatch.setattr(nvrtc, "architectures", lambda major: [75, 80, 86, 89, 90, 100, 103, 110, 120, 121])
    return done


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_cupy: Any, compiled: list[str]) -> Iterator[Any]:
    """Return the stand-in, kernels being only counted, with an empty cache of binaries, and counters at zero."""
    monkeypatch.setenv("REFOPTIM_CACHE_DIR", str(tmp_path / "cache"))
    fake_cupy.world.counters, fake_cupy.world.runs = fake_cupy.Counters(), False
    yield fake_cupy
    assert fake_cupy.world.current == 0


@pytest.fixture
def gpu(idle: Any) -> Any:
    """Return the stand-in, with kernels that run."""
    if host.missing():
        pytest.skip(f"the stand-in runs the kernels for this computer, {host.missing()}")
    idle.world.runs = True
    return idle
