"""Sums in the order of the tree, of any number of arrays in a few launches: one for each level of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refoptim.engines.launches import Parts
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, DType
from refoptim.numerics.array_types import HOST, moved
from refoptim.numerics.tree import WIDTH

RUNS = 16
"""Runs that a block folds at once, as in ``tree.cuh``; no result depends on it."""

SUMMED = ("harness/sums", "sums")
"""The file and the first part of the name of the kernels that add values as they are."""

SUMS = np.dtype([(name, np.uint64) for name in ("tables", "parts")] + [(name, np.int64) for name in ("sums", "tiles")])
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
    """The launches of some sums, ready to be repeated: memory is made once.

    Args:
        machine: where the arrays are.
        dtype: the arithmetic type.
        sums: what is summed; all have the same number of arrays.

    Attributes:
        results: where the result of each sum is; they lie side by side, in the order of the sums.
        addresses: where what is summed lies, a row for each array; they may be replaced.
    """

    def __init__(self, machine: Machine, dtype: DType, sums: Sequence[Along]) -> None:
        self.machine, self.dtype = machine, dtype
        levels = _levels(sums)
        sizes = np.array([x.outer * x.runs() * x.inner for level in levels for x in level], np.int64)
        self.memory = machine.empty((int(sizes.sum()),), dtype)
        starts = machine.address(self.memory) + dtype.itemsize * (np.cumsum(sizes) - sizes)
        outputs = starts.reshape(len(levels), -1)
        self.addresses: Array = np.array([x.addresses for x in sums], np.uint64).view(np.int64).T.copy()
        self.inputs = [self.addresses, *outputs[:-1, None]]
        self.levels = [_Level(*level) for level in zip(levels, outputs, strict=True)]
        self.results: list[int] = outputs[-1].tolist()

    def read(self) -> Array:
        """Return the results on the host; this waits for the machine."""
        return moved(self.memory[len(self.memory) - len(self.results) :], HOST)

    def launch(
        self, stem: str, entry: str, *arguments: Any, others: tuple[str, str] = SUMMED, on: Machine | None = None
    ) -> None:
        """Sum what a kernel makes of the arrays; it takes ``arguments`` and, at last, a ``Sums``.

        ``others`` are the file and the name of the kernels that sum up what it leaves; ``on`` is what is given the
        launches if it is not the machine.
        """
        machine = on or self.machine
        for level, inputs in zip(self.levels, self.inputs, strict=True):
            level.launch(machine, inputs, stem, entry, *arguments)
            (stem, entry), arguments = (others[0], f"{others[1]}_{self.dtype.name}"), ()


def _levels(sums: Sequence[Along]) -> list[list[Along]]:
    """Return what is summed at each level, from the arrays to sums of one run each."""
    levels = [[*sums]]
    while any(x.n > WIDTH for x in levels[-1]):
        levels.append([x.of_runs() for x in levels[-1]])
    return levels


class _Level:
    """One launch of some sums."""

    def __init__(self, sums: Sequence[Along], outputs: Array) -> None:
        shapes = np.array([(x.outer, x.n, x.inner) for x in sums], np.int64).reshape(-1, 3)
        self.fixed, self.count = np.concatenate([shapes.T.ravel(), outputs]), len(sums)
        self.tiles = Parts([x.tiles() for x in sums])
        self.elements = sum(x.outer * x.n * x.inner for x in sums)

    def launch(self, machine: Machine, inputs: Array, stem: str, entry: str, *arguments: Any) -> None:
        """Launch a kernel that sums what lies at addresses, a row for each array."""
        if not self.tiles.count:
            return
        table = machine.upload(np.concatenate([self.fixed, inputs.ravel()]))
        fields = machine.address(table), self.tiles.address(machine), self.count, self.tiles.count
        machine.launch(stem, entry, self.tiles.count, *arguments, np.array(fields, SUMS)[()], elements=self.elements)
