"""Adadelta."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcmul, axpy, div, mul, sqrt
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Adadelta(Optimizer):
    """Steps in the units of the parameter: scaled by the ratio of two running averages of squares.

    .. code-block:: text

        g = g + weight_decay * p
        square_avg = rho * square_avg + ((1 - rho) * g) * g
        delta      = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
        acc_delta  = rho * acc_delta + ((1 - rho) * delta) * delta
        p = p - lr * delta

    State: ``step``, ``square_avg``, ``acc_delta`` (like the parameter).

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1.
    """

    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1.0,
        rho: Annotated[hp.Scalar, hp.Real("the decay rate of both averages", interval=hp.Interval("[0, 1]"))] = 0.9,
        eps: hp.Epsilon = 1e-6,
        weight_decay: hp.WeightDecay = 0,
        foreach: hp.Foreach = None,
        *,
        capturable: hp.Capturable = False,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"square_avg": 0.0, "acc_delta": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(weight_decay=h.weight_decay, rho=h.rho, one_minus_rho=1 - h.rho, eps=h.eps, step_size=-h.lr)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        square_avg, acc_delta = state
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        square_avg = addcmul(mul(square_avg, s.rho), g, g, s.one_minus_rho)
        std = sqrt(add(square_avg, s.eps))
        delta = mul(div(sqrt(add(acc_delta, s.eps)), std), g)
        acc_delta = addcmul(mul(acc_delta, s.rho), delta, delta, s.one_minus_rho)
        return axpy(p, delta, s.step_size), square_avg, acc_delta
