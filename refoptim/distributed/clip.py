"""Norms of gradients that lie in parts on many ranks, and clipping by them, with the bits of ``clip_grad``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import clip_grad
from ..engines.workspace import Workspace
from ..numerics import tree
from ..numerics.arith import Array, absolute, arithmetic, sqrt
from ..numerics.array_types import at, place
from ..step.sparse import SparseGrad
from .comm import Communicator
from .exchange import join
from .layout import Range, Ranges
from .shards import vector_of


def arguments(max_norm: Any, norm_type: Any) -> tuple[float, float]:
    """Return the order of the norm and its bound, or raise TypeError or ValueError."""
    return clip_grad.norm_order(norm_type), clip_grad.upper_bound("max_norm", max_norm)


@np.errstate(all="ignore")
def clip(
    comm: Communicator, grads: Sequence[Any], ranges: Ranges, order: float, max_norm: float, error_if_nonfinite: bool
) -> Any:
    """Multiply this rank's parts of gradients in place, and return the norm of them all.

    Raises:
        TypeError: a gradient is sparse, on all ranks.
        RuntimeError: the norm is not finite, and that is an error, on all ranks.
    """
    if any(isinstance(g, SparseGrad) for g in grads):
        raise TypeError("a sparse array has no norm here: pass its values")
    members = [i for i, g in enumerate(grads) if g is not None]
    if not members:
        return np.float32(0)
    vectors = {i: vector_of(grads[i]) for i in members}
    with at(place(vectors[members[0]])):
        norms = _norms(comm, vectors, ranges, order)
        number = clip_grad.widest(list(vectors.values()))
        norm = clip_grad.norm_of(np.concatenate([norms[i].reshape(1).astype(number) for i in members]), order)
        if error_if_nonfinite:
            clip_grad.check_finite(norm, order)
        workspace = Workspace()
        workspace.make(clip_grad.scale(list(vectors.values()), norm, max_norm, workspace))
    return norm


def _norms(comm: Communicator, vectors: dict[int, Array], ranges: Ranges, order: float) -> dict[int, Any]:
    """Return the norm of each gradient."""
    found = {}
    for dtype in dict.fromkeys(arithmetic(x.dtype) for x in vectors.values()):
        own = [i for i, x in vectors.items() if arithmetic(x.dtype) == dtype]
        counts = [[_count(held[i], order) for i in own] for held in ranges]
        mine = np.concatenate([_part(vectors[i], order) for i in own])
        everyone = join(comm, mine, [sum(column) for column in counts])
        ends = list(accumulate(n for column in counts for n in column))
        for j, i in enumerate(own):
            places = [(rank * len(own) + j, column[j]) for rank, column in enumerate(counts)]
            parts = [everyone[ends[k] - n : ends[k]] for k, n in places]
            found[i] = _whole(np.concatenate(parts), order)
    return found


def _count(held: Range, order: float) -> int:
    """Return how many numbers a rank has for the norm of what it holds."""
    return 1 if order == math.inf else -(-(held[1] - held[0]) // tree.WIDTH)


def _part(x: Array, order: float) -> Array:
    if order == math.inf:
        return clip_grad.norm_of(x, order).reshape(1)
    return tree.run_sums(tree.square if order == 2 else absolute, x)


def _whole(parts: Array, order: float) -> Any:
    if order == math.inf:
        return parts.max()
    total = tree.finished(parts)
    return sqrt(total) if order == 2 else total
