"""Tables of tensors that kernels update chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refoptim.arith import Array
from refoptim.engines.machine import Machine

CHUNK = 1 << 14
"""Elements that a block updates in one go, as in ``multi_tensor.cuh``; no result depends on it."""

BUCKET = np.dtype(
    [
        *(("tables", np.uint64), ("tensors", np.int64), ("chunks", np.int64), ("maximize", np.int64)),
        *((name, np.uint64) for name in ("record", "grad_scale", "found_inf")),
    ]
)
"""The struct of that name in ``multi_tensor.cuh``."""


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
        return np.array((self.machine.address(self.table), self.tensors, self.chunks, *step), BUCKET)[()]

    def launch(self, stem: str, entry: str, *arguments: Any) -> None:
        """Run a kernel on all chunks."""
        if self.chunks:
            self.machine.launch(stem, entry, self.chunks, *arguments, elements=self.elements)


def shared_out(counts: Sequence[int]) -> tuple[Array, Array]:
    """Number the parts of things of which ``counts`` have that many: whose each part is, and which of its parts."""
    numbers = np.repeat(np.arange(len(counts)), np.array(counts, np.int64))
    starts = np.cumsum([0, *counts])[:-1]
    return numbers, np.arange(len(numbers)) - starts[numbers]
