"""The averages and sums of squares in Adadelta, Adagrad and RMSprop, and what Rprop and ASGD keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arith import Array, add, addcmul, div, mul, sign, sub, where
from ..optimizers.adadelta import Adadelta
from ..optimizers.adagrad import Adagrad
from ..optimizers.asgd import ASGD
from ..optimizers.rmsprop import RMSprop
from ..optimizers.rprop import Rprop
from ..step.rule import Hypers, Record, Registers
from .change import Change, Words, by_scalars, by_update, by_words, changed, declare
from .momentum import in_double

SQUARES, BEGINNING, SIZE = "squares", "initial state", "step size"


def begun_with(flag: str, rules: Any, **values: float) -> None:
    """Enter a change by which some state begins at other values."""

    @declare(flag, rules, BEGINNING)
    class Begun(Change):
        @classmethod
        def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
            return {**super().arrays(h, shape), **values}


def _old_squares(s: Record, p: Array, g: Array, square_avg: Array, acc_delta: Array) -> Words:
    return {"add": lambda x, c: add(x if x is acc_delta else square_avg, c)}


@declare("LrInsideAverage", [Adadelta], SIZE)
class LrInsideAverage(Change):
    """The average of squared steps is one of steps that contain lr."""

    moving = frozenset({"lr"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"lr": h.lr, "step_size": -1.0}

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | {"div": lambda x, y: mul(div(x, y), s.lr)}


by_scalars("LrIgnored", [Adadelta], SIZE, change=lambda h, k, s: {"step_size": -1.0})
by_words("OldSquares", [Adadelta], SQUARES, words=_old_squares)
begun_with("InitialAccumulatorIgnored", [Adagrad], sum=0.0)
begun_with("InitialAccumulatorIgnored", [Adagrad], sum=0.1)
begun_with("InitialSquaresOne", [RMSprop], square_avg=1.0)
by_scalars("CenteredIgnored", [RMSprop], SQUARES, change=lambda h, k, s: {"centered": False})
by_scalars(
    "LrDecayFromFirstStep",
    [Adagrad],
    SIZE,
    change=lambda h, k, s: {"step_size": -(h.lr / (1 + k * h.lr_decay))},
)


def _lagging(update: Any, s: Record, p: Array, g: Array, prev: Array, step_size: Array) -> Any:
    _, g, longer = update(s, p, g, prev, step_size)
    return addcmul(p, sign(g), step_size, s.minus_one), g, longer


def _kept_after_turn(update: Any, s: Record, p: Array, g: Array, prev: Array, step_size: Array) -> Any:
    p, _, step_size = update(s, p, g, prev, step_size)
    return p, g, step_size


@declare("StepLags", [Rprop], "which step")
class StepBefore(Change):
    """Each step is the one that the step before should have taken, unless the gradient has turned meanwhile."""

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {**super().arrays(h, shape), "waiting": 0.0}

    def _read_state(self, group: Any, p: Any, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Read a state; in one of refoptim's own no step is due."""
        due = {"waiting": np.zeros_like(values["prev"])} if "prev" in values and "waiting" not in values else {}
        return super()._read_state(group, p, {**values, **due}, where)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        *before, waiting = state
        q, kept, step_size = super().update(s, p, g, *before)
        turned = (kept == 0) & (g != 0)
        return add(p, where(turned, s.zero, waiting)), kept, step_size, sub(q, p)


by_update("StepLags", [Rprop], "which step", wrap=_lagging)
by_update("GradientKeptAfterTurn", [Rprop], SQUARES, wrap=_kept_after_turn)
by_scalars("StepSizeUnbounded", [Rprop], SIZE, change=lambda h, k, s: {"smallest": 0.0, "largest": 6e4})
by_words("SignOfNan", [Rprop], "rounding", words=lambda s, p, g, *state: {"sign": np.sign})


@declare("EtaOfThisStep", [ASGD], SIZE)
class EtaOfThisStep(Change):
    """The step uses the eta that the end of it computes."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, {**registers, "eta": cls.advance(h, k, registers)["eta"]})


@declare("AveragingTooEarly", [ASGD], SQUARES)
class AveragingEarly(Change):
    """The average is one from the first step on."""

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return super().advance(changed(h, t0=0), k, registers)


in_double([ASGD], "EtaInDouble")
