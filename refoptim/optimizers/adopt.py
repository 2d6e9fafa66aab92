"""ADOPT."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, addcmul, axpy, div, lerp, maximum, minimum, mul, sqrt
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class ADOPT(Optimizer):
    """ADOPT: gradients are divided by the root of their squares before, and averaged after that.

    .. code-block:: text

        g = g + weight_decay * p                       unless decoupled
        exp_avg_sq = g * g                             in the first step, which does nothing else
        p = p - lr * weight_decay * p                  if decoupled
        u = g / max(sqrt(exp_avg_sq), eps)             by the squares before this gradient
        u = min(max(u, -c), c),  c = (k - 1)**clip_exp
        exp_avg = lerp(exp_avg, u, 1 - beta1)
        p = p - lr * exp_avg
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g

    The exponent of the paper is 1/4; 0.333 is that of timm, whose defaults are these.

    If ``cautious``, a mask stands on ``exp_avg`` where it moves the parameter.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter).

    Source: Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", NeurIPS 2024,
    algorithm 2.
    """

    of_torch = False
    varying = frozenset({"decay", "high", "low", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.9999),
        eps: hp.Epsilon = 1e-6,
        clip_exp: Annotated[
            hp.Scalar | None, hp.Real("the exponent of the bound of the k-th step; None bounds nothing", optional=True)
        ] = 0.333,
        weight_decay: hp.WeightDecay = 0,
        decoupled: hp.Decoupled = False,
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
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled,
            first=k == 1,
            decay=-h.lr * h.weight_decay,
            eps=h.eps,
            clipped=is_given(h.clip_exp),
            low=-bound(h.clip_exp, k),
            high=bound(h.clip_exp, k),
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        if s.weight_decay and not s.decoupled:
            g = axpy(g, p, s.weight_decay)
        if s.first:
            return p, exp_avg, mul(g, g)
        if s.weight_decay and s.decoupled:
            p = axpy(p, p, s.decay)
        u = div(g, maximum(sqrt(exp_avg_sq), s.eps))
        if s.clipped:
            u = minimum(maximum(u, s.low), s.high)
        exp_avg = lerp(exp_avg, u, s.one_minus_beta1)
        p = axpy(p, masked(s, exp_avg, g), s.step_size)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        return p, exp_avg, exp_avg_sq


def is_given(x: float | None) -> bool:
    """Tell whether there is a number; on a device NaN stands for None."""
    return x is not None


def bound(clip_exp: float | None, k: int) -> float:
    """Return the bound of step ``k``; 0 where there is none."""
    return 0.0 if clip_exp is None else power(k - 1, clip_exp)
