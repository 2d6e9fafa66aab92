"""The step of a rule with sums: a few launches for any number of parameters, with nothing read back in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.engines.kernel import Kernel
from refoptim.engines.launches import THREADS, address_of, entry_of, fields_of, scalar
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, arithmetic
from refoptim.numerics.array_types import at, place
from refoptim.step.changes import Change

from .sums import Sums, total
from .tables import Table

GRADIENT = 2
"""Which field of a tensor is the address of its gradient, as in ``multi_tensor.cuh``."""


class Totals:
    """Sums of what a rule makes of the elements of each of some tensors.

    Args:
        machine: where the tensors are.
        kernel: the kernels of the rule.
        tensors: their arrays.
        sums: how many sums there are of each.
    """

    def __init__(self, machine: Machine, kernel: Kernel, tensors: Sequence[Any], sums: int) -> None:
        self.machine, self.kernel, self.count = machine, kernel, len(tensors)
        self.number = arithmetic(tensors[0].p.dtype)
        self.storage = entry_of(kernel, tensors[0]).removeprefix(f"{kernel.name}_")
        self.tensors = Table(machine, [self._fields(x) for x in tensors])
        self.sums = Sums(machine, self.number, [total([], x.p.size) for _ in range(sums) for x in tensors])

    def _fields(self, tensor: Any) -> tuple[int, ...]:
        """Return the row of a tensor in the tables that ``summed.cuh`` describes."""
        walked = len(tensor.state) - self.kernel.numbers
        arrays = (tensor.p, tensor.g, *tensor.state[:walked], tensor.copy, *tensor.state[walked:])
        return (tensor.p.size, *(address_of(self.machine, x) for x in arrays), tensor.p.ndim)

    def over_all(self, step: Any) -> list[tuple[float, ...]]:
        """Return what each tensor adds to the sums over all; this waits for the machine."""
        bucket = self.tensors.bucket(tuple(fields_of(self.machine, step)), self.machine)
        self._sum("over_all", step, bucket, self.machine)
        return list(zip(*self.sums.read().reshape(-1, self.count).tolist(), strict=True))

    def _sum(self, kind: str, step: Any, bucket: Any, on: Machine, *more: Any) -> None:
        """Launch sums, whose kernels are called so and take ``more``."""
        entry = f"{self.kernel.name}_{kind}_{self.storage}"
        self.sums.launch(self.kernel.stem, entry, self._record(step, self.number), bucket, *more, on=on)

    def _record(self, step: Any, number: Any) -> Any:
        """Return the scalars of a step in a type, those that are yet to be measured at 0."""
        values = {**vars(step.s.exact), "unmade": step.unmade}
        struct = np.dtype([(name, number) for name in self.kernel.record])
        with np.errstate(over="ignore"):  # of what the kernel does not use in this type
            return scalar(struct, tuple(number.type(values.get(name, 0)) for name in self.kernel.record))


class Launches(Totals):
    """The launches that update some tensors, to be repeated as long as their arrays but for gradients stay in place.

    Attributes:
        after: what is to be done each time when they have been made.
    """

    def __init__(self, machine: Machine, kernel: Kernel, tensors: Sequence[Any]) -> None:
        super().__init__(machine, kernel, tensors, kernel.sums)
        self.place, self.after = place(tensors[0].p), list[Change]()
        self.records = machine.empty((len(tensors) * len(kernel.record),), self.number)

    def move_gradient(self, i: int, g: Array) -> None:
        """Take note that the gradient of tensor ``i`` lies somewhere else now."""
        self.tensors.fields[GRADIENT, i] = self.machine.address(g)

    def move_gradients(self, addresses: Array) -> None:
        """Take note of where the gradients of all tensors lie now."""
        self.tensors.fields[GRADIENT] = addresses

    def run(self, step: Any, on: Machine | None = None) -> None:
        """Take a step, or let what is given write down the launches that do so."""
        with at(self.place):
            self._run(step, on or self.machine)

    def _run(self, step: Any, on: Machine) -> None:
        stem, name = self.kernel.stem, self.kernel.name
        bucket = self.tensors.bucket(tuple(fields_of(on, step)), on)
        self._measure(step, bucket, on, "sums")
        self.tensors.launch(stem, f"{name}_{self.storage}", bucket, self.records, on=on)

    def _measure(self, step: Any, bucket: Any, on: Machine, sums: str, *more: Any) -> None:
        """Compute the records of all tensors from sums, whose kernels are called so and take ``more``."""
        stem, name = self.kernel.stem, self.kernel.name
        self._sum(sums, step, bucket, on, *more)
        totals, blocks = np.uint64(self.sums.results[0]), -(-self.count // THREADS)
        exact = self._record(step, np.dtype(np.float64))
        on.launch(stem, f"{name}_measured_{self.storage}", blocks, exact, bucket, totals, self.records)
