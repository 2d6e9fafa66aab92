"""Tables of tensors that kernels update chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.engines.launches import BUCKET, CHUNK, scalar, shared_out
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array


class Table:
    """The tables of a bucket: fields of each tensor, of which the first is its size; then chunks."""

    def __init__(self, machine: Machine, fields: Sequence[tuple[int, ...]]) -> None:
        self.machine, self.tensors = machine, len(fields)
        columns: Array = np.array(fields, np.uint64).view(np.int64)
        numbers, chunks = shared_out([-(-size // CHUNK) for size, *_ in fields])
        self.chunks, self.elements = len(chunks), sum(size for size, *_ in fields)
        self.table = machine.upload(np.concatenate([columns.T.ravel(), numbers, chunks]))

    def bucket(self, step: tuple[int, ...]) -> Any:
        """Return the struct that a kernel takes."""
        return scalar(BUCKET, (self.machine.address(self.table), self.tensors, self.chunks, *step))

    def launch(self, stem: str, entry: str, *arguments: Any) -> None:
        """Run a kernel on all chunks."""
        if self.chunks:
            self.machine.launch(stem, entry, self.chunks, *arguments, elements=self.elements)
