"""The second stage: what, of a rule that is explained up to rounding, gives the very bits of a black box."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from refoptim import dialects
from refoptim.dialects import Axis
from refoptim.numerics.arith import Array, as_reals

from ..gradients import FORMATS
from ..trajectory import Frame, bits
from .evidence import Evidence
from .search import OF_ROUNDING, Watch
from .trial import RAISED, Atoms, fit, frames

AT_EDGES = frozenset({"SubnormalsFlushed", "SignOfZeroLost", "NanDropped", "SignOfNan"})
"""Flags of what becomes of zeros, subnormal numbers and NaN."""

MOST = 3
"""The largest number of ways of rounding that are tried at once."""

Same = Callable[[Any, Any], bool]
"""Compares an array, or an integer, of a dialect with one of a black box."""


def rounded(optimizer: str, atoms: Atoms, evidence: Sequence[Evidence], watch: Watch) -> tuple[Atoms, bool]:
    """Return the axes of rounding that, added to ``atoms``, give the bits of a black box, and whether all bits agree.

    Where no axes give all bits, what is lost or flushed at the ends of the range may still be named.
    """
    ordinary, edges = ([e for e in evidence if e.is_edge is edge] for edge in (False, True))
    found = _first(optimizer, atoms, OF_ROUNDING - AT_EDGES, ordinary, same_bits, watch)
    chosen = found or ()
    at_edges = _first(optimizer, (*atoms, *chosen), AT_EDGES, edges, same_bits, watch) if found is not None else None
    if at_edges is not None:
        return (*chosen, *at_edges), True
    alike = _first(optimizer, (*atoms, *chosen), AT_EDGES, edges, same_kinds, watch)
    return (*chosen, *(alike or ())), False


def _first(
    optimizer: str, atoms: Atoms, flags: Iterable[str], evidence: Sequence[Evidence], same: Same, watch: Watch
) -> Atoms | None:
    """Return the fewest axes with which all runs are the same, or None."""
    unlike = [e for e in _smallest(evidence) if not agrees(optimizer, atoms, e, same)]
    if not unlike:
        return ()
    for more in _sets(optimizer, atoms, flags):
        watch(" + ".join(axis.flag for axis in more))
        runs = [*unlike, *(e for e in evidence if e not in unlike)]
        if all(agrees(optimizer, (*atoms, *more), e, same) for e in runs):
            return more
    return None


def _smallest(evidence: Iterable[Evidence]) -> list[Evidence]:
    return sorted(evidence, key=lambda e: e.scale.size)


def _sets(optimizer: str, atoms: Atoms, flags: Iterable[str]) -> Iterator[tuple[Axis, ...]]:
    axes = [x for x in dialects.axes_of(optimizer) if x.flag in flags]
    for size in range(1, MOST + 1):
        yield from (more for more in combinations(axes, size) if fit((*atoms, *more)))


def agrees(optimizer: str, atoms: Atoms, evidence: Evidence, same: Same) -> bool:
    """Tell whether parameters, and what was given of the state, are the same after every step."""
    try:
        return all(_same(frame, evidence, same) for frame in frames(optimizer, atoms, evidence))
    except RAISED:
        return False


def _same(frame: Frame, evidence: Evidence, same: Same) -> bool:
    k = frame.step - 1
    pairs = [*zip(frame.parameters, evidence.parameters[k], strict=True)]
    for ours, theirs in zip(frame.state, evidence.state[k], strict=True):
        pairs += [(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()]
    return all(same(x, y) for x, y in pairs)


def same_bits(x: Any, y: Any) -> bool:
    """Tell whether two arrays, or integers, are the same; all NaNs are one number."""
    a, b = np.asarray(x), np.asarray(y)
    if a.dtype.kind in "iu" or b.dtype.kind in "iu":
        return bool(np.array_equal(a, b))
    return a.dtype == b.dtype and a.shape == b.shape and bool((bits(a) == bits(b)).all())


def same_kinds(x: Any, y: Any) -> bool:
    """Tell whether two arrays have the same zeros, infinities and NaNs, and subnormal numbers in the same places."""
    a, b = np.asarray(x), np.asarray(y)
    if a.dtype.kind in "iu" or b.dtype.kind in "iu" or a.dtype != b.dtype or a.shape != b.shape:
        return True
    return bool((_kinds(a) == _kinds(b)).all())


def _kinds(x: Array) -> Array:
    """Number the kinds: 0 for a normal number, then zeros, subnormal numbers, infinities by sign, and NaN."""
    reals = as_reals(x)
    smallest = 2.0 ** FORMATS["subnormal"][reals.dtype.name][1]
    with np.errstate(all="ignore"):
        size = np.abs(reals.astype(np.float64))
    kind = np.select([size != size, size == 0, size < smallest, size == np.inf], [9, 1, 2, 3], 0)
    return np.where((kind > 0) & (kind < 9) & np.signbit(reals), -kind, kind)
