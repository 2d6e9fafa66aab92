"""Sophia."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, axpy, div, lerp, maximum, minimum, mul
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Sophia(Optimizer):
    """Sophia: the average of gradients over that of estimates of the Hessian's diagonal, clipped.

    .. code-block:: text

        p = p * (1 - weight_decay * lr)
        momentum       = lerp(momentum, g, 1 - beta1)
        hessian_moment = lerp(hessian_moment, h, 1 - beta2)      in steps with an estimate h
        u = min(max(momentum / max(hessian_moment, eps), -clip), clip)        clip is the hyperparameter p
        p = p - lr * u

    Estimates are given to a step beside the gradients, ``step(grads=grads, estimates=estimates)``, to every tenth or
    so. How they are made is up to the caller. Hutchinson's: draw ``z`` of normal numbers, or of 1 and -1, for all
    parameters, and take ``z * (H z)``, where ``H z`` is the derivative of ``sum(grads * z)``. Gauss, Newton and
    Bartlett's, for a loss that is the mean over a batch of size ``n``: draw labels from what the model predicts, take
    the gradient of the loss with them, and give ``n`` times its square. ``maximize`` does not turn the estimates, nor
    does ``grad_scale`` divide them. Where no estimate has been given, the average is 0, and ``eps`` takes its place.

    State: ``momentum``, ``hessian_moment`` (both like the parameter).

    Source: Liu, Li, Hall, Liang, Ma, "Sophia: a scalable stochastic second-order optimizer for language model
    pre-training", ICLR 2024, algorithm 3, as pytorch-optimizer has it.
    """

    of_torch = False
    takes_estimates = True
    counts_steps = False
    varying = frozenset({"shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 6e-2,
        betas: Annotated[
            tuple[hp.Scalar, hp.Scalar],
            hp.Several("decay rates of the running averages of gradients and of estimates", items=hp.BETAS),
        ] = (0.96, 0.99),
        weight_decay: hp.WeightDecay = 0,
        p: Annotated[hp.Scalar, hp.Real("the largest size of what lr multiplies")] = 1e-2,
        eps: Annotated[hp.Scalar, hp.Real("bounds the average of estimates from below")] = 1e-12,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"momentum": 0.0, "hessian_moment": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            shrink=1 - h.weight_decay * h.lr,
            one_minus_beta1=1 - beta1,
            one_minus_beta2=1 - beta2,
            eps=h.eps,
            low=-h.p,
            high=h.p,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        momentum, hessian_moment, estimate = state
        if s.weight_decay:
            p = mul(p, s.shrink)
        momentum = lerp(momentum, g, s.one_minus_beta1)
        if s.estimated:
            hessian_moment = lerp(hessian_moment, estimate, s.one_minus_beta2)
        quotient = div(momentum, maximum(hessian_moment, s.eps))
        p = axpy(p, minimum(maximum(quotient, s.low), s.high), s.step_size)
        return p, momentum, hessian_moment
