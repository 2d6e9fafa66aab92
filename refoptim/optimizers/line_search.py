"""A line search for the strong Wolfe conditions, and a step of fixed length.

``strong_wolfe`` looks along a direction ``d`` for a step ``t`` that lowers the loss enough and flattens it enough::

    f(t) <= f(0) + c1 * t * f'(0)        |f'(t)| <= -c2 * f'(0)        0 < c1 < c2 < 1

First it steps out, by cubic extrapolation, until an interval must hold such a step; then it narrows the interval, by
cubic interpolation that keeps a tenth of the interval away from its ends. It visits the same points as torch's search,
but for two cases: where the loss or its slope is not finite, a step counts as too long, whereas torch may take it; and
where the minimum of a cubic is 0 / 0, the middle is tried, whereas torch goes on with NaN.

Losses are Python floats. Slopes are NumPy scalars of the parameters' dtype, and what is computed from them is too.

Source: Nocedal and Wright, "Numerical optimization", 2nd edition, 2006, algorithms 3.5 and 3.6, equation 3.59.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from ..numerics.arith import Array, reciprocal, sqrt
from .vector import Number, dot, largest

NARROWEST = 1e-9
"""An interval within which no element of a parameter moves by more than this is narrowed no further."""


class Point(NamedTuple):
    """A step ``t`` along the direction, the loss ``f`` and the gradient ``g`` there, and the slope along the way."""

    t: Number
    f: float
    g: Array
    slope: Number


Along: TypeAlias = Callable[[Number], tuple[float, Array]]
"""Evaluates the loss and its gradient at a step along the direction."""


def strong_wolfe(
    along: Along, d: Array, start: Point, t: Number, *, c1: float = 1e-4, c2: float = 0.9, max_evals: int = 25
) -> Point:
    """Return the best point found along ``d``, one that meets both conditions if ``max_evals`` allows.

    Args:
        along: evaluates the loss and its gradient at a step; it is called at most ``max_evals + 1`` times.
        d: the direction, with a negative slope at the start.
        start: the point at step 0.
        t: the first step to try.
        c1: the part of the decrease promised by the slope that must be achieved.
        c2: the part of the slope that may be left.
        max_evals: the number of steps to try after the first.
    """

    def at(t: Number) -> Point:
        f, g = along(t)
        slope = dot(g, d)
        return Point(t, f if math.isfinite(f) and np.isfinite(slope) else math.inf, g, slope)

    def too_high(new: Point) -> bool:
        return bool(new.f > start.f + c1 * new.t * start.slope)

    def flat(new: Point) -> bool:
        return bool(abs(new.slope) <= -c2 * start.slope)

    bracket, tried = _step_out(at, start, t, too_high, flat, max_evals)
    if len(bracket) == 2:
        return _narrow(at, bracket, largest(d)[0], too_high, flat, max_evals - tried)
    return bracket[0]


Test: TypeAlias = Callable[[Point], bool]


def _step_out(
    at: Callable[[Number], Point], start: Point, t: Number, too_high: Test, flat: Test, max_evals: int
) -> tuple[list[Point], int]:
    """Return an interval that holds a good step, or one point that is good; and how many more steps were tried."""
    previous, new = start, at(t)
    for tried in range(max_evals):
        if too_high(new) or (tried > 1 and new.f >= previous.f):
            return [previous, new], tried
        if flat(new):
            return [new], tried
        if new.slope >= 0:
            return [previous, new], tried
        shortest, longest = new.t + 0.01 * (new.t - previous.t), new.t * 10
        previous, new = new, at(cubic(previous, new, (shortest, longest)))
    return [start, new], max_evals


def _narrow(
    at: Callable[[Number], Point], bracket: list[Point], size: Number, too_high: Test, flat: Test, max_evals: int
) -> Point:
    """Narrow the interval ``bracket`` along a direction whose largest element is ``size``; return its lower end."""
    low, slow = _lower(bracket), False
    for _ in range(max_evals):
        if abs(bracket[1].t - bracket[0].t) * size < NARROWEST:
            break
        t, slow = _inside(bracket, slow)
        new, high = at(t), 1 - low
        if too_high(new) or new.f >= bracket[low].f:
            bracket[high] = new
            low = _lower(bracket)
            continue
        if flat(new):
            return new
        if new.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = new
    return bracket[low]


def _lower(bracket: list[Point]) -> int:
    return 0 if bracket[0].f <= bracket[1].f else 1


def _inside(bracket: list[Point], slow: bool) -> tuple[Number, bool]:
    """Return the next step inside the interval, and whether it lies near an end (allowed once in a row)."""
    t = cubic(bracket[0], bracket[1])
    left, right = sorted(point.t for point in bracket)
    margin = 0.1 * (right - left)
    if not min(right - t, t - left) < margin:
        return t, False
    if left < t < right and not slow:
        return t, True
    return (right - margin if abs(t - right) < abs(t - left) else left + margin), False


def cubic(a: Point, b: Point, bounds: tuple[Number, Number] | None = None) -> Number:
    """Return the step that minimizes the cubic through two points with their slopes, cut to the bounds.

    Without ``bounds`` they are the two points; where the cubic has no minimum, the middle of the bounds.
    """
    near, far = (a, b) if a.t <= b.t else (b, a)
    left, right = bounds or (near.t, far.t)
    middle = (left + right) / 2.0
    c = a.slope + b.slope - _quotient(3 * (a.f - b.f), a.t - b.t)
    square = c * c - a.slope * b.slope
    if not square >= 0:
        return middle
    root = sqrt(square)
    t = far.t - (far.t - near.t) * ((far.slope + root - c) / (far.slope - near.slope + 2 * root))
    return middle if np.isnan(t) else min(max(t, left), right)


def _quotient(c: float, x: Number) -> Number:
    """Return c / x; a NumPy scalar divides as torch's does, by its reciprocal."""
    return reciprocal(x, c) if isinstance(x, np.generic) else float(np.divide(c, x))
