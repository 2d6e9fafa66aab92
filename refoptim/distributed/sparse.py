"""Sparse gradients: the entries of all pieces, one behind the other, each rank getting those of its shard.

Entries of one element are added in the order of the pieces, and in a piece in the order in which they are stored, in
the arithmetic type; then the sum is divided by the number of pieces, and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..numerics.arith import Array, arithmetic, as_reals, div, from_reals
from ..numerics.array_types import at, filled, place
from ..step.parameter import Parameter
from ..step.sparse import SparseGrad
from .comm import Communicator, flat_bytes, start
from .layout import Ranges
from .shards import per_element

SPARSE = "sparse"
"""Stands for the dtype of a sparse gradient."""


class Entries:
    """The entries of the sparse gradients of this rank, by parameter: numbers of elements, and values."""

    def __init__(self, lists: Mapping[int, list[tuple[Array, Array]]] | None = None) -> None:
        self.lists = dict(lists or {})

    def with_piece(self, piece: Sequence[Any]) -> Entries:
        """Return these with the sparse gradients of another piece, which are copied."""
        found = {i: [*self.lists.get(i, []), _entries(x)] for i, x in enumerate(piece) if isinstance(x, SparseGrad)}
        return Entries({**self.lists, **found})

    def exchanged(
        self, comm: Communicator, params: Sequence[Parameter], ranges: Ranges, divisor: int
    ) -> dict[int, SparseGrad]:
        """Return this rank's part of the sum of all ranks' entries, by parameter."""
        return {
            i: _summed(comm, *_joined(x), params[i], [held[i] for held in ranges], divisor)
            for i, x in self.lists.items()
        }


def _entries(g: SparseGrad) -> tuple[Array, Array]:
    """Return the numbers of the elements, in C order, and the values, of all entries of a gradient."""
    with at(place(g.values)):
        leading = g.shape[: len(g.indices)]
        rows = np.ravel_multi_index(tuple(g.indices.astype(np.intp)), leading)
        size = prod(g.shape[len(leading) :])
        columns = np.arange(size) if isinstance(rows, np.ndarray) else filled(rows, (size,), 1).cumsum() - 1
        return (rows[:, None] * size + columns).reshape(-1).astype(np.int64), g.values.reshape(-1).copy()


def _joined(lists: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    numbers, values = zip(*lists, strict=True)
    return np.concatenate(numbers), np.concatenate(values)


def _summed(
    comm: Communicator, numbers: Array, values: Array, p: Parameter, ranges: Sequence[tuple[int, int]], divisor: int
) -> SparseGrad:
    held = [(begin // per_element(p.dtype), end // per_element(p.dtype)) for begin, end in ranges]
    begin, end = held[comm.rank]
    with at(place(values)):
        masks = [(numbers >= first) & (numbers < last) for first, last in held]
        came = [_sent(comm, x, masks) for x in (numbers, values)]
        wide = came[1].astype(
            np.result_type(arithmetic(p.dtype), p.dtype) if p.dtype.kind == "c" else arithmetic(p.dtype)
        )
        unique, sums = SparseGrad((came[0] - begin)[None], wide, (end - begin,)).coalesce()
        if divisor > 1:
            number = arithmetic(p.dtype).type(divisor)
            sums = from_reals(div(as_reals(sums), number), sums.dtype)
        sums = sums.astype(np.float32 if p.master else p.dtype)
        return SparseGrad(unique[None], sums, (end - begin,))


def _sent(comm: Communicator, x: Array, masks: Sequence[Array]) -> Array:
    """Give each rank the elements that its mask selects, and return what comes, in the order of the ranks."""
    parts = [x[mask] for mask in masks]
    counts = [theirs[comm.rank] for theirs in comm.gather([int(part.size) for part in parts])]
    into = [filled(x, (n,), 0) for n in counts]
    start(comm, [flat_bytes(part) for part in parts], [flat_bytes(part) for part in into]).wait()
    into[comm.rank] = parts[comm.rank]
    return np.concatenate(into)
