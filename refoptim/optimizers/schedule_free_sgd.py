"""ScheduleFreeSGD."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, axpy, lerp
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .averaging import WITHOUT_WEIGHTS, share, warmed_up, weighed
from .modes import ModalOptimizer


class ScheduleFreeSGD(ModalOptimizer):
    """Schedule-free gradient descent: the average of the iterates in place of a schedule that ends at zero.

    .. code-block:: text

        lr = lr * k / warmup_steps                     while k <= warmup_steps
        lr_max = max(lr, lr_max)
        w = k**r * lr_max**weight_lr_power
        weight_sum = weight_sum + w
        c = w / weight_sum                             0 if both are 0

        z = p                                          in the first step
        g = g + weight_decay * p
        p = lerp(p, z, c) + lr * (momentum * (1 - c) - 1) * g
        z = z - lr * g

        p = lerp(p, z, 1 - 1 / momentum)               eval()
        p = lerp(p, z, 1 - momentum)                   train()

    Gradients are taken at p in train mode (``train_mode``). In eval mode p is the average of the iterates z, the point
    to evaluate and to save.

    State: ``step``, ``weight_sum``, ``lr_max`` (doubles), ``z`` (like the parameter).

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled", NeurIPS 2024, algorithm 1.
    """

    of_torch = False
    double_registers = True
    varying = frozenset({"gradient_step", "iterate_step", "share"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1.0,
        momentum: Annotated[
            hp.Scalar, hp.Real("how much of the average there is where gradients are taken", interval=hp.INSIDE)
        ] = 0.9,
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
        return {"z": None}

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {**WITHOUT_WEIGHTS}

    @classmethod
    def momentum_of(cls, h: Hypers) -> float:
        momentum: float = h.momentum
        return momentum

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return weighed(k, warmed_up(k, h.lr, h.warmup_steps), h.r, h.weight_lr_power, registers)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        lr = warmed_up(k, h.lr, h.warmup_steps)
        c = share(k, h.r, h.weight_lr_power, cls.advance(h, k, registers))
        return dict(
            weight_decay=h.weight_decay,
            share=c,
            gradient_step=lr * (h.momentum * (1 - c) - 1),
            iterate_step=-lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        (z,) = state
        z = p if z is None else z
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        p = axpy(lerp(p, z, s.share), g, s.gradient_step)
        z = axpy(z, g, s.iterate_step)
        return p, z
