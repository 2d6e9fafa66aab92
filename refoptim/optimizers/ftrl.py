"""FTRL-Proximal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from ..numerics.arith import Array, add, div, maximum, minimum, mul, sqrt, sub, where
from ..numerics.power import powers
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class FTRL(Optimizer):
    """FTRL-Proximal: the parameter that fits all gradients so far best, with penalties that make zeros.

    .. code-block:: text

        n      = accumulator + g * g
        sigma  = (root(n) - root(accumulator)) / lr               root(x) = x**-learning_rate_power
        linear = linear + ((g + 2 * l2_shrinkage * p) - sigma * p)
        p      = (clip(linear, -l1, l1) - linear) / (root(n) / lr + 2 * (l2 + beta / (2 * lr)))
        accumulator = n

    ``accumulator`` begins at ``initial_accumulator_value``. The new parameter depends on the old one by ``sigma * p``
    and the shrinkage alone, so the first step may move it far. It is zero where ``linear`` is between ``-l1`` and
    ``l1``. ``l2`` counts twice, as in Keras and TensorFlow; where a port counts it once, as the paper does, half of its
    value gives the same.

    Kernels are there for a ``learning_rate_power`` of -0.5 and of 0. Other powers are computed element by element with
    integers, correctly rounded, which takes microseconds for each.

    State: ``accumulator``, ``linear`` (both like the parameter).

    Source: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013, algorithm 1, in Keras' form.
    """

    of_torch = False
    counts_steps = False
    varying = frozenset({"lr", "twice_l2"})

    def __init__(
        self,
        params: Params,
        lr: Annotated[
            hp.Scalar,
            hp.Real("the learning rate", stem="Invalid learning rate: {value}", interval=hp.Interval("(0, inf)")),
        ] = 1e-3,
        learning_rate_power: Annotated[
            hp.Scalar, hp.Real("the power of the accumulator that scales steps", interval=hp.Interval("(-inf, 0]"))
        ] = -0.5,
        initial_accumulator_value: Annotated[hp.Scalar, hp.Real("what the accumulator begins at")] = 0.1,
        l1: Annotated[hp.Scalar, hp.Real("the L1 penalty, which makes zeros")] = 0,
        l2: Annotated[hp.Scalar, hp.Real("the L2 penalty, which counts twice")] = 0,
        l2_shrinkage: Annotated[
            hp.Scalar, hp.Real("an L2 penalty that is added to the gradient, which counts twice")
        ] = 0,
        beta: Annotated[hp.Scalar, hp.Real("beta / (2 * lr) is added to l2")] = 0,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def without_kernels(cls, settings: Mapping[str, Any]) -> str:
        x = settings["learning_rate_power"]
        return "" if x in (-0.5, 0) else f"learning_rate_power={x!r}: they take -0.5 and 0"

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"accumulator": h.initial_accumulator_value, "linear": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            rooted=h.learning_rate_power == -0.5,
            flat=h.learning_rate_power == 0,
            exponent=-h.learning_rate_power,
            one=1.0,
            lr=h.lr,
            shrinkage=2 * h.l2_shrinkage,
            low=-h.l1,
            high=h.l1,
            twice_l2=2 * (h.l2 + h.beta / (2.0 * h.lr)),
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        accumulator, linear = state
        n = add(accumulator, mul(g, g))
        if s.rooted:
            past, root = sqrt(accumulator), sqrt(n)
        elif s.flat:
            past = where(accumulator == accumulator, s.one, accumulator)
            root = where(n == n, s.one, n)
        else:
            past, root = powers(accumulator, s.exponent), powers(n, s.exponent)
        sigma = div(sub(root, past), s.lr)
        linear = add(linear, sub(add(g, mul(p, s.shrinkage)), mul(sigma, p)))
        clipped = minimum(maximum(linear, s.low), s.high)
        p = div(sub(clipped, linear), add(div(root, s.lr), s.twice_l2))
        return p, n, linear
