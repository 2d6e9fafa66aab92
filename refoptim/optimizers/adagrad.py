"""Adagrad."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, mul, sqrt
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from ..step.sparse import SparseGrad
from .base import Optimizer


class Adagrad(Optimizer):
    """Steps scaled by the root of the sum of all squared gradients so far.

    .. code-block:: text

        g   = g + weight_decay * p
        sum = sum + g * g
        p   = p - (lr / (1 + (k - 1) * lr_decay) * g) / (sqrt(sum) + eps)

    A sparse gradient touches its own rows only, and divides before it scales:
    ``p = p - lr / (1 + (k - 1) * lr_decay) * (g / (sqrt(sum) + eps))``.

    State: ``step``, ``sum`` (like the parameter, ``initial_accumulator_value`` at first); made with the optimizer.

    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR
    2011, the diagonal form of figure 1.
    """

    eager = True
    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-2,
        lr_decay: Annotated[hp.Scalar, hp.Real("how fast the learning rate falls with the steps")] = 0,
        weight_decay: hp.WeightDecay = 0,
        initial_accumulator_value: Annotated[hp.Scalar, hp.Real("the sum of squares at the start")] = 0,
        eps: hp.Epsilon = 1e-10,
        foreach: hp.Foreach = None,
        *,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
        capturable: hp.Capturable = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def accept(cls, h: Hypers, grad: Any) -> Any:
        if isinstance(grad, SparseGrad) and h.weight_decay:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        return grad

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"sum": h.initial_accumulator_value}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            weight_decay=h.weight_decay,
            eps=h.eps,
            one=1.0,
            step_size=-(h.lr / (1 + (k - 1) * h.lr_decay)),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        (total,) = state
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        total = add(total, mul(g, g)) if s.sparse else addcmul(total, g, g, s.one)
        denom = add(sqrt(total), s.eps)
        if s.sparse:
            return axpy(p, div(g, denom), s.step_size), total
        return addcdiv(p, g, denom, s.step_size), total
