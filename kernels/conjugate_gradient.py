"""Conjugate gradients on a machine: the twins of ``refoptim/optimizers/conjugate_gradient.py``."""

from __future__ import annotations

from typing import Any

from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array

from .vector import Walks


def overlaps(machine: Machine, g: Array, prev_g: Array) -> tuple[Any, Any]:
    """Return g . prev_g and g . g."""
    sums = Walks(machine, g, 2)
    sums(0, "vector", "vector_dot", g, prev_g)
    sums(1, "vector", "vector_dot", g, g)
    overlap, square = sums.read()
    return overlap, square


def fraction(machine: Machine, g: Array, prev_g: Array, prev_d: Array, beta: str) -> tuple[Any, Any]:
    """Return what stands above and below the line in the formula named ``beta``."""
    sums = Walks(machine, g, 2)
    if beta in ("PR+", "HS"):
        sums(0, "conjugate_gradient", "conjugate_gradient_change", g, g, prev_g)
    else:
        sums(0, "vector", "vector_dot", g, g)
    if beta in ("HS", "DY"):
        sums(1, "conjugate_gradient", "conjugate_gradient_change", prev_d, g, prev_g)
    else:
        sums(1, "vector", "vector_dot", prev_g, prev_g)
    above, below = sums.read()
    return above, below


def descend(machine: Machine, g: Array, prev_d: Array, c: Any) -> tuple[Array, Any]:
    """Return the direction -g + c * prev_d, and the slope along it."""
    d, sums = machine.empty(g.shape, g.dtype), Walks(machine, g, 1)
    sums(0, "conjugate_gradient", "conjugate_gradient_descend", d, g, prev_d, g.dtype.type(c))
    return d, sums.read()[0]
