"""How implementations of SOAP differ, beyond what ``wider`` says of all: it keeps its state where it measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..numerics.arith import Array, lerp, mul
from ..numerics.tree import square
from ..optimizers import soap
from ..optimizers.soap import SOAP
from ..step.rule import Hypers, Record
from .change import Change, MeasuredChange, Words, by_scalars, changed, declare, with_words
from .correction import CORRECTION, uncorrected
from .momentum import FIRST
from .rounding import to_brain, to_single
from .wider import AVERAGE

BASES = "bases"


def state_in(flag: str, narrow: Callable[[Array], Array]) -> None:
    """Enter a change that rounds the state to narrower numbers."""

    @declare(flag, [SOAP], "dtype of moments")
    class Narrow(MeasuredChange):
        @classmethod
        def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
            right = super().measure(s, p, g, *state)
            return {name: x if name == "direction" else narrow(x) for name, x in right.items()}


state_in("MomentsInFloat32", to_single)
state_in("MomentsInBfloat16", to_brain)
by_scalars("NoBiasCorrection", [SOAP], CORRECTION, change=uncorrected)
by_scalars("NormalizeIgnored", [SOAP], "size of the step", change=lambda h, k, s: {"normalize_gradient": False})


def _always(h: Hypers, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"renewed": not s["first"]}


by_scalars("BasesInEachStep", [SOAP], BASES, change=_always)


@declare("DecayBeforeUpdate", [SOAP], "decay place")
class ShrunkBefore(Change):
    """The parameter shrinks before the step."""

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        p = p if s.first else mul(p, s.shrink)
        return super().update(changed(s, shrink=type(s.shrink)(1)), p, g, *state)


@declare("MovedInFirstStep", [SOAP], FIRST)
class MovedAtOnce(MeasuredChange):
    """The first step goes on with the bases that it makes."""

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        begun = super().measure(s, p, g, *state)
        if not s.first:
            return begun
        exp_avg, exp_avg_sq, *matrices = state
        bases = [x for name, x in begun.items() if name.startswith("Q_")]
        given = [x for pair in zip(matrices[::2], bases, strict=True) for x in pair]
        moved = super().measure(changed(s, first=False), p, g, exp_avg, exp_avg_sq, *given)
        return {**moved, **{name: x for name, x in begun.items() if name[:2] in ("GG", "Q_")}}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(changed(s, first=False), p, g, *state)


@declare("AverageRotated", [SOAP], AVERAGE)
class Rotated(MeasuredChange):
    """The average is that of rotated gradients, whatever the bases were."""

    @classmethod
    def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        def averaged(s: Record, g: Array, exp_avg: Array, exp_avg_sq: Array, bases: Any) -> tuple[Array, Array]:
            r = soap.rotate(s, g, bases)
            return lerp(exp_avg, r, s.one_minus_beta1), lerp(exp_avg_sq, square(r), s.one_minus_beta2)

        still = with_words(soap.update_of, {"rotate": lambda s, x, bases: x})
        return super().measuring(s, p, g, *state) | {"averaged": averaged, "update_of": still}


@declare("FactorInFloat32", [SOAP], "rounding")
class SingleFactor(MeasuredChange):
    """The orthogonal factors of float64 parameters are computed in float32."""

    @classmethod
    def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        def factor(s: Record, x: Array) -> Array:
            return soap.orthogonal_factor(s, x.astype(np.float32)).astype(x.dtype)

        single = with_words(soap.renewed, {"orthogonal_factor": factor})
        return super().measuring(s, p, g, *state) | {"renewed": single}
