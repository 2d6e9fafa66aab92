"""Adam8bit."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

import numpy as np

from ..numerics.arith import Array, DType, add, div, lerp, mul, sqrt, sub
from ..numerics.codes import Code, table
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer

LEAST = 4096
"""Elements from which on averages are kept in 8 bits."""

BlockSize = Annotated[
    int,
    hp.Count("elements that share a scale", stem="Invalid block size: {value}", interval=hp.Interval("[1, inf)")),
]
DoubleScalars = Annotated[bool, hp.Flag("compute lr * weight_decay and the bias corrections in double, not in float32")]


class Adam8bit(Optimizer):
    """Adam with averages that are kept in 8 bits: a code for each element, and a scale for each block of elements.

    .. code-block:: text

        g = g + weight_decay * p                       coupled decay, or
        p = p - (lr * weight_decay) * p                if decoupled_weight_decay
        exp_avg    = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = lerp(exp_avg_sq, g * g, 1 - beta2)
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta2**k) + eps
        p = p - (exp_avg / (1 - beta1**k) * lr) / denom

    Averages are kept in 8 bits where the parameter has 4096 elements or more, in whole blocks of ``block_size``,
    counted in C order; elsewhere they have the dtype of the parameter. An element is ``scale * qmap[code]``. The scale
    is the largest magnitude of its block, at least 1e-12. The code is that of the nearest number of the table, of two
    as near the larger one. The step uses the averages before they are coded.

    Everything is computed in float32, whatever the storage, and rounded once when it is stored: the rule is for
    float32, float16 and bfloat16 parameters, and leaves float64 ones no more digits than float32 has.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter, or its codes: of its shape, uint8); beside codes
    also ``exp_avg_scale``, ``exp_avg_sq_scale`` (one for each block, float32), ``exp_avg_qmap``, ``exp_avg_sq_qmap``
    (the tables of 256 numbers, float32, that the codes stand for: signed, and not signed).

    Source: Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit optimizers via block-wise quantization", ICLR 2022; the
    form is torchao's. It computes ``lr * weight_decay``, the powers and ``1 - beta**k`` in float32; ``double_scalars``
    computes them in double, as all other rules do. Its tables have another last place in 42 and 31 of the 256 numbers
    on processors with fused multiply-add.
    """

    of_torch = False
    in_single = True
    varying = frozenset({"decay", "correction1", "root_correction2", "lr"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        *,
        block_size: BlockSize = 256,
        double_scalars: DoubleScalars = False,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        fused: hp.Fused = None,
        decoupled_weight_decay: hp.Decoupled = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if dtype.kind == "c":
            raise RuntimeError(f"{cls.__name__} does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @classmethod
    def coded(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, Code]:
        size = prod(shape)
        if size < LEAST or size % h.block_size:
            return {}
        return {"exp_avg": Code(table(True), h.block_size), "exp_avg_sq": Code(table(False), h.block_size)}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled_weight_decay,
            decay=narrowed(h.double_scalars, h.lr) * narrowed(h.double_scalars, h.weight_decay),
            one_minus_beta1=1 - beta1,
            one_minus_beta2=1 - beta2,
            root_correction2=power(correction(h.double_scalars, beta2, k), 0.5),
            eps=h.eps,
            correction1=correction(h.double_scalars, beta1, k),
            lr=h.lr,
            block_size=h.block_size,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        if s.decoupled:
            p = sub(p, mul(p, s.decay))
        else:
            g = add(g, mul(p, s.weight_decay))
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_sq = lerp(exp_avg_sq, mul(g, g), s.one_minus_beta2)
        denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps)
        p = sub(p, div(mul(div(exp_avg, s.correction1), s.lr), denom))
        return p, exp_avg, exp_avg_sq


def narrowed(double: bool, x: float) -> float:
    """Leave a number in double, or round it to float32."""
    return x if double else float(np.float32(x))


def correction(double: bool, beta: float, k: int) -> float:
    """Return 1 - beta**k, in double or in float32."""
    return narrowed(double, 1 - narrowed(double, power(narrowed(double, beta), k)))
