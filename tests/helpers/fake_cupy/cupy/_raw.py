"""Modules of kernels: a binary is only looked at, and its kernels are those of the library for this computer."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from refoptim.engines import host

from . import _gpu
from ._array import ndarray
from ._gpu import world

MAGIC = b"binary for the stand-in\n"
"""What a binary begins with; the architecture and the name of its kernel follow."""

THREADS = 384
"""The threads that kernels were "compiled" for; a launch with more fails on a GPU."""


class CUDADriverError(RuntimeError):
    """An error of CUDA's driver."""


class RawModule:
    """A module, given by its path: source is refused, for CuPy would compile it with flush-to-zero."""

    def __init__(self, *, code: str | None = None, path: str | None = None, options: tuple[str, ...] = ()) -> None:
        assert code is None and path is not None and not options
        self.path = path

    def compile(self) -> None:
        """Load the module on the current GPU."""
        _gpu.check_device(world.current)
        if not Path(self.path).read_bytes().startswith(MAGIC):
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        if Path(self.path).read_text().split()[-1] != name:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(name)


class RawKernel:
    """A kernel of the library for this computer."""

    def __init__(self, name: str) -> None:
        self.name = name
        if world.runs:
            machine = host.machine()
            self.entry = getattr(machine.kernels, f"{machine.variant}_{name}")

    @property
    def max_threads_per_block(self) -> int:
        return THREADS

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        assert grid[0] <= (1 << 31) - 1 and block[0] <= THREADS, "CUDA_ERROR_INVALID_VALUE"
        slots = [_slot(x) for x in args]
        stream = _gpu.get_current_stream()
        counters = world.counters
        counters.devices.append(world.current)
        counters.streams.append(stream.ptr)
        counters.grids.append(grid[0])
        if stream.graph is not None:
            stream.graph.work.append(lambda: self._run(grid[0], slots))
        else:
            with _gpu.order:
                stream.run()
                self._run(grid[0], slots)

    def _run(self, blocks: int, slots: list[Any]) -> None:
        world.counters.launches.append(self.name)
        addresses = np.array([x.ctypes.data for x in slots], np.uintp)
        if world.runs:
            self.entry(ctypes.c_longlong(blocks), ctypes.c_int(1), ctypes.c_void_p(addresses.ctypes.data))


def _slot(x: Any) -> Any:
    """Return what a kernel gets of an argument: what an array of NumPy's holds, the address of one of CuPy's."""
    if x is None:
        return np.array(0, np.uintp)
    if isinstance(x, ndarray):
        assert x._device == world.current, "an address of another GPU"
        return np.array(x.data.ptr, np.uintp)
    if isinstance(x, np.ndarray) and x.size == 1:
        return x.copy()
    raise TypeError(f"Unsupported type {type(x)}")
