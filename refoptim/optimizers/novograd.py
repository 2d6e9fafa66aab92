"""NovoGrad."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics.arith import Array, add, axpy, div, mul
from ..numerics.tree import square
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class NovoGrad(Optimizer):
    """NovoGrad: momentum of gradients that are divided by the average norm of the gradient of their parameter.

    .. code-block:: text

        n = sum(g * g)
        exp_avg_sq = exp_avg_sq * beta2 + (1 - beta2) * n          n where it is 0
        max_exp_avg_sq = max(max_exp_avg_sq, exp_avg_sq)           if amsgrad
        denom = sqrt(exp_avg_sq) + eps                             of max_exp_avg_sq if amsgrad
        p = p * (1 - lr * weight_decay)                            if decoupled_decay
        u = g / denom + weight_decay * p                           without the decay if it is decoupled
        u = (1 - beta1) * u                                        if grad_averaging
        exp_avg = beta1 * exp_avg + u
        p = p - lr * exp_avg

    The sum is over a whole parameter, in the order of ``tree``; what follows from it alone is computed in double.
    The average is the first sum that is not 0, so that a parameter whose first gradients are 0 begins later.

    If ``cautious``, a mask stands on ``exp_avg`` in the last line, beside ``u``.

    State: ``step``, ``exp_avg`` (like the parameter), ``exp_avg_sq`` and, if amsgrad, ``max_exp_avg_sq`` (one number,
    in the dtype of the parameter: of 16 bits keep a master copy, since a sum of squares is soon too large for float16).

    Source: Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep
    networks", 2019, arXiv 1905.11286, algorithm 1.
    """

    of_torch = False
    numbers = ("exp_avg_sq", "max_exp_avg_sq")
    varying = frozenset({"shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: Annotated[
            tuple[hp.Scalar, hp.Scalar],
            hp.Several("decay rates of the momentum and of the average of squared norms", items=hp.BETAS),
        ] = (0.95, 0.98),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        grad_averaging: Annotated[bool, hp.Flag("weigh what enters the momentum by 1 - betas[0]")] = False,
        amsgrad: hp.AMSGrad = False,
        decoupled_decay: hp.Decoupled = False,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        kept: dict[str, float | None] = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        return kept | ({"max_exp_avg_sq": 0.0} if h.amsgrad else {})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled_decay,
            shrink=1 - h.lr * h.weight_decay,
            averaged=h.grad_averaging,
            amsgrad=h.amsgrad,
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            eps=h.eps,
            step_size=-h.lr,
        )

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (square(g),)

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        squares, exp_avg_sq, max_exp_avg_sq = totals if s.amsgrad else (*totals, 0.0)
        average = squares if exp_avg_sq == 0 else exp_avg_sq * s.beta2 + s.one_minus_beta2 * squares
        kept = max_exp_avg_sq >= average or max_exp_avg_sq != max_exp_avg_sq
        largest = max_exp_avg_sq if kept else average
        return dict(
            denom=math.sqrt(largest if s.amsgrad else average) + s.eps,
            exp_avg_sq=average,
            max_exp_avg_sq=largest,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        (exp_avg,) = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        u = div(g, s.denom)
        if s.weight_decay and not s.decoupled:
            u = axpy(u, p, s.weight_decay)
        if s.averaged:
            u = mul(u, s.one_minus_beta1)
        exp_avg = add(mul(exp_avg, s.beta1), u)
        return axpy(p, masked(s, exp_avg, u), s.step_size), exp_avg
