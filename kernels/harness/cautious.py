"""Cautious steps of any rule: elements whose direction agrees with the gradient are counted, then all are updated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.engines.kernel import Kernel
from refoptim.engines.launches import THREADS, fields_of
from refoptim.engines.machine import Machine

from . import summed

SHARED = np.uint64(0)
"""The address of the records of a rule that has none of its own for each tensor."""


class Launches(summed.Launches):
    """The launches that update some tensors, to be repeated as those of a rule with sums."""

    def __init__(self, machine: Machine, kernel: Kernel, tensors: Sequence[Any]) -> None:
        super().__init__(machine, kernel, tensors)
        self.counts = machine.empty((self.tensors.chunks.count,), np.dtype(np.int64))
        self.cautions = machine.empty((len(tensors),), self.number)

    def _run(self, step: Any, on: Machine) -> None:
        kernel, bucket = self.kernel, self.tensors.bucket(tuple(fields_of(on, step)), on)
        measured = kernel.sums and not kernel.masks_sums
        if measured:
            self._measure(step, bucket, on, "sums")
        self._count(step, bucket, on, self.records if measured else SHARED)
        if kernel.masks_sums:
            self._measure(step, bucket, on, "masked_sums", self.cautions)
        records = self.records if kernel.sums else SHARED
        self._launch("cautious", step, bucket, records, self.cautions, on=on)

    def _count(self, step: Any, bucket: Any, on: Machine, records: Any) -> None:
        """Compute what divides the mask of each tensor."""
        self._launch("agreeing", step, bucket, records, self.counts, on=on)
        blocks = -(-self.tensors.chunks.count // THREADS)
        if blocks:
            on.launch("harness/cautious", f"cautions_{self.number.name}", blocks, bucket, self.counts, self.cautions)

    def _launch(self, kind: str, step: Any, bucket: Any, *arguments: Any, on: Machine) -> None:
        """Run a kernel of the rule on all chunks."""
        entry, record = f"{self.kernel.name}_{kind}_{self.storage}", self._record(step, self.number)
        self.tensors.launch(self.kernel.stem, entry, record, bucket, *arguments, on=on)
