"""Yogi."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, mul, sign, sqrt, sub
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Yogi(Optimizer):
    """Yogi: Adam whose average of squares moves by steps that do not depend on its own size.

    .. code-block:: text

        g = g + weight_decay * p                       coupled decay, or
        p = p * (1 - lr * weight_decay)                if weight_decouple
        exp_avg    = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = exp_avg_sq - (1 - beta2) * sign(exp_avg_sq - g * g) * (g * g)
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta2**k) + eps
        p = p - (lr / (1 - beta1**k) * exp_avg) / denom

    Both averages begin at ``initial_accumulator``, the first at ``initial_exp_avg`` where that is given. In TensorFlow
    Addons the first begins at 0, and ``eps`` is added to the uncorrected root.

    If ``cautious``, a mask stands on ``exp_avg`` in the last line.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (both like the parameter).

    Source: Zaheer, Reddi, Sachan, Kale, Kumar, "Adaptive methods for nonconvex optimization", NeurIPS 2018,
    algorithm 2.
    """

    of_torch = False
    varying = frozenset({"root_correction2", "shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-2,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-3,
        initial_accumulator: Annotated[hp.Scalar, hp.Real("what both averages begin at")] = 1e-6,
        weight_decay: hp.WeightDecay = 0,
        weight_decouple: hp.Decoupled = False,
        initial_exp_avg: Annotated[
            hp.Scalar | None,
            hp.Real("what the average of gradients begins at instead", optional=True, interval=hp.REALS),
        ] = None,
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
        first = h.initial_accumulator if h.initial_exp_avg is None else h.initial_exp_avg
        return {"exp_avg": first, "exp_avg_sq": h.initial_accumulator}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.weight_decouple,
            shrink=1 - h.lr * h.weight_decay,
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2_minus_one=-(1 - beta2),
            root_correction2=power(1 - power(beta2, k), 0.5),
            eps=h.eps,
            step_size=-(h.lr / (1 - power(beta1, k))),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        elif s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1)
        square = mul(g, g)
        exp_avg_sq = addcmul(exp_avg_sq, sign(sub(exp_avg_sq, square)), square, s.beta2_minus_one)
        denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps)
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.step_size)
        return p, exp_avg, exp_avg_sq
