"""Cycles, each longer than the one before by a factor: which one a step is in, and where it began."""

from __future__ import annotations

import math

from ..numerics.power import log, power


def began(i: int, length: float, factor: float) -> float:
    """Return where cycle ``i`` begins, of cycles that are ``length``, ``length * factor`` … long."""
    if factor == 1:
        return length * i
    return (1 - power(factor, i)) / (1 - factor) * length


def cycle(t: float, length: float, factor: float) -> int:
    """Return which cycle ``t`` is in: the last that has begun; ``factor`` is 1 or more.

    A logarithm guesses it, and the beginnings decide: the logarithm alone misses some of them by a rounding.
    """
    if factor == 1:
        return int(t // length)
    i = max(math.floor(log(1 - t / length * (1 - factor)) / log(factor)), 0)
    while i and began(i, length, factor) > t:
        i -= 1
    while began(i + 1, length, factor) <= t:
        i += 1
    return i
