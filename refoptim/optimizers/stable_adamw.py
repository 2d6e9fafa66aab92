"""StableAdamW."""

from __future__ import annotations

import math
from math import prod
from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, div, lerp, maximum, mul, sqrt
from ..numerics.power import power
from ..numerics.tree import square
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class StableAdamW(Optimizer):
    """AdamW whose learning rate is lowered for a parameter where its gradient is larger than the averages say.

    .. code-block:: text

        b1, b2     = (beta**k - beta) / (beta**k - 1)              of each beta: 0 in the first step
        exp_avg    = lerp(exp_avg, g, 1 - b1)
        exp_avg_sq = b2 * exp_avg_sq + ((1 - b2) * g) * g
        rms        = sqrt(mean((g * g) / max(exp_avg_sq, eps * eps)))
        lr         = lr / max(1, rms)
        p          = p * (1 - lr * weight_decay)                   unless decouple_lr
        p          = p * (1 - lr / max_lr * weight_decay)          if decouple_lr
        p          = p - lr * exp_avg / (sqrt(exp_avg_sq) + eps)

    The averages need no correction, since their betas have it. The mean is over a whole parameter, in the order of
    ``tree``.

    If ``cautious``, a mask stands on ``exp_avg`` in the last line.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter).

    Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS 2023,
    arXiv 2304.13013, algorithm 2.
    """

    of_torch = False
    varying = frozenset({"one_minus_b1", "b2", "one_minus_b2", "lr"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.99),
        weight_decay: hp.WeightDecay = 1e-2,
        eps: hp.Epsilon = 1e-6,
        decouple_lr: Annotated[
            bool, hp.Flag("shrink the parameter by weight_decay at the largest learning rate, not by lr * weight_decay")
        ] = False,
        max_lr: Annotated[
            hp.Scalar | None,
            hp.Real(
                "the largest learning rate of the schedule, for decouple_lr; None: that of the constructor",
                optional=True,
                interval=hp.Interval("(0, inf)"),
            ),
        ] = None,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        if decouple_lr and max_lr is None:
            max_lr = hp.number("lr", lr) or None
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        b1, b2 = (debiased(beta, k) for beta in h.betas)
        return dict(
            weight_decay=h.weight_decay,
            one_minus_b1=1 - b1,
            b2=b2,
            one_minus_b2=1 - b2,
            eps=h.eps,
            floor=h.eps * h.eps,
            lr=h.lr,
            decouple_lr=h.decouple_lr,
            max_lr=0.0 if h.max_lr is None else h.max_lr,
        )

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        _, exp_avg_sq = averages(s, g, *state)
        return (div(square(g), maximum(exp_avg_sq, s.floor)),)

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        (squares,) = totals
        size = prod(shape)
        rms = math.sqrt(squares / (size if size > 1 else 1))
        lr = s.lr / (rms if rms > 1 else 1)
        largest = s.max_lr if s.max_lr > 0 else s.lr
        share = lr / largest if s.decouple_lr and largest > 0 else lr
        return dict(shrink=1 - share * s.weight_decay, step_size=-lr)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = averages(s, g, *state)
        if s.weight_decay:
            p = mul(p, s.shrink)
        p = addcdiv(p, masked(s, exp_avg, g), add(sqrt(exp_avg_sq), s.eps), s.step_size)
        return p, exp_avg, exp_avg_sq


def debiased(beta: float, k: int) -> float:
    """Return the decay rate of step ``k`` by which an average needs no correction for its beginning."""
    return (power(beta, k) - beta) / (power(beta, k) - 1)


def averages(s: Record, g: Array, exp_avg: Array, exp_avg_sq: Array) -> tuple[Array, Array]:
    """Return the new averages."""
    exp_avg = lerp(exp_avg, g, s.one_minus_b1)
    exp_avg_sq = addcmul(mul(exp_avg_sq, s.b2), g, g, s.one_minus_b2)
    return exp_avg, exp_avg_sq
