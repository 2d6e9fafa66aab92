"""How implementations of the rules with sums over a parameter differ, beyond what ``wider`` says of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..numerics.arith import Array, axpy, div, neg
from ..numerics.tree import square
from ..optimizers import lamb
from ..optimizers.base import Optimizer
from ..optimizers.lamb import LAMB
from ..optimizers.lars import LARS
from ..optimizers.mars import MARS
from ..optimizers.novograd import NovoGrad
from ..optimizers.stable_adamw import StableAdamW
from ..step.rule import Hypers, Record, Registers
from .change import MeasuredChange, by_scalars, changed, declare
from .correction import CORRECTION, MAXIMUM
from .decay import Coupled
from .momentum import AHEAD, BUFFER, FIRST, LR
from .wider import AVERAGE, ELEMENTWISE, SHRINKING, WIDER

MEASURED = [rule for rule in WIDER if rule not in ELEMENTWISE]

TRUST, CLIP = "size of the step", "clipping"
ADAPTED, NORM, EPS = "what is adapted", "norm of the parameter", "eps"


@declare("MaximizeIgnored", MEASURED, "sign")
class Descending(MeasuredChange):
    """Takes the step that minimizes."""

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        return super().measure(changed(s, maximize=False), p, g, *state)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, p, neg(g) if s.maximize else g, *state)


declare("CoupledDecay", [rule for rule in SHRINKING if rule not in ELEMENTWISE], "decay place")(Coupled)


def by_measured(flag: str, rules: list[type[Optimizer]], *touches: str, change: Callable[..., dict[str, Any]]) -> None:
    """Enter a change of what sums say: ``change(s, totals, measured)`` returns the numbers that are others."""

    @declare(flag, rules, *touches)
    class Measured(MeasuredChange):
        @classmethod
        def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
            right = super().measured(s, shape, *totals)
            return {**right, **change(s, totals, right)}


by_measured("TrustIgnored", [LARS, LAMB], TRUST, change=lambda s, totals, found: {"ratio": 1.0})
by_scalars("TrustClipIgnored", [LARS, LAMB], CLIP, change=lambda h, k, s: {"trust_clip": False})
by_scalars("DampeningIgnored", [LARS], BUFFER, change=lambda h, k, s: {"undamped": 1.0})
by_scalars("NesterovIgnored", [LARS], AHEAD, change=lambda h, k, s: {"nesterov": not h.nesterov})


@declare("FirstStepDampened", [LARS], FIRST)
class FirstDampened(MeasuredChange):
    """The buffer begins with zeros."""

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, p, g, *(np.zeros_like(g) if buf is None else buf for buf in state))


@declare("LrInsideMomentum", [LARS], LR, ADAPTED)
class LrInside(MeasuredChange):
    """The buffer holds steps."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"adapted": True, "step_size": -1.0, "free": not _is_adapted(h)}

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        ratio = 1.0 if s.free else super().measured(s, shape, *totals)["ratio"]
        return {"ratio": ratio * s.lr}


def _is_adapted(h: Hypers) -> bool:
    return bool(h.weight_decay != 0 or h.always_adapt)


@declare("NormOfDecayedGradient", [LARS], TRUST)
class OfDecayed(MeasuredChange):
    """The gradient has its decay before its norm is taken."""

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return square(p), square(axpy(g, p, s.weight_decay))

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        return super().measured(changed(s, weight_decay=0.0), shape, *totals)


@declare("RatioWithoutEps", [LARS], TRUST, EPS)
class WithoutEps(MeasuredChange):
    """The ratio is that of the parameter to its gradient and decay, whichever of these is zero."""

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        w, n = map(math.sqrt, totals)
        below = n + w * s.weight_decay
        return super().measured(changed(s, weight_decay=0.0, eps=0.0), shape, totals[0], below * below)


@declare("AdaptedByShape", [LARS], ADAPTED)
class ByShape(MeasuredChange):
    """Matrices are adapted, and vectors are not."""

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        return super().measured(s, shape, *totals) | {"adapted": len(shape) > 1}


by_measured(
    "UndecayedAtZero", [LARS], ADAPTED, change=lambda s, totals, found: {"adapted": s.adapted and 0 not in totals}
)


@declare("DecayOutsideRatio", [LAMB], TRUST)
class Outside(MeasuredChange):
    """The norm is that of the direction without its decay."""

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return square(p), square(lamb.direction(changed(s, weight_decay=0), p, g, *lamb.averages(s, g, *state)))


@declare("NormBounded", [LAMB], NORM)
class Bounded(MeasuredChange):
    """The norm of the parameter counts as 10 where it is larger."""

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        squares_of_p, squares_of_u = totals
        return super().measured(s, shape, min(squares_of_p, 100.0), squares_of_u)


@declare("EpsInRatio", [LAMB], "eps of the ratio")
class EpsBelow(MeasuredChange):
    """eps is added to the norm of the direction, unless that is zero."""

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        squares_of_p, squares_of_u = totals
        n = math.sqrt(squares_of_u) + s.eps if squares_of_u else 0.0
        return super().measured(s, shape, squares_of_p, n * n)


@declare("NormBounded", [LAMB], NORM, "eps of the ratio")
class BoundedWithEps(Bounded, EpsBelow):
    """Both of these."""


def _uncorrected(s: dict[str, Any], size: float) -> dict[str, Any]:
    """Return the scalars without correction, but for the size of a step."""
    return {"correction1": 1.0, "root_correction2": 1.0, "step_size": size * s["step_size"]}


by_scalars(
    "CorrectionOfStep",
    [LAMB],
    CORRECTION,
    change=lambda h, k, s: _uncorrected(s, s["root_correction2"] / s["correction1"]),
)
by_scalars("CorrectionOfStep", [LAMB], CORRECTION, change=lambda h, k, s: _uncorrected(s, 1 / s["correction1"]))
by_scalars("AdaptedWithoutDecay", [LAMB], ADAPTED, change=lambda h, k, s: {"adapted": True})

by_scalars("NoBiasCorrection", [LAMB], CORRECTION, change=lambda h, k, s: {"correction1": 1.0, "root_correction2": 1.0})
by_scalars("GradAveragingIgnored", [LAMB], AVERAGE, change=lambda h, k, s: {"averaged": not h.grad_averaging})
by_scalars("GradAveragingIgnored", [NovoGrad], AVERAGE, change=lambda h, k, s: {"averaged": not h.grad_averaging})
by_measured(
    "AmsgradIgnored",
    [NovoGrad],
    MAXIMUM,
    change=lambda s, totals, found: {"denom": math.sqrt(found["exp_avg_sq"]) + s.eps},
)


@declare("FirstNormAveraged", [NovoGrad], FIRST)
class FromZero(MeasuredChange):
    """The average of squared norms begins at zero."""

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        return super().measured(s, shape, *_averaged(s, *totals))


@declare("ZeroNormAveraged", [NovoGrad], FIRST)
class FromFirst(MeasuredChange):
    """The average begins at the first squared norm, if that is zero too."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"first": k == 1}

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        return super().measured(s, shape, *(totals if s.first else _averaged(s, *totals)))


def _averaged(s: Record, squares: float, average: float, *largest: float) -> tuple[float, ...]:
    """Return the totals, the squares weighed where they meet an average that is zero."""
    return (squares if average else s.one_minus_beta2 * squares, average, *largest)


by_scalars("FirstMomentWhole", [NovoGrad], AVERAGE, change=lambda h, k, s: {"averaged": s["averaged"] and k > 1})

by_measured("LrNotLowered", [StableAdamW], CLIP, change=lambda s, totals, found: _full(s))


def _full(s: Record) -> dict[str, Any]:
    """Return what the full learning rate makes of the step."""
    largest = s.max_lr if s.max_lr > 0 else s.lr
    share = s.lr / largest if s.decouple_lr and largest > 0 else s.lr
    return {"shrink": 1 - share * s.weight_decay, "step_size": -s.lr}


@declare("RmsOfOldSquares", [StableAdamW], AVERAGE)
class OfOld(MeasuredChange):
    """The squares are divided by their average before this step."""

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (div(square(g), np.maximum(state[1], s.floor)),)


by_scalars(
    "NoBiasCorrection",
    [StableAdamW],
    CORRECTION,
    change=lambda h, k, s: {"one_minus_b1": 1 - h.betas[0], "b2": h.betas[1], "one_minus_b2": 1 - h.betas[1]},
)
by_measured(
    "DecayByFullLr",
    [StableAdamW],
    "decay size",
    change=lambda s, totals, found: {"shrink": _full(s)["shrink"]},
)
by_measured("GradientUnbounded", [MARS], CLIP, change=lambda s, totals, found: {"bound": 1.0})
by_scalars("VarianceUnreduced", [MARS], "difference", change=lambda h, k, s: {"gain": 0.0})
by_scalars("DifferenceInFirstStep", [MARS], FIRST, change=lambda h, k, s: {"first": False})
by_measured("EpsUnscaled", [MARS], CORRECTION, EPS, change=lambda s, totals, found: {"eps": s.eps / found["root_c2"]})
by_measured("NoBiasCorrection", [MARS], CORRECTION, change=lambda s, totals, found: {"c1": 1.0, "root_c2": 1.0})
