"""Adamax."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, absolute, add, addcdiv, axpy, lerp, maximum, mul
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Adamax(Optimizer):
    """Adam with the largest recent gradient in place of the root of the average of squares.

    .. code-block:: text

        g = g + weight_decay * p
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        exp_inf = max(beta2 * exp_inf, |g| + eps)
        p = p - (lr / (1 - beta1**k) * exp_avg) / exp_inf

    If ``cautious``, a mask stands on ``exp_avg`` in the last line.

    State: ``step``, ``exp_avg``, ``exp_inf`` (like the parameter).

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 2, with ``eps`` inside the
    maximum.
    """

    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 2e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        foreach: hp.Foreach = None,
        *,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        capturable: hp.Capturable = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            eps=h.eps,
            step_size=-(h.lr / (1 - power(beta1, k))),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_inf = state
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_inf = maximum(mul(exp_inf, s.beta2), add(absolute(g), s.eps))
        p = addcdiv(p, masked(s, exp_avg, g), exp_inf, s.step_size)
        return p, exp_avg, exp_inf
