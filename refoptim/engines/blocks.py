"""Cuts the arrays of many parameters into blocks that stay in cache, and puts blocks back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, as_reals
from ..step.changes import Change

CHUNK = 24 << 10
"""Elements of a block at most; with its temporaries it fits the second-level cache. No result depends on it."""


class Piece(NamedTuple):
    """Elements ``start`` to ``stop`` of a large job."""

    job: int
    start: int
    stop: int


class Pack(list[int]):
    """Some small jobs, whole, side by side."""


Block = Piece | Pack
"""What is updated at once."""


class Flats:
    """The operands of some jobs, flat, as ``flat`` returns them."""

    def __init__(self, jobs: Sequence[Sequence[Any]]) -> None:
        self.jobs = jobs

    def blocks(self, pack: bool) -> Iterator[Block]:
        """Cut large jobs into pieces and put small ones together, each by itself unless ``pack``."""
        pending, room = Pack(), CHUNK
        for job, operands in enumerate(self.jobs):
            size = len(operands[0])
            if size > CHUNK:
                yield from (Piece(job, i, min(i + CHUNK, size)) for i in range(0, size, CHUNK))
            elif size:
                if pending and (size > room or not pack):
                    yield pending
                    pending, room = Pack(), CHUNK
                pending.append(job)
                room -= size
        if pending:
            yield pending

    def load(self, block: Block) -> list[Array]:
        """Return the operands of a block: views where they are one piece of memory, else copies."""
        if isinstance(block, Piece):
            return [x[block.start : block.stop] for x in self.jobs[block.job]]
        if len(block) == 1:
            return [x[:] for x in self.jobs[block[0]]]
        return [np.concatenate(operand) for operand in zip(*(self.jobs[job] for job in block), strict=True)]

    def is_view(self, block: Block, operand: int) -> bool:
        """Tell whether ``load`` returns a view of an operand."""
        if isinstance(block, Pack) and len(block) > 1:
            return False
        job = block.job if isinstance(block, Piece) else block[0]
        return isinstance(self.jobs[job][operand], np.ndarray)

    def changes(self, block: Block, operands: Sequence[int], values: Sequence[Array]) -> Iterator[Change]:
        """Yield what writes new values of some operands of a block."""
        if isinstance(block, Piece):
            for operand, value in zip(operands, values, strict=True):
                yield partial(setitem, self.jobs[block.job][operand], slice(block.start, block.stop), value)
            return
        offset = 0
        for flats in (self.jobs[job] for job in block):
            end = offset + len(flats[0])
            for operand, value in zip(operands, values, strict=True):
                yield partial(setitem, flats[operand], ..., value[offset:end])
            offset = end


def flat(job: Sequence[Array]) -> list[Any]:
    """Return the elements of each array as something that is read and written by flat slices.

    They are in C order, or in Fortran order where all arrays have it.
    """
    arrays = [x if type(x) is np.ndarray else np.asarray(x) for x in job]
    if arrays[0].ndim > 1 and all(x.flags.f_contiguous for x in arrays):
        arrays = [x.T for x in arrays]
    return [line(x) for x in arrays]


def line(x: Array) -> Any:
    """Return the reals of an array as something that is read and written by flat slices."""
    reals = as_reals(x)
    if reals.flags.c_contiguous:
        return reals if reals.ndim == 1 else reals.reshape(-1)
    return reals.flat
