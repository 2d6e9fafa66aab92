"""The Adafactor of transformers, by the names of torch: ``beta2_decay`` is its decay_rate, ``d`` its clip_threshold.

Source: https://huggingface.co/docs/transformers/main_classes/optimizer_schedules, tried beside transformers itself.
"""

from __future__ import annotations

from typing import Annotated, Any

import refoptim

from ..numerics.arith import Array, add, lerp, mul, sub
from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from . import made_of
from .change import AXES, MeasuredChange
from .matrices import root_mean_square
from .preset import Preset, entered

__all__ = ["Adafactor"]

WITNESS = "transformers 5, as it runs and as it was recorded"

AXES_OF_ADAFACTOR = (AXES["Adafactor", "EpsAddedToSquares"][1], AXES["Adafactor", "DecayByStepSize"][0])

DEFAULTS = {"eps": (1e-30, 1e-3)}

_Dialect: Any = made_of(refoptim.Adafactor, *AXES_OF_ADAFACTOR)


class OwnSettings(MeasuredChange):
    """

    Four settings are transformers' own::

        relative_step     the step is min(lr, 1 / sqrt(k)); else it is lr. transformers bounds it by 0.01, the default
        warmup_init       the bound of the relative step is 1e-6 * k
        scale_parameter   the step is multiplied by max(eps2, rms(p))
        beta1             the steps are averaged: exp_avg = lerp(exp_avg, step, 1 - beta1), p = p - exp_avg

    State: that of ``refoptim.Adafactor``, and ``exp_avg`` (like the parameter) if there is a ``beta1``.
    An ``eps[0]`` of None is 0.
    """

    def __init__(
        self,
        params: Params,
        lr: Any = 1e-2,
        beta2_decay: Any = -0.8,
        eps: Any = (1e-30, 1e-3),
        d: Any = 1.0,
        weight_decay: Any = 0.0,
        *,
        beta1: Annotated[
            hp.Scalar | None,
            hp.Real("the decay rate of the average of steps", optional=True, interval=hp.Interval("[0, 1)")),
        ] = None,
        scale_parameter: Annotated[bool, hp.Flag("multiply the step by the size of the parameter")] = True,
        relative_step: Annotated[bool, hp.Flag("bound the step by 1 / sqrt(k)")] = True,
        warmup_init: Annotated[bool, hp.Flag("begin with small relative steps")] = False,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
    ) -> None:
        Optimizer.__init__(self, **hp.settings(locals()))

    @classmethod
    def check(cls, h: Hypers) -> None:
        super().check(h)
        if h.warmup_init and not h.relative_step:
            raise ValueError("warmup_init=True requires relative_step=True")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        averages: dict[str, float | None] = super().arrays(h, shape)
        return averages if h.beta1 is None else {**averages, "exp_avg": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        bound = 1e-6 * k if h.warmup_init else h.lr
        rho = min(bound, 1 / power(k, 0.5)) if h.relative_step else h.lr
        averaged = h.beta1 is not None
        own = {"rho": rho, "scaled": h.scale_parameter, "averaged": averaged, "fresh": 1 - (h.beta1 or 0.0)}
        return {**super().scalars(h, k, registers), **own}

    @classmethod
    def relative(cls, s: Record, p: Array) -> float:
        """Return the size of the step before it is clipped."""
        return float(s.exact.rho) * (max(s.exact.eps2, root_mean_square(p)) if s.scaled else 1.0)

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        right: dict[str, Any] = super().measure(s, p, g, *(state[:-1] if s.averaged else state))
        sizes = 1.0 if s.scaled else max(s.exact.eps2, root_mean_square(p))
        return {**right, "step_size": right["step_size"] / sizes}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        if not s.averaged:
            taken: tuple[Array, ...] = super().update(s, p, g, *state)
            return taken
        *averages, exp_avg = state
        step, *after = super().update(s, sub(p, p), g, *averages)
        exp_avg = lerp(exp_avg, step, s.fresh)
        p = mul(p, s.shrink) if s.weight_decay else p
        return add(p, exp_avg), *after, exp_avg


class Adafactor(Preset, OwnSettings, _Dialect):  # type: ignore[misc]
    __doc__ = OwnSettings.__doc__
    own = ("beta1", "scale_parameter", "relative_step", "warmup_init")


entered(__name__, Adafactor, refoptim.Adafactor, AXES_OF_ADAFACTOR, DEFAULTS)
