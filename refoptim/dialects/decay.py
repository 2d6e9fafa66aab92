"""Where the weight decay enters, and by what it is multiplied."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, axpy, mul
from ..optimizers.adadelta import Adadelta
from ..optimizers.adafactor import Adafactor
from ..optimizers.adagrad import Adagrad
from ..optimizers.adam import Adam
from ..optimizers.adamax import Adamax
from ..optimizers.adamw import AdamW
from ..optimizers.asgd import ASGD
from ..optimizers.muon import Muon
from ..optimizers.nadam import NAdam
from ..optimizers.radam import RAdam
from ..optimizers.rmsprop import RMSprop
from ..optimizers.sgd import SGD
from ..step.rule import Hypers, Record, Registers
from .change import Change, MeasuredChange, by_scalars, declare, with_settings

COUPLED = (SGD, Adam, NAdam, RAdam, Adamax, Adadelta, Adagrad, RMSprop, ASGD)
"""Rules whose decay is added to the gradient, unless a flag decouples it."""

SHRINKING = (AdamW, NAdam, RAdam)
"""Rules that shrink the parameter before the update, or can."""

DECOUPLING = ("DecoupledDecay", "DecayAfterUpdate")

FACTORS = ("shrink", "shrunk")
"""The scalars that a parameter is multiplied by where its decay is decoupled."""


def _undecayed(right: dict[str, Any]) -> dict[str, Any]:
    """The scalars of a step without a decay."""
    return right | {"weight_decay": 0.0} | ({"shrink": 1.0} if "decoupled" in right else {})


def _rate(h: Hypers, right: dict[str, Any]) -> float:
    """The learning rate of a step, in Adagrad the decayed one."""
    rate: float = -right["step_size"] if hasattr(h, "lr_decay") else h.lr
    return rate


class Shrinks(Change):
    """The gradient has no decay, and the parameter shrinks."""

    moving = frozenset({"shrunk"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        return _undecayed(right) | {"shrunk": 1 - _rate(h, right) * right["weight_decay"]}


@declare("DecoupledDecay", COUPLED, "decay place")
class Decoupled(Shrinks):
    """The parameter shrinks before the update."""

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, mul(p, s.shrunk), g, *state)


@declare("DecayAfterUpdate", [*COUPLED, AdamW], "decay place")
class DecoupledAfter(Shrinks):
    """The parameter shrinks after the update."""

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        p, *state_after = super().update(s, p, g, *state)
        return mul(p, s.shrunk), *state_after


@declare("DecayAfterUpdate", [Muon, Adafactor], "decay place")
class ShrunkAfter(Change):
    """As before, for rules that shrink whatever the decay is."""

    moving = frozenset({"shrunk"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        return {**right, "shrink": 1.0, "shrunk": right["shrink"]}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        p, *state_after = super().update(s, p, g, *state)
        return mul(p, s.shrunk), *state_after


@declare("DecayAfterMomentum", [SGD], "decay place")
class AfterMomentum(Change):
    """The decay joins the buffer's step."""

    moving = frozenset({"decay"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"weight_decay": 0.0, "decay": -h.lr * h.weight_decay}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        q, *state_after = super().update(s, p, g, *state)
        return axpy(q, p, s.decay), *state_after


@declare("CoupledDecay", [Adafactor, Muon], "decay place")
class Coupled(MeasuredChange):
    """For rules that measure: their gradient is seen twice."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        unshrunk = {"coupled": h.weight_decay, "weight_decay": 0.0, "shrink": 1.0}
        return super().scalars(h, k, registers) | unshrunk

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        return super().measure(s, p, axpy(g, p, s.coupled), *state)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, p, axpy(g, p, s.coupled), *state)


by_scalars("CoupledDecay", SHRINKING, "decay place", change=lambda h, k, s: {"decoupled": False})
by_scalars(
    "DecayWithoutLr",
    [AdamW, NAdam, RAdam, Adafactor, Muon],
    "decay size",
    change=lambda h, k, s: {name: 1 - h.weight_decay for name in FACTORS if name in s and s[name] != 1},
)
by_scalars(
    "DecayWithoutLr",
    [rule for rule in COUPLED if rule not in (NAdam, RAdam, ASGD)],
    "decay size",
    needs=DECOUPLING,
    change=lambda h, k, s: {name: 1 - h.weight_decay for name in FACTORS if name in s and s[name] != 1},
)
by_scalars(
    "MaximizeAfterDecay",
    [rule for rule in COUPLED if rule not in (NAdam, RAdam)],
    *("decay place", "sign"),
    change=lambda h, k, s: {"weight_decay": -h.weight_decay if h.maximize else h.weight_decay},
)
declare("DecayIgnored", [*COUPLED, AdamW, Adafactor, Muon], "decay place", "decay size")(
    with_settings(lambda h: {"weight_decay": 0.0})
)


@declare("DecayInStep", SHRINKING, "decay place")
class InStep(Change):
    """The decay is a part of the step, of the parameter before it: the same sum, rounded in another order."""

    moving = frozenset({"decay"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        decay = -(h.lr * h.weight_decay) if right["decoupled"] else 0.0
        return {**right, "weight_decay": 0.0 if right["decoupled"] else right["weight_decay"], "decay": decay}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        q, *state_after = super().update(s, p, g, *state)
        return axpy(q, p, s.decay), *state_after
