"""NAdam."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, div, lerp, mul, sqrt
from ..numerics.followed import double, rounded
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class NAdam(Optimizer):
    """Adam with Nesterov's momentum.

    .. code-block:: text

        mu(k) = beta1 * (1 - 0.96**(k * momentum_decay) / 2)
        mu_product = mu_product * mu(k)

        g = g + weight_decay * p                       coupled decay, or
        p = p * (1 - lr * weight_decay)                if decoupled_weight_decay
        exp_avg    = lerp(exp_avg, g, 1 - beta1)
        exp_avg_sq = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
        denom = sqrt(exp_avg_sq / (1 - beta2**k)) + eps
        p = p - (lr * (1 - mu(k)) / (1 - mu_product) * g) / denom
        p = p - (lr * mu(k+1) / (1 - mu_product * mu(k+1)) * exp_avg) / denom

    If ``cautious``, a mask stands on ``exp_avg`` in the last line.

    State: ``step``, ``mu_product`` (one number in the default dtype), ``exp_avg``, ``exp_avg_sq`` (like the parameter).

    Source: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, algorithm 2 and section 3.
    """

    varying = frozenset({"correction2", "gradient_step", "momentum_step", "shrink"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 2e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        momentum_decay: Annotated[hp.Scalar, hp.Real("how fast the momentum approaches beta1")] = 4e-3,
        decoupled_weight_decay: hp.Decoupled = False,
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
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {"mu_product": 1.0}

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        mu_product = registers["mu_product"]
        return {"mu_product": mu_product * rounded(momentum(h, k), mu_product.dtype)}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        mu, mu_next = momentum(h, k), momentum(h, k + 1)
        mu_product = double(cls.advance(h, k, registers)["mu_product"])
        return dict(
            weight_decay=h.weight_decay,
            decoupled=h.decoupled_weight_decay,
            shrink=1 - h.lr * h.weight_decay,
            one_minus_beta1=1 - beta1,
            beta2=beta2,
            one_minus_beta2=1 - beta2,
            correction2=1 - power(beta2, k),
            eps=h.eps,
            gradient_step=-h.lr * (1 - mu) / (1 - mu_product),
            momentum_step=(-h.lr * mu_next) / (1 - mu_product * mu_next),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        exp_avg, exp_avg_sq = state
        if s.weight_decay and s.decoupled:
            p = mul(p, s.shrink)
        elif s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
        exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
        denom = add(sqrt(div(exp_avg_sq, s.correction2)), s.eps)
        p = addcdiv(p, g, denom, s.gradient_step)
        p = addcdiv(p, masked(s, exp_avg, g), denom, s.momentum_step)
        return p, exp_avg, exp_avg_sq


def momentum(h: Hypers, k: int) -> float:
    """Return mu(k), the momentum of step ``k``."""
    mu: float = h.betas[0] * (1 - 0.5 * power(0.96, k * h.momentum_decay))
    return mu
