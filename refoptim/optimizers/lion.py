"""Lion."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, axpy, mul, sign
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Lion(Optimizer):
    """Lion: steps of one length, by the sign of a mix of the gradient and its running average.

    .. code-block:: text

        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(beta1 * exp_avg + (1 - beta1) * g)
        exp_avg = beta2 * exp_avg + (1 - beta2) * g

    The sign of 0 is 0: where the mix is 0, a parameter decays and does not move otherwise.

    If ``cautious``, a mask stands on the sign.

    State: ``exp_avg`` (like the parameter).

    Source: Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, program 1.
    """

    of_torch = False
    counts_steps = False
    varying = frozenset({"shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-4,
        betas: Annotated[
            tuple[hp.Scalar, hp.Scalar],
            hp.Several("decay rates: in the mix that gives the sign, and of the average that is kept", items=hp.BETAS),
        ] = (0.9, 0.99),
        weight_decay: hp.WeightDecay = 0,
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
        return {"exp_avg": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return dict(
            weight_decay=h.weight_decay,
            shrink=1 - h.lr * h.weight_decay,
            beta1=beta1,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        (exp_avg,) = state
        if s.weight_decay:
            p = mul(p, s.shrink)
        mix = axpy(mul(exp_avg, s.beta1), g, s.one_minus_beta1)
        p = axpy(p, masked(s, sign(mix), g), s.step_size)
        exp_avg = axpy(mul(exp_avg, s.beta2), g, s.one_minus_beta2)
        return p, exp_avg
