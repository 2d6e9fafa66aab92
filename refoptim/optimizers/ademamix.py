"""AdEMAMix."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, lerp, mul, sqrt
from ..numerics.power import exp, log, power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class AdEMAMix(Optimizer):
    """AdEMAMix: AdamW with a second, slow average of the gradients beside the fast one.

    .. code-block:: text

        p = p * (1 - weight_decay * lr)                if weight_decouple, else
        g = g + weight_decay * p
        exp_avg      = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq   = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        exp_avg_slow = lerp(exp_avg_slow, g, 1 - beta3_k)
        denom = sqrt(exp_avg_sq) / sqrt(1 - beta2**k) + eps
        p = p - lr * (exp_avg / (1 - beta1**k) + alpha_k * exp_avg_slow) / denom

    Without ``t_alpha_beta3``, ``alpha_k`` and ``beta3_k`` are ``alpha`` and ``beta3``. With a number T they grow to
    these in T steps::

        alpha_k = min(k * alpha / T, alpha)
        beta3_k = min(exp(l1 * l3 / ((1 - k / T) * l3 + k / T * l1)), beta3),  l1 = log(beta1), l3 = log(beta3)

    The slow average is not corrected for beginning at 0.

    If ``cautious``, a mask stands on ``exp_avg`` in the last line, not on ``exp_avg_slow``.

    State: ``step``, ``exp_avg``, ``exp_avg_sq``, ``exp_avg_slow`` (all like the parameter).

    Source: Pagliardini, Ablin, Grangier, "The AdEMAMix optimizer: better, faster, older", ICLR 2025, algorithm 1.
    """

    of_torch = False
    varying = frozenset({"alpha", "correction1", "one_minus_beta3", "root_correction2", "shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: Annotated[
            tuple[hp.Scalar, hp.Scalar, hp.Scalar],
            hp.Several("decay rates of the fast average, of that of squares and of the slow one", items=hp.THREE_BETAS),
        ] = (0.9, 0.999, 0.9999),
        alpha: Annotated[hp.Scalar, hp.Real("the weight of the slow average")] = 5.0,
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        weight_decouple: hp.Decoupled = True,
        t_alpha_beta3: Annotated[
            hp.Scalar | None,
            hp.Real(
                "the steps in which alpha and the last beta grow to their values; None: they have them from the first",
                optional=True,
                interval=hp.Interval("(0, inf)"),
            ),
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
    def check(cls, h: Hypers) -> None:
        beta1, _, beta3 = h.betas
        if h.t_alpha_beta3 is not None and (beta1 == 0 or beta3 == 0):
            raise ValueError(
                f"t_alpha_beta3 needs the logarithms of betas[0] and betas[2]: they must not be 0: {h.betas}"
            )

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0, "exp_avg_slow": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2, beta3 = h.betas
        return dict(
            l2=0.0 if h.weight_decouple else h.weight_decay,
            shrink=1 - h.weight_decay * h.lr if h.weight_decouple else 1.0,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            one_minus_beta3=1 - grown_beta(beta1, beta3, h.t_alpha_beta3, k),
            correction1=1 - power(beta1, k),
            alpha=grown_alpha(h.alpha, h.t_alpha_beta3, k),
            root_correction2=power(1 - power(beta2, k), 0.5),
            eps=h.eps,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq, exp_avg_slow = state
        if s.l2:
            g = axpy(g, p, s.l2)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        denom = add(div(sqrt(exp_avg_sq), s.root_correction2), s.eps)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_slow = lerp(exp_avg_slow, g, s.one_minus_beta3)
        mixed = axpy(div(masked(s, exp_avg, g), s.correction1), exp_avg_slow, s.alpha)
        p = addcdiv(mul(p, s.shrink), mixed, denom, s.step_size)
        return p, exp_avg, exp_avg_sq, exp_avg_slow


def grown_alpha(alpha: float, horizon: float | None, k: int) -> float:
    """Return the weight of the slow average in step ``k``, which grows for ``horizon`` steps; None: it has grown."""
    return alpha if horizon is None else min(k * alpha / horizon, alpha)


def grown_beta(beta1: float, beta3: float, horizon: float | None, k: int) -> float:
    """Return the decay rate of the slow average in step ``k``: its half-life grows from that of ``beta1``."""
    if horizon is None:
        return beta3
    log1, log3 = log(beta1), log(beta3)
    return min(exp(log1 * log3 / ((1.0 - k / horizon) * log3 + (k / horizon) * log1)), beta3)
