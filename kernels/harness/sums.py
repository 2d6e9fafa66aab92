"""Sums in the order of the tree, of any number of arrays in a few launches: one for each level of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refoptim.engines.launches import shared_out
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, DType
from refoptim.numerics.tree import WIDTH

RUNS = 16
"""Runs that a block folds at once, as in ``tree.cuh``; no result depends on it."""

SUMMED = ("harness/sums", "sums")
"""The file and the first part of the name of the kernels that add values as they are."""

SUMS = np.dtype([("tables", np.uint64), ("sums", np.int64), ("tiles", np.int64)])
"""The struct of that name in ``tree.cuh``."""


class Along(NamedTuple):
    """A sum along the axis of length n, of arrays of shape ``(outer, n, inner)`` at these addresses."""

    addresses: tuple[int, ...]
    outer: int
    n: int
    inner: int

    def runs(self) -> int:
        """Return the number of runs along the axis; the sum of nothing is a run too."""
        return max(1, -(-self.n // WIDTH))

    def tiles(self) -> int:
        """Return the number of blocks' work."""
        if self.inner == 1:
            return -(-self.outer * self.runs() // RUNS)
        return self.outer * self.runs() * -(-self.inner // RUNS)

    def of_runs(self) -> Along:
        """Return the sum over the sums of the runs."""
        return Along((), self.outer, self.runs(), self.inner)


def total(addresses: Sequence[int], n: int) -> Along:
    """Return the sum over n elements."""
    return Along(tuple(addresses), 1, n, 1)


class Sums:
    """The launches of some sums, ready to be repeated: tables and memory are made once.

    Args:
        machine: where the arrays are.
        dtype: the arithmetic type.
        sums: what is summed; all have the same number of arrays.

    Attributes:
        results: where the result of each sum is; they lie side by side, in the order of the sums.
    """

    def __init__(self, machine: Machine, dtype: DType, sums: Sequence[Along]) -> None:
        self.machine, self.dtype = machine, dtype
        levels = _levels(sums)
        sizes = np.array([x.outer * x.runs() * x.inner for level in levels for x in level], np.int64)
        self.memory = machine.empty((int(sizes.sum()),), dtype)
        starts = machine.address(self.memory) + dtype.itemsize * (np.cumsum(sizes) - sizes)
        outputs = starts.reshape(len(levels), -1)
        inputs = [np.array([x.addresses for x in levels[0]], np.uint64).view(np.int64).T, *outputs[:-1, None]]
        tables = [_table(*level) for level in zip(levels, inputs, outputs, strict=True)]
        self.table = machine.upload(np.concatenate([table for table, _ in tables]))
        at = machine.address(self.table) + 8 * np.cumsum([0, *(len(table) for table, _ in tables)])
        self.levels = [
            np.array((start, len(sums), tiles), SUMS)[()] for start, (_, tiles) in zip(at, tables, strict=False)
        ]
        self.elements = [sum(x.outer * x.n * x.inner for x in level) for level in levels]
        self.results: list[int] = outputs[-1].tolist()

    def launch(self, stem: str, entry: str, *arguments: Any, others: tuple[str, str] = SUMMED) -> None:
        """Sum what a kernel makes of the arrays; it takes ``arguments`` and, at last, a ``Sums``.

        ``others`` are the file and the name of the kernels that sum up what it leaves.
        """
        self._launch(0, stem, entry, *arguments)
        for i in range(1, len(self.levels)):
            self._launch(i, others[0], f"{others[1]}_{self.dtype.name}")

    def _launch(self, i: int, stem: str, entry: str, *arguments: Any) -> None:
        level = self.levels[i]
        if tiles := int(level["tiles"]):
            self.machine.launch(stem, entry, tiles, *arguments, level, elements=self.elements[i])


def _levels(sums: Sequence[Along]) -> list[list[Along]]:
    """Return what is summed at each level, from the arrays to sums of one run each."""
    levels = [[*sums]]
    while any(x.n > WIDTH for x in levels[-1]):
        levels.append([x.of_runs() for x in levels[-1]])
    return levels


def _table(level: Sequence[Along], inputs: Array, outputs: Array) -> tuple[Array, int]:
    """Return the table of one launch, and the number of its tiles."""
    shapes = np.array([(x.outer, x.n, x.inner) for x in level], np.int64).reshape(-1, 3)
    numbers, tiles = shared_out([x.tiles() for x in level])
    return np.concatenate([shapes.T.ravel(), outputs, inputs.ravel(), numbers, tiles]), len(tiles)
