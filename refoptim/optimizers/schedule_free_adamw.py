"""ScheduleFreeAdamW."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, add, addcmul, axpy, div, lerp, mul, sqrt
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .averaging import WITHOUT_WEIGHTS, share, warmed_up, weighed
from .modes import ModalOptimizer


class ScheduleFreeAdamW(ModalOptimizer):
    """Schedule-free AdamW: an average of the iterates in place of momentum and of a schedule that ends at zero.

    .. code-block:: text

        lr = lr * k / warmup_steps                     while k <= warmup_steps
        lr_max = max(lr, lr_max)
        w = k**r * lr_max**weight_lr_power
        weight_sum = weight_sum + w
        c = w / weight_sum                             0 if both are 0

        z = p                                          in the first step
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        u = g / (sqrt(exp_avg_sq / (1 - beta2**k)) + eps)
        u = u + weight_decay * p
        p = lerp(p, z, c) + lr * (beta1 * (1 - c) - 1) * u
        z = z - lr * u

        p = lerp(p, z, 1 - 1 / beta1)                  eval()
        p = lerp(p, z, 1 - beta1)                      train()

    Gradients are taken at p in train mode (``train_mode``). In eval mode p is the average of the iterates z, the point
    to evaluate and to save.

    State: ``step``, ``weight_sum``, ``lr_max`` (doubles), ``z``, ``exp_avg_sq`` (like the parameter).

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled", NeurIPS 2024, algorithm 1.
    """

    of_torch = False
    double_registers = True
    varying = frozenset({"correction2", "gradient_step", "iterate_step", "share"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 0.0025,
        betas: hp.InnerBetas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        warmup_steps: hp.WarmupSteps = 0,
        r: hp.WeightPower = 0,
        weight_lr_power: hp.WeightLrPower = 2,
        *,
        train_mode: hp.TrainMode = True,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"z": None, "exp_avg_sq": 0.0}

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {**WITHOUT_WEIGHTS}

    @classmethod
    def momentum_of(cls, h: Hypers) -> float:
        beta1: float = h.betas[0]
        return beta1

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return weighed(k, warmed_up(k, h.lr, h.warmup_steps), h.r, h.weight_lr_power, registers)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        lr = warmed_up(k, h.lr, h.warmup_steps)
        c = share(k, h.r, h.weight_lr_power, cls.advance(h, k, registers))
        return dict(
            weight_decay=h.weight_decay,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            correction2=1 - power(beta2, k),
            eps=h.eps,
            share=c,
            gradient_step=lr * (beta1 * (1 - c) - 1),
            iterate_step=-lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        z, exp_avg_sq = state
        z = p if z is None else z
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        u = div(g, add(sqrt(div(exp_avg_sq, s.correction2)), s.eps))
        if s.weight_decay:
            u = axpy(u, p, s.weight_decay)
        p = axpy(lerp(p, z, s.share), u, s.gradient_step)
        z = axpy(z, u, s.iterate_step)
        return p, z, exp_avg_sq
