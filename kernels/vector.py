"""Vectors on a machine: twins of ``refoptim/optimizers/vector.py``, and what launches over whole vectors share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, DType, name_of
from refoptim.numerics.array_types import HOST, moved
from refoptim.numerics.tree import WIDTH
from refoptim.step.changes import make

from .harness.sums import RUNS

PART = 1 << 12
"""Elements that a block works on in one go, as in ``vector.cuh``; no result depends on it."""


def blocks(n: int, part: int = PART) -> int:
    """Return the number of blocks for ``n`` elements, one at least."""
    return max(1, -(-n // part))


class Walks:
    """Launches that go over vectors of ``n`` elements and sum something; the sums stay where they are until read.

    Args:
        machine: where the vectors are.
        like: one of the vectors.
        count: how many sums there is room for, and numbers beside them.
    """

    def __init__(self, machine: Machine, like: Array, count: int) -> None:
        self.machine, self.shape, self.dtype, self.name = machine, like.shape, like.dtype, name_of(like.dtype)
        self.numbers = machine.empty((count,), like.dtype)
        self.levels = [*_levels(like.size)]
        self.memory = machine.empty((sum(self.levels),), like.dtype)
        self.kept: list[Array] = []

    def __call__(self, slot: int, stem: str, name: str, *arguments: Any) -> None:
        """Launch a kernel that sums run by run, and others that sum its sums; leave the sum in a slot."""
        given = [_vector(x, self.shape, self.dtype) if hasattr(x, "flags") and x.ndim else x for x in arguments]
        for file, entry, runs, n, to, source in self._rounds(stem, name, self.at(slot)):
            given = given if source is None else [source]
            self.machine.launch(file, entry, blocks(runs, RUNS), np.int64(n), to, *given)

    def series(self, slots: Array, stem: str, name: str, *columns: Array) -> None:
        """Do what calls with each of some slots would do; their arguments are given by columns."""
        rounds = []
        for file, entry, runs, n, to, source in self._rounds(stem, name, self.at(slots)):
            given = [np.int64(n), to, *(columns if source is None else [source])]
            launches = [np.broadcast_to(x, len(slots)) for x in given]
            rounds.append(self.machine.launchings(file, entry, blocks(runs, RUNS), *launches))
        make(chain.from_iterable(zip(*rounds, strict=True)))

    def _rounds(self, stem: str, name: str, last: Any) -> Iterator[tuple[str, str, int, int, Any, Any]]:
        """Yield for each round of sums its kernel, how many sums it makes of how many numbers, to where, and of what.

        The first round sums the arguments, None here.
        """
        n, at, source = self.shape[0], self.machine.address(self.memory), None
        for i, runs in enumerate(self.levels):
            to = np.uint64(at) if i + 1 < len(self.levels) else last
            yield stem, f"{name}_{self.name}", runs, n, to, source
            stem, name, n, at, source = "vector", "vector_fold", runs, at + runs * self.dtype.itemsize, to

    def at(self, slot: Any) -> Any:
        """Return the address of a number, or those of several."""
        place = self.machine.address(self.numbers) + slot * self.dtype.itemsize
        return place.astype(np.uint64) if isinstance(place, np.ndarray) else np.uint64(place)

    def addresses(self, vectors: Sequence[Array]) -> Array:
        """Return the addresses of vectors, which are kept as long as this."""
        lines = [_vector(x, self.shape, self.dtype) for x in vectors]
        self.kept += lines
        return np.array([*map(self.machine.address, lines)], np.uint64)

    def read(self) -> list[Any]:
        """Return all numbers, as NumPy scalars."""
        return list(moved(self.numbers, HOST))


def _levels(n: int) -> Iterator[int]:
    """Count the sums after each round of summing runs, down to one."""
    while True:
        n = blocks(n, WIDTH)
        yield n
        if n == 1:
            return


def _vector(x: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Return a vector as one piece of memory; raise ValueError if it does not fit the others."""
    if x.shape != shape or x.dtype != dtype:
        raise ValueError(f"a vector must have shape {shape} and dtype {dtype}, got {x.shape} and {x.dtype}")
    return _in_line(x)


def _in_line(x: Array) -> Array:
    return x if x.flags.c_contiguous and getattr(x.flags, "aligned", True) else x.copy(order="C")


def _like(machine: Machine, x: Array) -> Array:
    return machine.empty(x.shape, x.dtype)


def dot(machine: Machine, x: Array, y: Array) -> Any:
    """The sum of x * y."""
    sums = Walks(machine, x, 1)
    sums(0, "vector", "vector_dot", x, y)
    return sums.read()[0]


def sum_absolute(machine: Machine, x: Array) -> Any:
    """The sum of the absolute values."""
    sums = Walks(machine, x, 1)
    sums(0, "vector", "vector_absolute", x)
    return sums.read()[0]


def largest(machine: Machine, *vectors: Array) -> list[Any]:
    """The largest absolute value of each vector, found part by part."""
    numbers = machine.empty((len(vectors),), vectors[0].dtype)
    for slot, x in enumerate(vectors):
        x, dtype = _vector(x, vectors[0].shape, vectors[0].dtype), vectors[0].dtype
        at = machine.address(numbers) + slot * dtype.itemsize
        while True:
            parts = blocks(x.size)
            to = np.uint64(at) if parts == 1 else machine.empty((parts,), dtype)
            machine.launch("vector", f"vector_largest_{name_of(dtype)}", parts, np.int64(x.size), to, x)
            if parts == 1:
                break
            x = to
    return list(moved(numbers, HOST))


def negated(machine: Machine, x: Array) -> Array:
    """-x"""
    out = _like(machine, x)
    machine.launch("vector", f"vector_negated_{name_of(x.dtype)}", blocks(x.size), np.int64(x.size), out, x)
    return out


def downhill(machine: Machine, g: Array) -> tuple[Array, Any]:
    """Return the direction of steepest descent, -g, and the slope along it."""
    d, sums = _like(machine, g), Walks(machine, g, 1)
    sums(0, "vector", "vector_downhill", d, g)
    return d, sums.read()[0]


def move(machine: Machine, arrays: Sequence[Array], d: Array, t: Any, origin: Array | None) -> None:
    """Put arrays ``t`` times ``d`` away from ``origin``, or from where they are, all in one launch."""
    lines = [_in_line(x) for x in arrays]
    ends = np.cumsum([0, *(x.size for x in lines)])
    vectors = [x if x is None else _vector(x, (int(ends[-1]),), d.dtype) for x in (d, origin)]
    parts = [
        (machine.address(x) + i * x.itemsize, begin + i, min(PART, x.size - i))
        for x, begin in zip(lines, ends.tolist(), strict=False)
        for i in range(0, x.size, PART)
    ]
    if parts:
        table = machine.upload(np.array(parts, np.int64).T.ravel())
        entry, count = f"vector_move_{name_of(d.dtype)}", len(parts)
        machine.launch("vector", entry, count, table, np.int64(count), *vectors, d.dtype.type(t))
    for old, new in zip(arrays, lines, strict=True):
        if old is not new:
            old[...] = new
