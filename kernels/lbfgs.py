"""L-BFGS on a machine: the twins of ``refoptim/optimizers/lbfgs.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array

from .vector import Walks


def change(machine: Machine, g: Array, prev_g: Array, d: Array, t: Any) -> tuple[Array, Array, Any, Any]:
    """Return y and s, the last changes of the gradient and of the parameters, y . s and y . y."""
    y, step = (machine.empty(g.shape, g.dtype) for _ in range(2))
    sums = Walks(machine, g, 2)
    sums(0, "lbfgs", "lbfgs_change", y, step, g, prev_g, d, g.dtype.type(t))
    sums(1, "vector", "vector_dot", y, y)
    curvature, square = sums.read()
    return y, step, curvature, square


def descend(
    machine: Machine, g: Array, old_dirs: Sequence[Array], old_stps: Sequence[Array], ro: Sequence[Any], H_diag: Any
) -> tuple[Array, list[Any], Any]:
    """Return the direction, the coefficients of the first loop and the slope, read together when all is done."""
    number, d = g.dtype.type, machine.empty(g.shape, g.dtype)
    pairs = list(zip(old_dirs, old_stps, map(number, ro), strict=True))
    m, sums = len(pairs), Walks(machine, g, len(pairs) + 3)
    if pairs:
        _two_loops(sums, g, d, pairs, number(H_diag))
    else:
        sums(0, "lbfgs", "lbfgs_alone", d, g, number(H_diag))
    *al, slope = sums.read()[: m + 1]
    return d, al, slope


def _two_loops(sums: Walks, g: Array, d: Array, pairs: Sequence[tuple[Array, Array, Any]], H_diag: Any) -> None:
    """Launch the two loops: the coefficients come first, then the slope, then two places for products by turns."""
    m, here, there = len(pairs), len(pairs) + 1, len(pairs) + 2
    sums(here, "lbfgs", "lbfgs_begin", d, g, pairs[-1][1])
    for i in reversed(range(1, m)):
        y, _, r = pairs[i]
        sums(there, "lbfgs", "lbfgs_back", d, y, pairs[i - 1][1], sums.at(i), sums.at(here), r)
        here, there = there, here
    y, _, r = pairs[0]
    sums(there, "lbfgs", "lbfgs_turn", d, y, y, sums.at(0), sums.at(here), r, H_diag)
    for i, (_, step, r) in enumerate(pairs):
        here, there = there, here
        after, slot = (pairs[i + 1][0], there) if i + 1 < m else (g, m)
        sums(slot, "lbfgs", "lbfgs_forth", d, step, after, sums.at(i), sums.at(here), r)
