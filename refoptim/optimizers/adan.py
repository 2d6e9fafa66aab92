"""Adan."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, lerp, mul, neg, sqrt
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Adan(Optimizer):
    """Adan: Adam with Nesterov's momentum, estimated from differences of gradients.

    .. code-block:: text

        d = g + neg_pre_grad                           0 in the first step
        exp_avg      = lerp(exp_avg, g, 1 - beta1)
        exp_avg_diff = beta2 * exp_avg_diff + (1 - beta2) * d
        u            = beta2 * d + g
        exp_avg_sq   = beta3 * exp_avg_sq + ((1 - beta3) * u) * u
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta3**k) + eps
        p = p * (1 - lr * weight_decay)                if no_prox
        p = p - (lr / (1 - beta1**k) * exp_avg) / denom
        p = p - (lr * beta2 / (1 - beta2**k) * exp_avg_diff) / denom
        p = p / (1 + lr * weight_decay)                else

    The betas are 1 minus those of the paper. Its proximal decay divides at the end.

    If ``cautious``, a mask stands on ``exp_avg`` where it moves the parameter, not on ``exp_avg_diff``.

    State: ``step``, ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, and ``neg_pre_grad``, the previous gradient with its
    sign turned (all like the parameter).

    Source: Xie, Zhou, Li, Lin, Yan, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models",
    IEEE TPAMI 46 (2024), algorithm 1.
    """

    of_torch = False
    varying = frozenset({"grow", "root_correction3", "shrink", "step_size", "step_size_diff"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: Annotated[
            tuple[hp.Scalar, hp.Scalar, hp.Scalar],
            hp.Several("decay rates of the averages of gradients, differences and squares", items=hp.THREE_BETAS),
        ] = (0.98, 0.92, 0.99),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        no_prox: Annotated[bool, hp.Flag("shrink the parameter before the step, as AdamW does")] = False,
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
        return {"exp_avg": 0.0, "exp_avg_diff": 0.0, "exp_avg_sq": 0.0, "neg_pre_grad": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2, beta3 = h.betas
        return dict(
            first=k == 1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            beta3=beta3,
            one_minus_beta3=1 - beta3,
            root_correction3=power(1 - power(beta3, k), 0.5),
            eps=h.eps,
            no_prox=h.no_prox,
            shrink=1 - h.lr * h.weight_decay,
            step_size=-(h.lr / (1 - power(beta1, k))),
            step_size_diff=-(h.lr * beta2 / (1 - power(beta2, k))),
            grow=1 + h.lr * h.weight_decay,
            zero=0.0,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad = state
        if s.first:
            neg_pre_grad = neg(g)
        d = add(neg_pre_grad, g)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_diff = axpy(mul(exp_avg_diff, s.beta2), d, s.one_minus_beta2)
        u = add(mul(d, s.beta2), g)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta3), u, u, s.one_minus_beta3)
        denom = add(div(sqrt(exp_avg_sq), s.root_correction3), s.eps)
        if s.no_prox:
            p = mul(p, s.shrink)
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size)
        p = addcdiv(p, exp_avg_diff, denom, s.step_size_diff)
        if not s.no_prox:
            p = div(p, s.grow)
        neg_pre_grad = add(neg(g), s.zero)  # which makes -0 to 0
        return p, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad
