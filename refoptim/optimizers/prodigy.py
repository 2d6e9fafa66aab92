"""Prodigy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar

from ..numerics.arith import Array, absolute, add, addcdiv, addcmul, axpy, mul, sqrt, sub, widen
from ..numerics.power import power
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers, Rule, ascent
from ..step.state_dict import step_count
from .base import Optimizer

COMMON = ("betas", "beta3", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate")
"""Settings that all groups have in common, since they share the estimate that is made with them."""


class Prodigy(Optimizer):
    """Adam with a step size that is estimated on the way: from how far parameters have gone, and how straight.

    .. code-block:: text

        c   = (1 - beta2**k)**0.5 / (1 - beta1**k)        1 unless use_bias_correction
        dlr = d * lr * c
        w   = d / d0 * dlr                                with d for dlr in s, if safeguard_warmup
        p0  = p                                           in the first step of a parameter
        g   = g + weight_decay * p                        unless decouple
        s          = beta3 * s + w * g
        exp_avg_sq = beta2 * exp_avg_sq + ((d * d * (1 - beta2)) * g) * g
        exp_avg    = beta1 * exp_avg + d * (1 - beta1) * g

        d_numerator = beta3 * d_numerator + w * sum(g * (p0 - p))
        d_hat = d_coef * d_numerator / sum(abs(s))        nothing below, if that sum is 0
        d     = max(d, d_hat)                             if d is d0
        d_max = max(d_max, d_hat)
        new_d = min(d_max, d * growth_rate)

        denom = sqrt(exp_avg_sq) + new_d * eps
        p     = p - weight_decay * dlr * p                if decouple
        p     = p - (dlr * exp_avg) / denom               with new_d times g for exp_avg where beta1 is 0
        d     = new_d

    If ``cautious``, a mask stands on ``exp_avg`` in the line that divides it.

    Both sums are over all parameters that have a gradient, in the order of ``tree`` over each, then in double in the
    order of the groups. beta3 is sqrt(beta2) if it is None. Groups have one ``lr``, or 0: then what is in the group
    stays as it is, and is left out of the sums.

    Leave ``lr`` at 1, or let a schedule take it from 1 to 0: ``d`` takes the place of a learning rate. It is in the
    state of every parameter that has had a gradient, ``optimizer.state[p]["d"]``.

    With a ``slice_p`` of n both sums are over every n-th element of each parameter, in C order; ``s`` and ``p0`` are
    vectors of these alone, and the kernels do not know it.

    State: ``s``, ``p0``, ``exp_avg_sq`` and, unless beta1 is 0, ``exp_avg`` (like the parameter); ``k``, ``d``,
    ``d_max`` and ``d_numerator`` (doubles), the same for all parameters. A step in which the sum of abs(s) is 0 does
    not count for ``k``.

    Source: Mishchenko, Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", ICML 2024, arXiv
    2306.06101, algorithm 4.
    """

    of_torch = False
    counts_steps = False
    double_registers = True
    shares_registers = True
    varying = frozenset({"decay", "floor", "gradient_gain", "square_gain", "step_size", "weight_gain"})

    def __init__(
        self,
        params: Params,
        lr: Annotated[hp.Scalar, hp.Real("multiplies the estimate", stem="Invalid learning rate: {value}")] = 1.0,
        betas: hp.Betas = (0.9, 0.999),
        beta3: Annotated[
            hp.Scalar | None,
            hp.Real(
                "the decay rate of s and of d_numerator; None: sqrt(betas[1])", True, interval=hp.Interval("[0, 1)")
            ),
        ] = None,
        eps: Annotated[hp.Scalar, hp.Real("times d, is added to the denominator", interval=hp.POSITIVE)] = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        decouple: hp.Decoupled = True,
        use_bias_correction: Annotated[bool, hp.Flag("correct the averages for their beginning at zero")] = False,
        safeguard_warmup: Annotated[
            bool, hp.Flag("leave lr out of the weight of s, for schedules that warm up")
        ] = False,
        d0: Annotated[hp.Scalar, hp.Real("the first estimate", interval=hp.POSITIVE)] = 1e-6,
        d_coef: Annotated[hp.Scalar, hp.Real("scales the estimate", interval=hp.POSITIVE)] = 1.0,
        growth_rate: Annotated[
            hp.Scalar, hp.Real("a step multiplies the estimate by it at most", interval=hp.Interval("(0, inf]"))
        ] = float("inf"),
        slice_p: Annotated[
            int, hp.Count("look at every slice_p-th element for the sums", interval=hp.Interval("[1, inf)"))
        ] = 1,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_groups(cls, groups: Sequence[Hypers]) -> None:
        rates = {h.lr for h in groups} - {0}
        if len(rates) > 1:
            raise RuntimeError(f"the lr of groups of Prodigy must be the same, or 0, got {sorted(rates)}")
        for name in COMMON:
            found = [getattr(h, name) for h in groups]
            if any(x != found[0] for x in found):
                raise RuntimeError(f"the {name} of all groups of Prodigy must be the same, got {found}")

    @classmethod
    def variant(cls, h: Hypers) -> type[Rule]:
        rule: Any = cls
        return cls if h.slice_p == 1 else sliced(rule, h.slice_p)

    @classmethod
    def without_kernels(cls, settings: Mapping[str, Any]) -> str:
        n = settings["slice_p"]
        return "" if n == 1 else f"slice_p={n!r}: they take 1"

    @classmethod
    def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        looked_at = (-(-math.prod(shape) // h.slice_p),)
        return dict.fromkeys(("s", "p0"), looked_at) if shape and h.slice_p > 1 else {}

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        averages = {"exp_avg": 0.0} if h.betas[0] else {}
        return {"s": 0.0, "p0": None, "exp_avg_sq": 0.0, **averages}

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {"k": 0.0, "d": h.d0, "d_max": h.d0, "d_numerator": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        d, dlr = estimate(registers), step_size(h, registers)
        return dict(
            active=h.lr > 0,
            coupled=0.0 if h.decouple else h.weight_decay,
            beta3=beta3(h),
            weight_gain=d / h.d0 * (d if h.safeguard_warmup else dlr),
            beta2=beta2,
            square_gain=d * d * (1 - beta2),
            averaged=beta1 != 0,
            beta1=beta1,
            gradient_gain=d * (1 - beta1),
            moves=False,
            floor=d * h.eps,
            decay=-h.weight_decay * dlr if h.decouple else 0.0,
            step_size=-dlr,
        )

    @classmethod
    def takes_part(cls, h: Hypers) -> bool:
        return bool(h.lr > 0)

    @classmethod
    def sums_over_all(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        weights, p0, *_ = state
        p0 = p if p0 is None else p0
        if s.coupled:
            g = axpy(g, p, s.coupled)
        return mul(g, sub(p0, p)), absolute(axpy(mul(weights, s.beta3), g, s.weight_gain))

    @classmethod
    def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
        product, denominator = totals
        if denominator == 0:
            return {}
        before, d_max, d_numerator = estimate(registers), float(registers["d_max"]), float(registers["d_numerator"])
        dlr = step_size(h, registers)
        numerator = d_numerator * beta3(h) + before / h.d0 * dlr * product
        d_hat = h.d_coef * numerator / denominator
        d_max = max(d_max, d_hat)
        d = min(d_max, (max(before, d_hat) if before == h.d0 else before) * h.growth_rate)
        scalars = dict(moves=True, floor=d * h.eps, step_size=-dlr if h.betas[0] else -dlr * d)
        return scalars | dict(k=float(registers["k"]) + 1, d=d, d_max=d_max, d_numerator=numerator)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        weights, p0, exp_avg_sq, *exp_avg = state
        p0 = p if p0 is None else p0
        direction = g
        if s.active:
            if s.coupled:
                direction = g = axpy(g, p, s.coupled)
            weights = axpy(mul(weights, s.beta3), g, s.weight_gain)
            exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.square_gain)
            if s.averaged:
                direction = axpy(mul(exp_avg[0], s.beta1), g, s.gradient_gain)
                exp_avg = [direction]
        if s.moves:
            if s.decay:
                p = axpy(p, p, s.decay)
            u = masked(s, direction, g) if s.averaged else direction
            p = addcdiv(p, u, add(sqrt(exp_avg_sq), s.floor), s.step_size)
        return p, weights, p0, exp_avg_sq, *exp_avg


class Sliced(Rule):
    """What stands before Prodigy where ``s`` and ``p0`` are of every n-th element alone, and sums are over these."""

    n: ClassVar[int]

    @classmethod
    def every(cls, x: Array) -> Array:
        """Return a copy of every n-th element, in C order."""
        found: Array = x.reshape(-1)[:: cls.n].copy()
        return found

    @classmethod
    def totals_over_all(cls, s: Record, p: Array, g: Array, *state: Array | None) -> tuple[float, ...]:
        return super().totals_over_all(s, cls.every(p), cls.every(g), *state[:2])

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        kept, averages = (x if x is None else widen(x) for x in state[:2]), state[2:]
        here = [widen(cls.every(x)) for x in (p, ascent(s, g), *averages)]
        _, weights, p0, *_ = super().update(s, *here[:2], *kept, *here[2:])
        return {**super().measure(s, p, g, *averages), "s": weights, "p0": p0}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        p, _, _, *averages = super().update(s, p, g, g, p, *state)  # the gradient stands for s, which is measured
        return p, *averages


@cache
def sliced(rule: type[Rule], n: int) -> type[Rule]:
    """Return Prodigy, or what derives from it, with sums over every n-th element."""
    return type(rule.__name__, (Sliced, rule), {"n": n, "__module__": __name__})


def beta3(h: Hypers) -> float:
    """Return the decay rate of s and of d_numerator."""
    found: float = power(h.betas[1], 0.5) if h.beta3 is None else h.beta3
    return found


def step_size(h: Hypers, registers: Registers) -> float:
    """Return d times the learning rate, corrected for the beginning of the averages."""
    k, (beta1, beta2) = step_count(registers["k"], "the state k") + 1, h.betas
    correction = power(1 - power(beta2, k), 0.5) / (1 - power(beta1, k)) if h.use_bias_correction else 1.0
    found: float = estimate(registers) * h.lr * correction
    return found


def estimate(registers: Registers) -> float:
    """Return d; raise ValueError if it is none: states may hold anything, and gradients near 1e308 make it infinite."""
    d = float(registers["d"])
    if not 0 < d < math.inf:
        raise ValueError(f"the state d must be a number in (0, inf), got {d!r}")
    return d
