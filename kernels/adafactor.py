"""Adafactor's step: about ten launches for any number of parameters, with nothing read back in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from refoptim.engines.launches import THREADS
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, arithmetic, epsilon
from refoptim.numerics.array_types import at, place
from refoptim.step.changes import Change

from .harness.sums import Along, Sums, total
from .harness.tables import Table

RECORD = ("omb", "rho", "eps1", "eps2", "d", "weight_decay", "shrink", "floor", "factored", "step_size")
"""The fields of the struct of that name in ``adafactor.cu``."""

GRADIENT = 4
"""Which field of a ``Tensor`` of ``adafactor.cu`` is the address of its gradient."""


def update(machine: Machine, rule: Any, step: Any, tensors: Sequence[Any]) -> None:
    """Update parameters of one storage, their state and their rounded copies, all in C order.

    Args:
        machine: where the arrays are.
        rule: not needed here.
        step: what differs from step to step: the scalars ``s``, and float32 arrays of one element or None:
            ``grad_scale`` divides the gradients, and ``found_inf`` other than 0 skips the step.
        tensors: the arrays of each: ``p``, ``g``, ``state`` (``row_var`` and ``col_var``, or ``variance``; None for
            those it has not) and ``copy``.
    """
    if tensors:
        Launches(machine, None, tensors).run(step)


class Launches:
    """The launches that update some tensors, to be repeated as long as their arrays but for gradients stay in place.

    Attributes:
        after: what is to be done each time when they have been made.
    """

    def __init__(self, machine: Machine, kernel: Any, tensors: Sequence[Any]) -> None:
        self.machine, self.kernel, self.count = machine, kernel, len(tensors)
        first, address = tensors[0], machine.address
        self.place, self.after = place(first.p), list[Change]()
        self.p, self.g, self.number = first.p.dtype, first.g.dtype, arithmetic(first.p.dtype)
        self.storage = self.p.name if first.copy is None else f"{first.copy.dtype.name}_master"
        matrices = [x for x in tensors if x.p.ndim > 1]
        self.matrices = [i for i, x in enumerate(tensors) if x.p.ndim > 1]
        self.of_g = Sums(machine, self.number, [along for x in matrices for along in _rows_and_columns(machine, x)])
        rows = self.of_g.results[::2]
        self.of_rows = Sums(machine, self.number, [_means(x, row) for x, row in zip(matrices, rows, strict=True)])
        self.of_p = Sums(machine, self.number, [total([address(x.p)], x.p.size) for x in tensors])
        self.of_u = Sums(machine, self.number, [total([], x.p.size) for x in tensors])
        self.averages = Table(machine, self._averages(matrices))
        self.tensors = Table(machine, self._tensors(tensors))
        self.root_sizes = np.array([math.sqrt(max(1, x.p.size)) for x in tensors])
        self.step_sizes = machine.empty((len(tensors),), self.number)

    def _averages(self, matrices: Sequence[Any]) -> list[tuple[int, ...]]:
        """Return for each row_var and col_var its size, of what its elements are means, its sums and its address."""
        stored = [x for tensor in matrices for x in tensor.state[:2]]
        lengths = [n for tensor in matrices for n in (tensor.p.shape[-1], tensor.p.shape[-2])]
        return [
            (x.size, max(1, n), sums, self.machine.address(x))
            for x, n, sums in zip(stored, lengths, self.of_g.results, strict=True)
        ]

    def _tensors(self, tensors: Sequence[Any]) -> list[tuple[int, ...]]:
        """Return for each tensor the fields of the struct of that name in ``adafactor.cu``."""
        averages = zip(self.of_g.results[::2], self.of_g.results[1::2], self.of_rows.results, strict=True)
        fields = []
        for x in tensors:
            arrays = (x.p, x.g, x.copy, None if x.p.ndim > 1 else x.state[2])
            addresses = [self._address(y) for y in arrays]
            shape = (1, 1, *x.p.shape)[-2:]
            fields.append((x.p.size, *shape, *addresses, *(next(averages) if x.p.ndim > 1 else (0, 0, 0))))
        return fields

    def move_gradient(self, i: int, g: Array) -> None:
        """Take note that the gradient of tensor ``i`` lies somewhere else now."""
        self.tensors.fields[GRADIENT, i] = self.machine.address(g)

    def move_gradients(self, addresses: Array) -> None:
        """Take note of where the gradients of all tensors lie now."""
        self.tensors.fields[GRADIENT] = addresses

    def run(self, step: Any, on: Machine | None = None) -> None:
        """Take a step, or let what is given write down the launches that do so."""
        with at(self.place):
            self._run(step.s, step, on or self.machine)

    def _run(self, s: Any, step: Any, on: Machine) -> None:
        record, number, scale = (
            self._record(s, self.number),
            self.number.name,
            np.uint64(self._address(step.grad_scale)),
        )
        fields = (s.maximize, 0, scale, self._address(step.found_inf))
        averages, tensors = self.averages.bucket(fields, on), self.tensors.bucket(fields, on)
        self.of_g.addresses[...] = np.repeat(self.tensors.fields[GRADIENT][self.matrices], 2)
        self.of_g.launch("adafactor", f"adafactor_gradients_{self.g.name}", scale, on=on)
        self.averages.launch("adafactor", f"adafactor_averages_{self.p.name}", record, averages, on=on)
        self.of_rows.launch("harness/sums", f"sums_{number}", on=on)
        self.of_p.launch("harness/sums", f"sums_of_squares_{self.p.name}", on=on)
        self.of_u.launch("adafactor", f"adafactor_directions_{self.storage}", record, tensors, on=on)
        self._find_step_sizes(s, on)
        self.tensors.launch("adafactor", f"adafactor_{self.storage}", record, tensors, self.step_sizes, on=on)

    def _address(self, x: Array | None) -> int:
        return 0 if x is None else self.machine.address(x)

    def _find_step_sizes(self, s: Any, on: Machine) -> None:
        sums = (np.uint64(sums.results[0]) for sums in (self.of_p, self.of_u))
        record, count = self._record(s, np.dtype(np.float64)), np.int64(self.count)
        blocks, root_sizes = -(-self.count // THREADS), on.upload(self.root_sizes)
        entry = f"adafactor_step_sizes_{self.number.name}"
        on.launch("adafactor", entry, blocks, record, count, root_sizes, *sums, self.step_sizes)

    def _record(self, s: Any, number: Any) -> Any:
        eps1 = epsilon(self.p) if s.exact.eps1 is None else s.exact.eps1
        more = {"eps1": eps1, "floor": eps1 * eps1, "factored": 0, "step_size": 0}
        values = {**vars(s.exact), **more}
        struct = np.dtype([(name, number) for name in RECORD])
        with np.errstate(over="ignore"):  # of what the kernel does not use in this type
            return np.array(tuple(number.type(values[name]) for name in RECORD), struct)[()]


def _rows_and_columns(machine: Machine, tensor: Any) -> list[Along]:
    """Return the sums over the rows and over the columns of a gradient."""
    *batch, rows, columns = tensor.g.shape
    g, count = (machine.address(tensor.g),), prod(batch)
    return [Along(g, count * rows, columns, 1), Along(g, count, rows, columns)]


def _means(tensor: Any, row_var: int) -> Along:
    """Return the sums over the averages of rows."""
    *batch, rows, _ = tensor.p.shape
    return Along((row_var,), prod(batch), rows, 1)
