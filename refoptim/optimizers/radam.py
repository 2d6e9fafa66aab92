"""RAdam."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, add, addcmul, axpy, div, lerp, mul, reciprocal, sqrt, sub
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer
from .rectification import length, longest, rectification


class RAdam(Optimizer):
    """Adam with its variance rectified: plain momentum until the average of squares can be trusted.

    .. code-block:: text

        rho_inf = 2 / (1 - beta2) - 1
        rho     = rho_inf - 2 * k * beta2**k / (1 - beta2**k)
        rect    = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))

        g = g + weight_decay * p                       coupled decay, or
        p = p * (1 - lr * weight_decay)                if decoupled_weight_decay
        exp_avg    = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        u = exp_avg / (1 - beta1**k) * lr
        u = u * (1 / (sqrt(exp_avg_sq) + eps) * sqrt(1 - beta2**k)) * rect        if rho > 5
        p = p - u

    If ``cautious``, a mask stands on ``exp_avg`` in the first line of ``u``.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter).

    Source: Liu, Jiang, He, Chen, Liu, Gao, Han, "On the variance of the adaptive learning rate and beyond", ICLR 2020,
    algorithm 2, with the threshold 5 for 4.
    """

    varying = frozenset({"correction1", "lr", "rect", "root_correction2", "shrink"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        decoupled_weight_decay: hp.Decoupled = False,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        correction2 = 1 - power(beta2, k)
        rho, rho_inf = length(beta2, k), longest(beta2)
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled_weight_decay,
            shrink=1 - h.lr * h.weight_decay,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            correction1=1 - power(beta1, k),
            lr=h.lr,
            eps=h.eps,
            root_correction2=power(correction2, 0.5),
            rectified=rho > 5,
            rect=rectification(rho, rho_inf) if rho > 5 else 0.0,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        elif s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        u = mul(div(masked(s, exp_avg, g), s.correction1), s.lr)
        if s.rectified:
            u = mul(u, reciprocal(add(sqrt(exp_avg_sq), s.eps), s.root_correction2))
            u = mul(u, s.rect)
        return sub(p, u), exp_avg, exp_avg_sq
