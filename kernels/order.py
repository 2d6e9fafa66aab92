"""The sum of the pieces of a gradient, a launch for all vectors whose pieces have the same dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.engines.fused import in_line
from refoptim.engines.machine import Machine, Recorder
from refoptim.numerics.arith import Array, DType, arithmetic

from .harness.tables import Table

WAITING = 8
"""Sums that can wait at once in a kernel, as in ``order.cu``; of more a part is summed by itself."""


def fold(
    machine: Machine, expression: Any, columns: Sequence[Sequence[Array]], outs: Sequence[Array], count: int = 1
) -> None:
    """Write a sum of each column of vectors, divided by ``count``, into the vector of ``outs`` in its place."""
    if waiting(expression) > WAITING:
        halves = [_alone(machine, half, columns, outs) for half in expression]
        expression, columns = (0, 1), list(zip(*halves, strict=True))
    steps = joins(expression)
    groups: dict[tuple[DType, ...], list[list[Array]]] = {}
    for column, out in zip(columns, outs, strict=True):
        vectors = [out, *(column[i] for i, _ in steps)]
        groups.setdefault(tuple(x.dtype for x in vectors), []).append(vectors)
    for dtypes, group in groups.items():
        _launch(machine, dtypes, [n for _, n in steps], group, count)


def waiting(expression: Any) -> int:
    """Return how many sums wait for others at once while an expression is computed from left to right."""
    if not isinstance(expression, tuple):
        return 0
    return max(waiting(expression[0]), 1 + waiting(expression[1]))


def joins(expression: Any) -> list[tuple[int, int]]:
    """Return the operands of a sum in order, and with how many sums that wait each is joined."""
    if not isinstance(expression, tuple):
        return [(expression, 0)]
    *others, (last, n) = joins(expression[1])
    return [*joins(expression[0]), *others, (last, n + 1)]


def _alone(machine: Machine, expression: Any, columns: Sequence[Sequence[Array]], outs: Sequence[Array]) -> list[Array]:
    """Return a part of the sums, in the arithmetic type."""
    found = [machine.empty(x.shape, arithmetic(x.dtype)) for x in outs]
    fold(machine, expression, columns, found)
    return found


def _launch(
    machine: Machine, dtypes: Sequence[DType], joined: Sequence[int], group: Sequence[Sequence[Array]], count: int
) -> None:
    """Sum pieces of the same dtypes; each of ``group`` has the vector of the sum, and then its pieces."""
    wide = arithmetic(dtypes[0])
    narrow = {x.name for x in dtypes} - {wide.name} or {wide.name}
    (name,) = narrow
    keeper = Recorder(machine)
    lines = [[in_line(machine, x) for x in vectors] for vectors in group]
    is_wide = [name != wide.name and x == wide for x in dtypes]
    steps = np.array([2 * n + w for n, w in zip(joined, is_wide[1:], strict=True)], np.int32)
    table = Table(keeper, [(x[0].size, *map(machine.address, x)) for x in lines])
    share = 1 / wide.type(count) if count & (count - 1) == 0 else wide.type(0)
    arguments = keeper.upload(steps), np.int64(len(steps)), np.int64(is_wide[0]), wide.type(count), share
    table.launch("order", f"order_sums_{name}", table.bucket((0, 0, 0, 0)), *arguments, on=machine)
    for vectors, found in zip(group, lines, strict=True):
        if found[0] is not vectors[0]:
            vectors[0][...] = found[0]
