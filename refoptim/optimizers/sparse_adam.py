"""SparseAdam."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics.arith import Array, DType, add, div, mul, sqrt, sub
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from ..step.sparse import SparseGrad
from .base import Optimizer


class SparseAdam(Optimizer):
    """Adam on the rows that a sparse gradient touches; the others, and their moments, stay as they are.

    .. code-block:: text

        exp_avg    = exp_avg + (g - exp_avg) * (1 - beta1)
        exp_avg_sq = exp_avg_sq + (g * g - exp_avg_sq) * (1 - beta2)
        p = p - lr * sqrt(1 - beta2**k) / (1 - beta1**k) * (exp_avg / (sqrt(exp_avg_sq) + eps))

    ``k`` counts the steps of the parameter, not of a row. Other than in ``Adam``, ``eps`` is not scaled by the bias
    correction.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (dense, like the parameter).

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, the form at the end of section 2.
    """

    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: Annotated[
            hp.Scalar,
            hp.Real("the learning rate", stem="Invalid learning rate: {value}", interval=hp.Interval("(0, inf)")),
        ] = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: Annotated[
            hp.Scalar,
            hp.Real(
                "is added to the denominator", stem="Invalid epsilon value: {value}", interval=hp.Interval("(0, inf)")
            ),
        ] = 1e-8,
        maximize: hp.Maximize = False,
        *,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if dtype.kind == "c":
            raise ValueError(f"SparseAdam does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def accept(cls, h: Hypers, grad: Any) -> Any:
        if not isinstance(grad, SparseGrad):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")
        return grad

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            one_minus_beta1=1 - beta1,
            one_minus_beta2=1 - beta2,
            eps=h.eps,
            step_size=-(h.lr * math.sqrt(1 - power(beta2, k)) / (1 - power(beta1, k))),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        exp_avg = add(exp_avg, mul(sub(g, exp_avg), s.one_minus_beta1))
        exp_avg_sq = add(exp_avg_sq, mul(sub(mul(g, g), exp_avg_sq), s.one_minus_beta2))
        denom = add(sqrt(exp_avg_sq), s.eps)
        return add(p, mul(div(exp_avg, denom), s.step_size)), exp_avg, exp_avg_sq
