"""Cuts the arrays of many parameters into blocks that stay in cache, and puts blocks back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arith import Array, as_reals

CHUNK = 24 << 10
"""Elements of a block at most; with its temporaries it fits the second-level cache. No result depends on it."""


class Segment(NamedTuple):
    """Elements ``start`` to ``stop`` of the job of number ``job``."""

    job: int
    start: int
    stop: int


Block = list[Segment]
"""What is updated at once: a piece of one job, or several whole small ones."""


class Flats:
    """The operands of some jobs, flat: in C order, or in Fortran order where all arrays of a job have it."""

    def __init__(self, jobs: Sequence[Sequence[Array]]) -> None:
        self.jobs = [_flat(job) for job in jobs]

    def blocks(self, pack: bool) -> Iterator[Block]:
        """Cut the jobs into blocks; ``pack`` lets small ones share a block."""
        pending: Block = []
        room = CHUNK
        for job, operands in enumerate(self.jobs):
            size = len(operands[0])
            if pending and (size > room or not pack):
                yield pending
                pending, room = [], CHUNK
            if size > CHUNK:
                yield from ([Segment(job, i, min(i + CHUNK, size))] for i in range(0, size, CHUNK))
            elif size:
                pending.append(Segment(job, 0, size))
                room -= size
        if pending:
            yield pending

    def load(self, block: Block) -> list[Array]:
        """Return the operands of a block: views where they are one piece of memory, else copies."""
        if len(block) == 1:
            job, start, stop = block[0]
            return [x[start:stop] for x in self.jobs[job]]
        parts = [[x[start:stop] for x in self.jobs[job]] for job, start, stop in block]
        return [np.concatenate(operand) for operand in zip(*parts, strict=True)]

    def is_view(self, block: Block, operand: int) -> bool:
        """Tell whether ``load`` returns a view of an operand."""
        return len(block) == 1 and isinstance(self.jobs[block[0].job][operand], np.ndarray)

    def store(self, block: Block, operands: Sequence[int], values: Sequence[Array]) -> None:
        """Write new values of some operands of a block."""
        offset = 0
        for job, start, stop in block:
            flats = self.jobs[job]
            for operand, value in zip(operands, values, strict=True):
                flats[operand][start:stop] = value if len(block) == 1 else value[offset : offset + stop - start]
            offset += stop - start


def _flat(job: Sequence[Array]) -> list[Any]:
    """Return the elements of each array as something that is read and written by flat slices."""
    arrays = [x if type(x) is np.ndarray else np.asarray(x) for x in job]
    if arrays[0].ndim > 1 and all(x.flags.f_contiguous for x in arrays):
        arrays = [x.T for x in arrays]
    if arrays[0].dtype.kind == "c":
        arrays = [as_reals(x) for x in arrays]
    return [_line(x) if x.flags.c_contiguous else x.flat for x in arrays]


def _line(x: Array) -> Array:
    return x if x.ndim == 1 else x.reshape(-1)
