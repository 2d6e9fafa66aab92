"""Memory that is used again: new memory costs more than what is done with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import filled

UNIT = 1 << 16
"""Bytes of which memory is a multiple."""


class Buffers:
    """Vectors that are lent and given back; on a GPU, where CuPy does that itself, they are made anew."""

    def __init__(self) -> None:
        self._free: dict[int, list[Array]] = {}
        self._lent: dict[int, Array] = {}

    def take(self, n: int, dtype: Any, beside: Array) -> Array:
        """Return a vector of ``n`` numbers that lies where an array does; what it holds is anything."""
        dtype = np.dtype(dtype)
        if not isinstance(beside, np.ndarray):
            return filled(beside, (n,), 0, dtype)
        size = -(-n * dtype.itemsize // UNIT) * UNIT
        free = self._free.get(size)
        memory = free.pop() if free else np.empty(size, np.uint8)
        found: Array = memory[: n * dtype.itemsize].view(dtype)
        if n:
            self._lent[_address(found)] = memory
        return found

    def copy(self, x: Array) -> Array:
        """Return a copy of a vector."""
        found = self.take(x.size, x.dtype, x)
        found[...] = x
        return found

    def give(self, x: Array | None) -> None:
        """Take back a vector, if it is one that was lent."""
        if isinstance(x, np.ndarray) and x.size:
            memory = self._lent.pop(_address(x), None)
            if memory is not None:
                self._free.setdefault(memory.size, []).append(memory)


def _address(x: Array) -> int:
    found: int = x.__array_interface__["data"][0]
    return found


def wide(dtype: DType | None) -> int:
    """Return the bytes of a number of a dtype, 0 for none."""
    return dtype.itemsize if dtype is not None else 0
