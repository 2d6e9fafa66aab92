"""The sum of the pieces of a gradient, a launch for all vectors whose pieces have the same dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from operator import is_not
from typing import Any, NamedTuple

import numpy as np

from refoptim.engines.fused import in_line
from refoptim.engines.host import Host, StandingLaunch
from refoptim.engines.machine import Machine, Recorder
from refoptim.numerics.arith import Array, DType, arithmetic
from refoptim.numerics.tree import operands

from .harness.tables import Table

PIECES = 8
"""The most pieces of a step, as in ``order.cu``."""

WAITING = 8
"""Sums that can wait at once in a kernel, as in ``order.cu``; of more a part is summed by itself."""

CACHED = 1 << 20
"""Bytes of sums that a host leaves in its caches; more is written past them. No result depends on it."""

NO_STEP = (0, 0, 0, 0)
"""What a bucket says of a step, of which a sum knows nothing."""

PLANS = 64
"""Sums whose tables are kept, for vectors that come to lie where others lay: buffers, step after step."""


class Step(NamedTuple):
    """``pieces`` that are summed in adjacent pairs, and joined with sums that wait."""

    pieces: int
    joins: int
    is_wide: bool


def fold(
    machine: Machine, expression: Any, columns: Sequence[Sequence[Array]], outs: Sequence[Array], count: int = 1
) -> None:
    """Write a sum of each column of vectors, divided by ``count``, into the vector of ``outs`` in its place.

    That may be one of the first two of its operands.
    """
    if waiting(expression) > WAITING:
        halves = [_alone(machine, half, columns, outs) for half in expression]
        expression, columns = (0, 1), list(zip(*halves, strict=True))
    order, copied = in_order(expression), []
    groups: dict[tuple[DType, ...], list[tuple[int, ...]]] = {}
    for column, out in zip(columns, outs, strict=True):
        vectors = [out, *map(column.__getitem__, order)]
        lines = [in_line(machine, x) for x in vectors]
        groups.setdefault(tuple([x.dtype for x in lines]), []).append((out.size, *map(machine.address, lines)))
        if any(map(is_not, lines, vectors)):
            copied.append((out, lines))
    for dtypes, rows in groups.items():
        planned(machine, expression, dtypes, count, tuple(rows)).launch(machine)
    for out, (line, *_) in copied:
        if line is not out:
            out[...] = line


in_order = cache(operands)
"""The operands of an expression."""


@cache
def waiting(expression: Any) -> int:
    """Return how many sums wait for others at once while an expression is computed from left to right."""
    if not isinstance(expression, tuple):
        return 0
    return max(waiting(expression[0]), 1 + waiting(expression[1]))


def program(expression: Any, is_wide: Mapping[int, bool]) -> list[Step]:
    """Return the steps of a sum; it is told of the operands by number whether they are in the arithmetic type."""
    if not isinstance(expression, tuple):
        return [Step(1, 0, is_wide[expression])]
    left, right = (program(x, is_wide) for x in expression)
    if len(left) == len(right) == 1 and _are_one(left[0], right[0]):
        return [left[0]._replace(pieces=left[0].pieces + right[0].pieces)]
    return [*left, *right[:-1], right[-1]._replace(joins=right[-1].joins + 1)]


def _are_one(left: Step, right: Step) -> bool:
    """Tell whether two steps that are added are one: the first is of the largest power of two below both together."""
    pieces = left.pieces + right.pieces
    return left.is_wide == right.is_wide and pieces <= PIECES and left.pieces == 1 << (pieces - 1).bit_length() - 1


def _alone(machine: Machine, expression: Any, columns: Sequence[Sequence[Array]], outs: Sequence[Array]) -> list[Array]:
    """Return a part of the sums, in the arithmetic type."""
    found = [machine.empty(x.shape, arithmetic(x.dtype)) for x in outs]
    fold(machine, expression, columns, found)
    return found


class Compiled(NamedTuple):
    """What is launched for pieces of some dtypes: the entry, its program, and whether the sum is wide."""

    entry: str
    steps: int
    coded: Array
    is_wide: bool
    number: type


@cache
def compiled(expression: Any, dtypes: tuple[DType, ...]) -> Compiled:
    """Return what sums pieces; the first dtype is that of the sum."""
    wide = arithmetic(dtypes[0])
    (name,) = {x.name for x in dtypes} - {wide.name} or {wide.name}
    wide_sum, *are_wide = (name != wide.name and x == wide for x in dtypes)
    steps = program(expression, dict(zip(operands(expression), are_wide, strict=True)))
    coded = np.array([x.joins << 5 | x.pieces << 1 | x.is_wide for x in steps], np.int32)
    return Compiled(f"order_sums_{name}", len(steps), coded, wide_sum, wide.type)


class Plan:
    """The launch that sums pieces at some addresses, made as often as pieces come to lie there."""

    def __init__(self, table: Table, found: Compiled, numbers: Sequence[Any]) -> None:
        self.table, self.entry, self.coded, self.numbers = table, found.entry, found.coded, numbers
        self.standing = self._standing(table.machine) if isinstance(table.machine, Host) else []

    def _standing(self, machine: Host) -> list[StandingLaunch]:
        """Return the launch on this computer: to write it down each time took a tenth of four million sums."""
        chunks, program = self.table.chunks, np.uintp(machine.address(self.coded))
        if not chunks.count:
            return []
        arguments = [*map(np.asarray, (self.table.bucket(NO_STEP), program, *self.numbers))]
        return [machine.standing(self.entry, chunks.count, *arguments, elements=chunks.elements)]

    def launch(self, machine: Machine) -> None:
        """Sum."""
        for standing in self.standing:
            standing.now()()
        if not isinstance(machine, Host):
            keeper = Recorder(machine)
            bucket = self.table.bucket(NO_STEP, keeper)
            self.table.launch("order", self.entry, bucket, keeper.upload(self.coded), *self.numbers)


@lru_cache(maxsize=PLANS)
def planned(
    machine: Machine, expression: Any, dtypes: tuple[DType, ...], count: int, rows: tuple[tuple[int, ...], ...]
) -> Plan:
    """Return what sums pieces at some addresses; each of ``rows`` has a size, and addresses of a sum and its pieces."""
    found = compiled(expression, dtypes)
    in_place = any(out in pieces for _, out, *pieces in rows)
    past_caches = not in_place and sum(size for size, *_ in rows) * dtypes[0].itemsize > CACHED
    share = 1 / found.number(count) if count & (count - 1) == 0 else found.number(0)
    flags = map(np.int64, (found.steps, found.is_wide, past_caches))
    return Plan(Table(machine, rows), found, (*flags, found.number(count), share))
