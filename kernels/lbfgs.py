"""L-BFGS on a machine: the twins of ``refoptim/optimizers/lbfgs.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
    number, d, m = g.dtype.type, machine.empty(g.shape, g.dtype), len(ro)
    sums = Walks(machine, g, m + 3)
    if m:
        _two_loops(sums, g, d, old_dirs, old_stps, np.array(ro, g.dtype), number(H_diag))
    else:
        sums(0, "lbfgs", "lbfgs_alone", d, g, number(H_diag))
    *al, slope = sums.read()[: m + 1]
    return d, al, slope


def _two_loops(
    sums: Walks, g: Array, d: Array, old_dirs: Sequence[Array], old_stps: Sequence[Array], ro: Array, H_diag: Any
) -> None:
    """Launch the two loops: the coefficients come first, then the slope, then two places for products by turns."""
    m = len(ro)
    slots = m + 1 + np.arange(2 * m + 1) % 2  # where each launch leaves its product, which the next one reads
    slots[-1] = m
    y, step, (q, last) = (sums.addresses(x) for x in (old_dirs, old_stps, (d, g)))
    al, left, q, back = sums.at(np.arange(m)), sums.at(slots), np.full(m, q), np.arange(m - 1, 0, -1)
    after = np.append(y[1:], last)
    sums(slots[0], "lbfgs", "lbfgs_begin", d, g, old_stps[-1])
    sums.series(slots[1:m], "lbfgs", "lbfgs_back", q[back], y[back], step[back - 1], al[back], left[: m - 1], ro[back])
    sums(slots[m], "lbfgs", "lbfgs_turn", d, old_dirs[0], old_dirs[0], al[0], left[m - 1], ro[0], H_diag)
    sums.series(slots[m + 1 :], "lbfgs", "lbfgs_forth", q, step, after, al, left[m:-1], ro)
