"""CuPy's stand-in with kernels as PTX: chosen, compiled, kept, loaded and launched by the engine for GPUs itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from refoptim.engines import cuda, nvrtc

from .machine import Known
from .module import Module

ARCH = "compute_90"


@cache
def loaded(path: str) -> Module:
    """Return the kernels of a file."""
    return Module(Path(path).read_bytes().rstrip(b"\0").decode())


@pytest.fixture
def cupy_on_ptx(monkeypatch: pytest.MonkeyPatch, fake_cupy: Any, ptx_folder: Path) -> Any:
    """Return the stand-in, whose kernels are executed on memory of which addresses were handed out."""
    try:
        major, _ = nvrtc.version()
    except RuntimeError as error:
        pytest.skip(str(error))
    known, pointer = Known(), fake_cupy._gpu.MemoryPointer

    def address(self: Any) -> int:
        known.add(self._x)
        return int(self._x.__array_interface__["data"][0])

    monkeypatch.setattr(pointer, "ptr", property(address))
    monkeypatch.setattr(fake_cupy.world, "version", 1000 * major)
    monkeypatch.setattr(fake_cupy, "RawModule", _module(fake_cupy, known))
    monkeypatch.setattr(cuda, "target", lambda capability, major: ARCH)
    monkeypatch.setenv("REFOPTIM_CACHE_DIR", str(ptx_folder / "cache"))
    return fake_cupy


def _module(cupy: Any, known: Known) -> Any:
    """Make the class of modules."""

    class Kernel(cupy._raw.RawKernel):  # type: ignore[misc]
        """A kernel that is executed instruction by instruction."""

        def __init__(self, module: Module, name: str) -> None:
            self.module, self.name = module, name

        @property
        def max_threads_per_block(self) -> int:
            return self.module.threads(self.name)

        def _run(self, blocks: int, slots: list[Any]) -> None:
            cupy.world.counters.launches.append(self.name)
            arguments = [x.tobytes() for x in slots]
            self.module.launch_on(known.arrays(), self.name, blocks, self.max_threads_per_block, arguments)

    class RawModule(cupy._raw.RawModule):  # type: ignore[misc]
        """A module of PTX."""

        def compile(self) -> None:
            cupy._gpu.check_device(cupy.world.current)
            loaded(self.path)

        def get_function(self, name: str) -> Kernel:
            return Kernel(loaded(self.path), name)

    return RawModule
