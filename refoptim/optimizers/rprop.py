"""Rprop."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, addcmul, maximum, minimum, mul, round_to, sign, where
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Rprop(Optimizer):
    """Resilient propagation: a step size per element, grown or shrunk by the signs of the gradient alone.

    .. code-block:: text

        factor = etas[1]                                             where g * prev > 0
        factor = etas[0]                                             where g * prev < 0
        factor = 1                                                   elsewhere
        step_size = min(max(step_size * factor, step_sizes[0]), step_sizes[1])
        g = 0                                                        where factor is etas[0]
        p = p - sign(g) * step_size
        prev = g

    State: ``step``, ``prev``, ``step_size`` (like the parameter; ``lr`` at first).

    Source: Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
    ICNN 1993, without weight backtracking (the variant called iRprop-).
    """

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-2,
        etas: Annotated[
            tuple[hp.Scalar, hp.Scalar],
            hp.Several(
                "factors by which a step size shrinks and grows",
                items=(
                    hp.Real("", stem="Invalid eta values: {value}", interval=hp.Interval("(0, 1)")),
                    hp.Real("", stem="Invalid eta values: {value}", interval=hp.Interval("(1, inf)")),
                ),
            ),
        ] = (0.5, 1.2),
        step_sizes: Annotated[
            tuple[hp.Scalar, hp.Scalar],
            hp.Several("the smallest and the largest step size", items=(hp.Real(""), hp.Real(""))),
        ] = (1e-6, 50),
        *,
        capturable: hp.Capturable = False,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check(cls, h: Hypers) -> None:
        smallest, largest = h.step_sizes
        if smallest > largest:
            raise ValueError(f"Invalid step_sizes: {h.step_sizes} (step_sizes[0] must be in [0, step_sizes[1]])")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"prev": 0.0, "step_size": h.lr}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            eta_minus=h.etas[0],
            eta_plus=h.etas[1],
            smallest=h.step_sizes[0],
            largest=h.step_sizes[1],
            zero=0.0,
            one=1.0,
            minus_one=-1.0,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        prev, step_size = state
        eta_minus, eta_plus, one = (round_to(x, g) for x in (s.eta_minus, s.eta_plus, s.one))
        factor = sign(mul(g, prev))
        factor = where(factor > 0, eta_plus, factor)
        factor = where(factor < 0, eta_minus, factor)
        factor = where(factor == 0, one, factor)
        step_size = minimum(maximum(mul(step_size, factor), s.smallest), s.largest)
        g = where(factor == eta_minus, round_to(s.zero, g), g)
        p = addcmul(p, sign(g), step_size, s.minus_one)
        return p, g, step_size
