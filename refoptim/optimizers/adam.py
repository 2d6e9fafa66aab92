"""Adam."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, lerp, maximum, mul, sqrt
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Adam(Optimizer):
    """Adam: steps scaled by running averages of the gradient and of its square.

    .. code-block:: text

        g = g + weight_decay * p                       coupled decay, or
        p = p * (1 - lr * weight_decay)                if decoupled_weight_decay
        exp_avg    = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        max_exp_avg_sq = max(max_exp_avg_sq, exp_avg_sq)         if amsgrad, and used below for exp_avg_sq
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta2**k) + eps
        p = p - (lr / (1 - beta1**k) * exp_avg) / denom

    If ``cautious``, a mask stands on ``exp_avg`` in the last line.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, and ``max_exp_avg_sq`` if ``amsgrad`` (all like the parameter).

    Sources: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1; Reddi, Kale, Kumar,
    "On the convergence of Adam and beyond", ICLR 2018, algorithm 2 (the maximum is taken before bias correction).
    """

    varying = frozenset({"root_correction2", "shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        amsgrad: hp.AMSGrad = False,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
        decoupled_weight_decay: hp.Decoupled = False,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        moments: dict[str, float | None] = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        return moments | ({"max_exp_avg_sq": 0.0} if h.amsgrad else {})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled_weight_decay,
            shrink=1 - h.lr * h.weight_decay,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            amsgrad=h.amsgrad,
            root_correction2=power(1 - power(beta2, k), 0.5),
            eps=h.eps,
            step_size=-(h.lr / (1 - power(beta1, k))),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq, *largest = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        elif s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        if s.amsgrad:
            largest = [maximum(largest[0], exp_avg_sq)]
        denom = sqrt(largest[0] if s.amsgrad else exp_avg_sq)
        denom = add(div(denom, s.root_correction2), s.eps)
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size)
        return p, exp_avg, exp_avg_sq, *largest
