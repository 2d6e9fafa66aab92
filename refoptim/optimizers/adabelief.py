"""AdaBelief."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, maximum, mul, sqrt, sub
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer
from .rectification import length, longest


class AdaBelief(Optimizer):
    """AdaBelief: steps scaled by how far gradients are from their running average.

    .. code-block:: text

        g = g + weight_decay * p                       coupled decay, or
        p = p * (1 - lr * weight_decay)                if weight_decouple, or
        p = p * (1 - weight_decay)                     if fixed_decay too
        exp_avg     = beta1 * exp_avg + (1 - beta1) * g
        r           = g - exp_avg
        exp_avg_var = beta2 * exp_avg_var + ((1 - beta2) * r) * r + eps
        max_exp_avg_var = max(max_exp_avg_var, exp_avg_var)      if amsgrad
        n_max = 2 / (1 - beta2) - 1
        n     = n_max - 2 * k * beta2**k / (1 - beta2**k)
        c     = sqrt((1 - beta2**k) * (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2))
        p = p - (c / (1 - beta1**k) * lr * exp_avg) / (sqrt(exp_avg_var) + eps)       if rectify and n >= 5
        p = p - 1 / (1 - beta1**k) * lr * exp_avg                if rectify and degenerated_to_sgd, before that
        denom = sqrt(exp_avg_var) / sqrt(1 - beta2**k) + eps     without rectify; of max_exp_avg_var if amsgrad
        p = p - (lr / (1 - beta1**k) * exp_avg) / denom

    ``eps`` is added to the average itself, so it adds up to about ``eps / (1 - beta2)``, and once more to the root. The
    rectified step takes no notice of ``amsgrad``.

    If ``cautious``, a mask stands on ``exp_avg`` where it moves the parameter.

    State: ``step``, ``exp_avg``, ``exp_avg_var``, and ``max_exp_avg_var`` if ``amsgrad`` (all like the parameter).

    Source: Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan, "AdaBelief optimizer: adapting stepsizes by
    the belief in observed gradients", NeurIPS 2020, algorithm 2; rectified as in the authors' package.
    """

    of_torch = False
    varying = frozenset({"root_correction2", "shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-16,
        weight_decay: hp.WeightDecay = 0,
        amsgrad: hp.AMSGrad = False,
        weight_decouple: hp.Decoupled = True,
        fixed_decay: Annotated[bool, hp.Flag("shrink by 1 - weight_decay, whatever lr is")] = False,
        rectify: Annotated[bool, hp.Flag("rectify the variance of the steps, as RAdam does")] = True,
        degenerated_to_sgd: Annotated[
            bool, hp.Flag("step by the average of gradients until the rectification begins, instead of waiting")
        ] = True,
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
        averages: dict[str, float | None] = {"exp_avg": 0.0, "exp_avg_var": 0.0}
        return averages | ({"max_exp_avg_var": 0.0} if h.amsgrad else {})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        power1, power2 = power(beta1, k), power(beta2, k)
        n, n_max = length(beta2, k), longest(beta2)
        rate = 1.0 if h.fixed_decay else h.lr
        size = rectification(n, n_max, power2) / (1 - power1) if n >= 5 else 1 / (1 - power1)
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.weight_decouple,
            shrink=1 - rate * h.weight_decay,
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            eps=h.eps,
            amsgrad=h.amsgrad,
            root_correction2=power(1 - power2, 0.5),
            rectify=h.rectify,
            rectified=n >= 5,
            degenerated=h.degenerated_to_sgd,
            step_size=-size * h.lr if h.rectify else -(h.lr / (1 - power1)),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_var, *largest = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        elif s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1)
        r = sub(g, exp_avg)
        exp_avg_var = add(addcmul(mul(exp_avg_var, s.beta2), r, r, s.one_minus_beta2), s.eps)
        if s.amsgrad:
            largest = [maximum(largest[0], exp_avg_var)]
        u = masked(s, exp_avg, g)
        if s.rectify and not s.rectified:
            p = axpy(p, u, s.step_size) if s.degenerated else p
        else:
            denom = sqrt(largest[0] if s.amsgrad and not s.rectify else exp_avg_var)
            denom = denom if s.rectify else div(denom, s.root_correction2)
            p = addcdiv(p, u, add(denom, s.eps), s.step_size)
        return p, exp_avg, exp_avg_var, *largest


def rectification(n: float, n_max: float, power2: float) -> float:
    """Return the factor that keeps the variance of the step what it would be at ``n_max``, corrected for the start."""
    return power((1 - power2) * (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2), 0.5)
