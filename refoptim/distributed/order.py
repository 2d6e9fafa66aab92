"""The one order in which the pieces of a gradient are summed, however many ranks there are.

M pieces, numbered from 0, rank after rank, are summed in adjacent pairs: 0 + 1, 2 + 3, …; then the sums of these, and
so on; one that has no neighbour goes up as it is. 16-bit pieces are widened first. The sum depends on M and on the
order of the pieces, not on who has them.

A *block* ``(level, index)`` is the sum of the ``2**level`` pieces from ``index * 2**level`` on. A rank sums those of
its pieces that are whole blocks before it sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..engines.twins import twinned
from ..numerics.arith import Array, DType, arithmetic, widen
from ..numerics.array_types import at, place

Block: TypeAlias = tuple[int, int]
Sum: TypeAlias = Any
"""A number of an operand, or a pair of sums."""

CHUNK = 1 << 14
"""Elements that are summed at once; no result depends on it."""


def blocks(begin: int, end: int) -> list[Block]:
    """Return the largest blocks that make the pieces from ``begin`` to ``end``, in order."""
    found = []
    while begin < end:
        level = min((begin & -begin).bit_length() - 1 if begin else 64, (end - begin).bit_length() - 1)
        found.append((level, begin >> level))
        begin += 1 << level
    return found


def merged(sums: Mapping[Block, Sum], new: Iterable[tuple[Block, Sum]]) -> dict[Block, Sum]:
    """Return sums with new ones, neighbours put together."""
    found = dict(sums)
    for (level, index), value in new:
        while (level, index ^ 1) in found:
            other = found.pop((level, index ^ 1))
            value = (other, value) if index & 1 else (value, other)
            level, index = level + 1, index >> 1
        found[level, index] = value
    return found


def whole(sums: Mapping[Block, Sum]) -> Sum:
    """Return the sum of all pieces from those of blocks that make them all."""
    left = dict(sums)
    while len(left) > 1:
        level, index = min(left)
        value = left.pop((level, index))
        if (level, index ^ 1) in left:
            other = left.pop((level, index ^ 1))
            value = (other, value) if index & 1 else (value, other)
        left[level + 1, index >> 1] = value
    return next(iter(left.values()))


@twinned
def fold(expression: Sum, columns: Sequence[Sequence[Array]], outs: Sequence[Array], count: int = 1) -> None:
    """Write a sum of each column of vectors, divided by ``count``, into the vector of ``outs`` in its place.

    That may be one of the first two of its operands, which are read before anything is written over them.
    """
    for column, out in zip(columns, outs, strict=True):
        evaluate(expression, column, out, count)


def evaluate(expression: Sum, operands: Sequence[Array], out: Array, count: int = 1) -> None:
    """Write a sum of vectors, divided by ``count``, into ``out``; computed in the arithmetic type, and rounded once."""
    wide = arithmetic(out.dtype)
    scratch: list[Array] = []

    def value(term: Sum, cut: slice, target: Array | None, depth: int) -> Array:
        if not isinstance(term, tuple):
            return widen(operands[term][cut])
        left = value(term[0], cut, target, depth)
        right = value(term[1], cut, spare(depth, left), depth + 1)
        return left + right if target is None else np.add(left, right, out=target)

    def spare(depth: int, like: Array) -> Array | None:
        if not isinstance(like, np.ndarray):
            return None
        while len(scratch) <= depth:
            scratch.append(np.empty(CHUNK, wide))
        return scratch[depth][: like.size]

    with np.errstate(all="ignore"), at(place(out)):
        for begin in range(0, out.size, CHUNK):
            cut = slice(begin, begin + CHUNK)
            part = out[cut]
            in_place = isinstance(out, np.ndarray) and out.dtype == wide
            x = value(expression, cut, part if in_place else spare(0, part), 1)
            _write(part, x, count, wide)


def _write(part: Array, x: Array, count: int, wide: DType) -> None:
    """Write the quotient of a sum and a number; to multiply by the inverse of a power of two is faster."""
    number = wide.type(count)
    if count == 1:
        if x is not part:
            part[...] = x
    elif isinstance(part, np.ndarray) and part.dtype == wide:
        np.multiply(x, 1 / number, out=part) if count & (count - 1) == 0 else np.divide(x, number, out=part)
    else:
        part[...] = x / number
