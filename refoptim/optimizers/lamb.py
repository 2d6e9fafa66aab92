"""LAMB."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics.arith import Array, add, addcmul, axpy, div, lerp, mul, sqrt
from ..numerics.power import power
from ..numerics.tree import square
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class LAMB(Optimizer):
    """Adam's direction, scaled to the size of the parameter: layer-wise adaptation for large batches.

    .. code-block:: text

        g          = g / max(norm(grads) / max_grad_norm, 1)       unless max_grad_norm is None
        exp_avg    = lerp(exp_avg, g, 1 - beta1)                   if grad_averaging
        exp_avg    = beta1 * exp_avg + g                           otherwise
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        m     = exp_avg / (1 - beta1**k)                           / 1 unless bias_correction, here and below
        denom = sqrt(exp_avg_sq) / (1 - beta2**k)**0.5 + eps
        u     = m / denom + weight_decay * p
        ratio = norm(p) / norm(u)                                  1 where one of them is 0
        ratio = min(ratio, 1)                                      if trust_clip
        u     = ratio * u                                          if weight_decay or always_adapt
        p     = p - lr * u

    Norms are over a whole parameter, in the order of ``tree``. That of all gradients is over those of all groups with a
    ``max_grad_norm``, the squares of one added to those of the next in double; on a GPU a step waits for it.

    If ``cautious``, a mask stands on ``m / denom``, so the norm is that of what is left.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter).

    Source: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020, arXiv
    1904.00962 v5, algorithm 2.
    """

    of_torch = False
    masks_sums = True
    varying = frozenset({"correction1", "root_correction2", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-6,
        weight_decay: hp.WeightDecay = 0.01,
        bias_correction: Annotated[bool, hp.Flag("correct the averages for their beginning at zero")] = True,
        grad_averaging: Annotated[bool, hp.Flag("weigh the gradient by 1 - betas[0] in its average")] = True,
        trust_clip: Annotated[bool, hp.Flag("scale the direction down only (LAMBC)")] = False,
        always_adapt: Annotated[bool, hp.Flag("scale the direction without a weight decay too")] = False,
        max_grad_norm: Annotated[
            hp.Scalar | None,
            hp.Real("the norm of all gradients at most; None leaves them as they are", True, interval=hp.POSITIVE),
        ] = None,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
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
            clipped=h.max_grad_norm is not None,
            clip=1.0,
            weight_decay=h.weight_decay,
            averaged=h.grad_averaging,
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            correction1=1 - power(beta1, k) if h.bias_correction else 1.0,
            root_correction2=power(1 - power(beta2, k), 0.5) if h.bias_correction else 1.0,
            eps=h.eps,
            adapted=h.weight_decay != 0 or h.always_adapt,
            trust_clip=h.trust_clip,
            step_size=-h.lr,
        )

    @classmethod
    def takes_part(cls, h: Hypers) -> bool:
        return h.max_grad_norm is not None

    @classmethod
    def sums_over_all(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (square(g),)

    @classmethod
    def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
        (squares,) = totals
        return dict(clip=excess(math.sqrt(squares), h.max_grad_norm))

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = averages(s, g, *state)
        return square(p), square(direction(s, p, g, exp_avg, exp_avg_sq))

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        squares_of_p, squares_of_u = totals
        w = math.sqrt(squares_of_p)
        n = math.sqrt(squares_of_u)
        ratio = w / n if w > 0 and n > 0 else 1
        clipped = 1 if ratio > 1 else ratio
        return dict(ratio=clipped if s.trust_clip else ratio)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = averages(s, g, *state)
        u = direction(s, p, g, exp_avg, exp_avg_sq)
        if s.adapted:
            u = mul(u, s.ratio)
        return axpy(p, u, s.step_size), exp_avg, exp_avg_sq


def averages(s: Record, g: Array, exp_avg: Array, exp_avg_sq: Array) -> tuple[Array, Array]:
    """Return the new averages."""
    if s.clipped:
        g = div(g, s.clip)
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1) if s.averaged else add(mul(exp_avg, s.beta1), g)
    exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
    return exp_avg, exp_avg_sq


def direction(s: Record, p: Array, g: Array, exp_avg: Array, exp_avg_sq: Array) -> Array:
    """Return Adam's direction, masked, with the decay."""
    denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps)
    u = masked(s, div(div(exp_avg, s.correction1), denom), g)
    return axpy(u, p, s.weight_decay) if s.weight_decay else u


def excess(norm: float, bound: float) -> float:
    """Return how many times its bound a norm is, 1 at least; NaN stays NaN, as in torch's clamp."""
    found = norm / bound
    return 1.0 if found < 1 else found
