"""What threads read and write: arrays of this computer, and the shared and local memory that a launch makes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from .faults import MemoryFault, Uninitialized

GARBAGE = 0xA5
"""What each byte of a register, or of memory that nobody has written, holds."""

LOWEST, HIGHEST = 1 << 12, 1 << 47

WINDOWS = {"global": 0, "local": 1 << 60, "shared": 1 << 61}
"""What is added to an address in each space to make a generic one."""

WHOLE = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)} | {16: np.dtype("c16")}
"""What is copied at once for so many bytes; copies of complex numbers keep all bits."""


class Bytes:
    """Memory; rows of bytes are taken from addresses, and put there."""

    def __init__(self, memory: Any) -> None:
        self.wholes = {size: memory.view(dtype) for size, dtype in WHOLE.items()}

    def take(self, address: Any, size: int) -> Any:
        """Return the bytes from each address on, a row for each."""
        return self.wholes[size][address // size].view(np.uint8).reshape(len(address), size)

    def put(self, address: Any, rows: Any) -> None:
        """Write a row of bytes from each address on."""
        size = rows.shape[1]
        self.wholes[size][address // size] = np.ascontiguousarray(rows).view(WHOLE[size])[:, 0]


@cache
def of_process() -> Bytes:
    """Return the memory of this process, from the address ``LOWEST`` on."""
    return Bytes(np.frombuffer(memoryview((ctypes.c_ubyte * (HIGHEST - LOWEST)).from_address(LOWEST)), np.uint8))


class Area:
    """Shared memory, one row a block, or local memory, one row a thread; it is known which bytes have been written."""

    def __init__(self, rows: int, size: int) -> None:
        self.size, self.stride = size, -(-size // 16) * 16
        memory = np.empty(rows * self.stride // 16, "c16").view(np.uint8)
        memory[:] = GARBAGE
        self.bytes, self.known = Bytes(memory), Bytes(np.zeros_like(memory.view("c16")).view(np.uint8))

    def place(self, row: Any, address: Any, size: int, text: str) -> Any:
        """Return where an access begins."""
        if len(address) and (int(address.min()) < 0 or int(address.max()) + size > self.size):
            raise MemoryFault(f"{text}: beyond shared or local memory, or parameters, of {self.size} bytes")
        return row * self.stride + address

    def take(self, place: Any, size: int, text: str) -> Any:
        """Return the bytes at places; all must have been written."""
        if not self.known.take(place, size).all():
            raise Uninitialized(f"{text}: a read of what nobody has written")
        return self.bytes.take(place, size)

    def put(self, place: Any, rows: Any) -> None:
        """Write bytes to places."""
        self.bytes.put(place, rows)
        self.known.put(place, np.ones_like(rows))


class Arrays:
    """The arrays that a kernel may touch, by the ranges of their addresses; those that overlap become one.

    An access is where in all arrays, one after the other, it begins: ``where`` says so.
    """

    def __init__(self, ranges: Iterable[tuple[int, int, bool]]) -> None:
        """Take the first address of each array, the one after its last, and whether it may be written."""
        merged: list[list[int]] = []
        for low, high, writeable in sorted(x for x in ranges if x[0] < x[1]):
            if merged and low < merged[-1][1]:
                merged[-1] = [merged[-1][0], max(merged[-1][1], high), merged[-1][2] | writeable]
            else:
                merged.append([low, high, writeable])
        self.low, self.high, self.writeable = np.array(merged or [[0, 0, 0]], np.int64).T
        spans = (self.high - self.low // 16 * 16 + 15) // 16 * 16
        self.begin = np.cumsum(spans) - spans + self.low % 16

    @classmethod
    def of(cls, arrays: Iterable[Any]) -> Arrays:
        """Let a kernel touch the bytes of these arrays, gaps between their numbers included."""
        return cls([(*np.lib.array_utils.byte_bounds(x), x.flags.writeable) for x in arrays if x.size])

    def where(self, address: Any, size: int, write: bool, text: str) -> Any:
        """Return where accesses begin, counted in all arrays; MemoryFault if one is outside of them."""
        first, last = int(address.min()), int(address.max())
        at: Any = int(np.searchsorted(self.low, first, "right")) - 1
        if at < 0 or last + size > self.high[at]:
            at = np.searchsorted(self.low, address, "right") - 1
        outside = (at < 0) | (address + size > self.high[at])
        if outside.any():
            beyond = int(address[int(np.argmax(outside))])
            raise MemoryFault(f"{text}: {size} bytes at {beyond:#x} are in no array ({self._nearest(beyond)})")
        if write and not self.writeable[at].all():
            raise MemoryFault(f"{text}: the array is not to be written")
        return address - self.low[at] + self.begin[at]

    def _nearest(self, address: int) -> str:
        at = int(np.searchsorted(self.low, address, "right")) - 1
        return "before all of them" if at < 0 else f"{address - self.high[at]} after the end of one"

    def take(self, address: Any, size: int, text: str) -> Any:
        """Return the bytes at addresses."""
        return of_process().take(address - LOWEST, size)

    def put(self, address: Any, rows: Any) -> None:
        """Write bytes to addresses."""
        of_process().put(address - LOWEST, rows)
