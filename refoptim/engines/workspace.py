"""The memory that a step works in, all of it there before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..numerics.arith import Array, DType
from ..step.changes import NO_MEMORY, Change, make_insisting

T = TypeVar("T")

ROOM = 3 << 20
"""Bytes of new values that a step may hold until all are known; what is larger is updated in place, block by block."""

RESERVE = 1 << 20
"""Bytes that are given up where memory runs out after the first write."""

UNFINISHED = RuntimeError("an error came between its writes")
"""Marks what has begun to write; what keeps it from its end leaves the mark."""


class Workspace:
    """Buffers that the buckets of one step use in turn, and what went wrong on the threads that used them.

    Attributes:
        room: bytes of new values that may still be held.
        failures: errors that left arrays half updated.
        used: what must live until the changes of the step have been made.
    """

    def __init__(self) -> None:
        self.room = ROOM
        self.failures: list[BaseException] = []
        self.used: list[Any] = []
        self._buffers: dict[tuple[int, int, DType], Array] = {}
        self._reserve: list[Array] = []

    def takes(self, size: int) -> bool:
        """Tell whether there is room for so many bytes of new values, and set them aside then."""
        if size > self.room:
            return False
        self.room -= size
        return True

    def buffers(self, worker: int, dtypes: Sequence[DType], size: int) -> list[Array]:
        """Return buffers of ``size`` elements for a worker, the same ones for each bucket."""
        return [self._buffer((worker, i, dtype), size) for i, dtype in enumerate(dtypes)]

    def _buffer(self, key: tuple[int, int, DType], size: int) -> Array:
        if key not in self._buffers or len(self._buffers[key]) < size:
            self._buffers[key] = np.empty(size, key[-1])
        return self._buffers[key][:size]

    def keep_reserve(self) -> None:
        """Set memory aside that can be given up later."""
        self._reserve = self._reserve or [np.empty(RESERVE, np.uint8)]

    def insist(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that changes nothing if it fails, again without the reserve if there was no memory for it."""
        try:
            return function(*arguments)
        except NO_MEMORY:
            self._reserve.clear()
            return function(*arguments)

    def make(self, changes: Iterable[Change], owner: Any = None) -> None:
        """Make the changes that need this workspace, and raise what went wrong; floating-point flags raise nothing.

        A failure leaves its mark in ``_torn`` of the owner of what is changed.
        """
        with np.errstate(all="ignore"):
            self.make_quietly(changes, owner)

    def make_quietly(self, changes: Iterable[Change], owner: Any = None) -> None:
        """Make changes where floating-point flags raise nothing."""
        begin = [partial(self.failures.append, UNFINISHED)]
        if owner is not None:
            begin.append(partial(setattr, owner, "_torn", self.failures))
        make_insisting([*begin, *changes, partial(self.failures.remove, UNFINISHED)], self._reserve.clear)
        if self.failures:
            raise self.failures[0]
