"""Tables of tensors that kernels update chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.engines.launches import Chunks
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array


class Table:
    """The tables of a bucket: fields of each tensor, of which the first is its size.

    Attributes:
        fields: row by row the first field of all tensors, then the second …; addresses among them may be replaced.
    """

    def __init__(self, machine: Machine, fields: Sequence[tuple[int, ...]]) -> None:
        self.machine = machine
        self.fields: Array = np.array(fields, np.uint64).view(np.int64).T.copy()
        self.chunks = Chunks(machine, [size for size, *_ in fields])

    def bucket(self, step: tuple[int, ...], on: Machine | None = None) -> Any:
        """Return the struct that a kernel takes, on the machine or on what writes its launches down."""
        return self.chunks.bucket(on or self.machine, self.fields.ravel(), step)

    def launch(self, stem: str, entry: str, *arguments: Any, on: Machine | None = None) -> None:
        """Run a kernel on all chunks."""
        if self.chunks.count:
            machine = on or self.machine
            machine.launch(stem, entry, self.chunks.count, *arguments, elements=self.chunks.elements)
