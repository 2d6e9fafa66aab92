"""ScheduleFreeRAdam."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcmul, axpy, div, lerp, mul, sqrt
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .averaging import WITHOUT_WEIGHTS, share, weighed
from .modes import ModalOptimizer
from .rectification import length, longest, rectification


class ScheduleFreeRAdam(ModalOptimizer):
    """Schedule-free RAdam: the rectification of the variance warms up the learning rate.

    .. code-block:: text

        rho_inf = 2 / (1 - beta2) - 1
        rho     = rho_inf - 2 * k * beta2**k / (1 - beta2**k)
        rect    = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        lr = lr * rect                                 if rho > 4, else
        lr = 0                                         if silent_sgd_phase
        lr_max = max(lr, lr_max)
        w = k**r * lr_max**weight_lr_power
        weight_sum = weight_sum + w
        c = w / weight_sum                             0 if both are 0

        z = p                                          in the first step
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        u = g / (sqrt(exp_avg_sq / (1 - beta2**k)) + eps)        if rho > 4, else
        u = g
        u = u + weight_decay * p
        p = lerp(p, z, c) + lr * (beta1 * (1 - c) - 1) * u
        z = z - lr * u

        p = lerp(p, z, 1 - 1 / beta1)                  eval()
        p = lerp(p, z, 1 - beta1)                      train()

    Gradients are taken at p in train mode (``train_mode``). In eval mode p is the average of the iterates z, the point
    to evaluate and to save.

    State: ``step``, ``weight_sum``, ``lr_max`` (doubles), ``z``, ``exp_avg_sq`` (like the parameter).

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled", NeurIPS 2024, algorithm 1.
    The rectification is that of Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020.
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
        r: hp.WeightPower = 0,
        weight_lr_power: hp.WeightLrPower = 2,
        silent_sgd_phase: Annotated[
            bool, hp.Flag("stand still until the variance can be rectified, and do not descend by plain gradients")
        ] = True,
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
        lr = h.lr * factor(h.betas[1], k, h.silent_sgd_phase)
        return weighed(k, lr, h.r, h.weight_lr_power, registers)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        lr = h.lr * factor(beta2, k, h.silent_sgd_phase)
        c = share(k, h.r, h.weight_lr_power, cls.advance(h, k, registers))
        return dict(
            weight_decay=h.weight_decay,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            correction2=1 - power(beta2, k),
            eps=h.eps,
            rectified=length(beta2, k) > 4,
            share=c,
            gradient_step=lr * (beta1 * (1 - c) - 1),
            iterate_step=-lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        z, exp_avg_sq = state
        z = p if z is None else z
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        if s.rectified:
            g = div(g, add(sqrt(div(exp_avg_sq, s.correction2)), s.eps))
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        p = axpy(lerp(p, z, s.share), g, s.gradient_step)
        z = axpy(z, g, s.iterate_step)
        return p, z, exp_avg_sq


def factor(beta2: float, k: int, silent: bool) -> float:
    """Return rect, by which the learning rate of step ``k`` is multiplied."""
    rho = length(beta2, k)
    if rho > 4:
        return rectification(rho, longest(beta2))
    return 0.0 if silent else 1.0
