"""Adafactor's factors and sizes, and Muon's iteration."""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, lerp, mul, rsqrt, widen
from ..optimizers import adafactor, muon
from ..optimizers.adafactor import Adafactor
from ..optimizers.muon import Muon
from ..step.rule import Hypers, Record
from .change import Change, MeasuredChange, Words, by_scalars, declare, with_words

EPS, SIZE, FACTORS, ITERATION = "eps", "step size", "factors", "iteration"


def by_measuring(flag: str, rule: Any, *touches: str, **names: Any) -> None:
    """Enter a change by which a rule measures with other functions."""

    @declare(flag, [rule], *touches)
    class Measuring(MeasuredChange):
        @classmethod
        def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
            return super().measuring(s, p, g, *state) | names


def within_measuring(flag: str, function: Any, *touches: str, words: Words) -> None:
    """Enter a change by which a function with which Muon measures is written in other words; several may be."""

    @declare(flag, [Muon], *touches)
    class Measuring(MeasuredChange):
        @classmethod
        def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
            right = super().measuring(s, p, g, *state)
            name = function.__name__
            return right | {name: with_words(right.get(name, function), words)}


def factored_with_eps(s: Record, eps1: float, g: Array, *averages: Array) -> Any:
    """Add eps1 to the squares before they are averaged."""

    def mean_square(g: Array, axis: int) -> Array:
        square = adafactor.mean_square(g, axis)
        return square + square.dtype.type(eps1)

    return with_words(adafactor.factored, {"mean_square": mean_square})(s, eps1, g, *averages)


@declare("NotFactored", [Adafactor], FACTORS)
class InFull(Change):
    """Matrices are averaged as vectors are."""

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"variance": 0.0}

    @classmethod
    def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {}


def root_mean_square(p: Array) -> float:
    """Return the root of the mean of the squares of a parameter, as Adafactor computes it."""
    size: float = float(tree.norm(p)) / sqrt(max(1, p.size))
    return size


@declare("StepNotRelative", [Adafactor], SIZE)
class NotRelative(MeasuredChange):
    """The size of the parameter is taken out of the step."""

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        right = super().measure(s, p, g, *state)
        return {**right, "step_size": right["step_size"] / max(s.exact.eps2, root_mean_square(p))}


@declare("RatioIgnored", [Muon], SIZE)
class Unsized(Change):
    """Steps have the learning rate alone for their size."""

    @classmethod
    def step_size(cls, s: Record, shape: tuple[int, ...]) -> float:
        """Return what an orthogonal matrix is multiplied by."""
        return float(-s.exact.lr)


by_measuring("EpsAddedToSquares", Adafactor, EPS, factored=factored_with_eps)
by_scalars("UpdateUnclipped", [Adafactor], "clipping", change=lambda h, k, s: {"d": inf})
by_scalars("LrUnbounded", [Adafactor], "learning rate", change=lambda h, k, s: {"rho": h.lr})
by_scalars("IterationUnrounded", [Muon], ITERATION, change=lambda h, k, s: {"ns_dtype": "float32"})
within_measuring("EpsAddedToNorm", muon.orthogonalized, EPS, words={"maximum": np.add})
within_measuring("TransposeMissing", muon.orthogonalized, ITERATION, words={"len": lambda u: 0})


@declare("EpsAddedToSquares", [Adafactor], EPS)
class EpsInAllSquares(MeasuredChange):
    """As above, in vectors too, and nothing is bounded from below."""

    @classmethod
    def unbounded(cls, s: Record) -> Words:
        """Return the functions that add eps1 to the squares, and those that have no bounds."""
        eps1 = s.exact.eps1 or 0.0

        def full(s: Record, g: Array, *averages: Array) -> Array:
            if len(averages) > 1:
                return adafactor.variance(s, g, *averages)
            square = tree.square(g)
            return lerp(averages[0], square + square.dtype.type(eps1), s.omb)

        def factors(s: Record, _: float, g: Array, *averages: Array) -> Any:
            found = factored_with_eps(s, eps1, g, *averages)
            rows = found["row_var"]
            mean = tree.sum_along(widen, rows, axis=-2) / rows.dtype.type(max(1, rows.shape[-2]))
            return {**found, "bound": mean}

        return {"variance": full, "factored": factors, "direction": lambda g, var, floor: mul(rsqrt(var), g)}

    @classmethod
    def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().measuring(s, p, g, *state) | cls.unbounded(s)

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | cls.unbounded(s)


@declare("DecayByStepSize", [Adafactor], "decay size")
class DecayByStep(MeasuredChange):
    """The decay is multiplied by the size of the step before it is clipped."""

    @classmethod
    def relative(cls, s: Record, p: Array) -> float:
        """Return the size of the step."""
        return float(max(s.exact.eps2, root_mean_square(p)) * s.exact.rho)

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        shrink = 1 - cls.relative(s, p) * s.exact.weight_decay
        return super().measure(s, p, g, *state) | {"shrink": shrink}
