"""MARS."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics.arith import Array, add, addcmul, axpy, div, mul, sign, sqrt, sub
from ..numerics.power import power
from ..numerics.tree import square
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class MARS(Optimizer):
    """MARS: AdamW or Lion on gradients whose variance is reduced by the gradient before.

    .. code-block:: text

        c = g + gamma * (beta1 / (1 - beta1)) * (g - last_grad)    g in the first step
        c = c / max(1, norm(c))
        exp_avg    = beta1 * exp_avg + (1 - beta1) * c
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * c) * c
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta2**k) + eps
        u = (exp_avg / (1 - beta1**k)) / denom                     mars_type="adamw"
        u = sign(exp_avg)                                          mars_type="lion", which needs no exp_avg_sq
        p = p - lr * (weight_decay * p + u)
        last_grad = g

    Unless optimize_1d, parameters with fewer than two dimensions have ``c = g``, always AdamW's direction, ``betas_1d``
    (None: ``betas``) and ``lr * lr_1d_factor``. The norm is over a whole parameter, in the order of ``tree``.

    If ``cautious``, a mask stands on ``exp_avg`` in the lines of ``u``.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, ``last_grad`` (like the parameter).

    Source: Yuan, Liu, Wu, Zhou, Gu, "MARS: unleashing the power of variance reduction for training large models", 2024,
    arXiv 2411.10438, algorithm 2. There the first step takes 0 for the gradient before; that it has none, as here, is
    timm's.
    """

    of_torch = False
    varying = frozenset(
        {
            *("correction1", "root_correction2", "step_size"),
            *("correction1_1d", "root_correction2_1d", "step_size_1d"),
        }
    )

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 3e-3,
        betas: hp.Betas = (0.9, 0.99),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        gamma: Annotated[hp.Scalar, hp.Real("how much of the difference of gradients is added")] = 0.025,
        mars_type: Annotated[str, hp.Choice("whose direction it takes", options=("adamw", "lion"))] = "adamw",
        optimize_1d: Annotated[
            bool, hp.Flag("treat parameters with fewer than two dimensions like the others")
        ] = False,
        lr_1d_factor: Annotated[hp.Scalar, hp.Real("multiplies lr for parameters with fewer dimensions")] = 1.0,
        betas_1d: Annotated[
            tuple[hp.Scalar, hp.Scalar] | None,
            hp.Several("betas of parameters with fewer than two dimensions", items=hp.BETAS, optional=True),
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
        reduced = len(shape) > 1 or h.optimize_1d
        squares: dict[str, float | None] = {} if reduced and h.mars_type == "lion" else {"exp_avg_sq": 0.0}
        return {"exp_avg": 0.0, **squares, "last_grad": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        beta1_1d, beta2_1d = h.betas if h.betas_1d is None else h.betas_1d
        return dict(
            first=k == 1,
            weight_decay=h.weight_decay,
            gain=h.gamma * (beta1 / (1 - beta1)),
            lion=h.mars_type == "lion",
            every=h.optimize_1d,
            eps=h.eps,
            beta1=beta1,
            beta2=beta2,
            correction1=1 - power(beta1, k),
            root_correction2=math.sqrt(1 - power(beta2, k)),
            step_size=-h.lr,
            beta1_1d=beta1_1d,
            beta2_1d=beta2_1d,
            correction1_1d=1 - power(beta1_1d, k),
            root_correction2_1d=math.sqrt(1 - power(beta2_1d, k)),
            step_size_1d=-(h.lr * h.lr_1d_factor),
        )

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (square(reduced(s, g, state[-1])),)

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        (squares,) = totals
        whole = s.every or len(shape) > 1
        norm = math.sqrt(squares)
        bound = 1 if norm < 1 else norm
        beta1 = s.beta1 if whole else s.beta1_1d
        beta2 = s.beta2 if whole else s.beta2_1d
        return dict(
            corrected=whole,
            by_sign=whole and s.lion,
            squared=not (whole and s.lion),
            bound=bound if whole else 1,
            b1=beta1,
            one_minus_b1=1 - beta1,
            b2=beta2,
            one_minus_b2=1 - beta2,
            c1=s.correction1 if whole else s.correction1_1d,
            root_c2=s.root_correction2 if whole else s.root_correction2_1d,
            size=s.step_size if whole else s.step_size_1d,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, *squares, last_grad = state
        c = div(reduced(s, g, last_grad), s.bound) if s.corrected else g
        exp_avg = axpy(mul(exp_avg, s.b1), c, s.one_minus_b1)
        if s.by_sign:
            u = sign(masked(s, exp_avg, g))
            return axpy(p, add(mul(p, s.weight_decay), u), s.size), exp_avg, g
        exp_avg_sq = addcmul(mul(squares[0], s.b2), c, c, s.one_minus_b2)
        u = div(div(masked(s, exp_avg, g), s.c1), add(div(sqrt(exp_avg_sq), s.root_c2), s.eps))
        return axpy(p, add(mul(p, s.weight_decay), u), s.size), exp_avg, exp_avg_sq, g


def reduced(s: Record, g: Array, last_grad: Array) -> Array:
    """Return the gradient with its variance reduced; in the first step there is no other."""
    return g if s.first else add(mul(sub(g, last_grad), s.gain), g)
