"""The momentum: what enters its buffer, how it begins, and what looks ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arith import Array, add, axpy, lerp, mul, sub
from ..optimizers.adam import Adam
from ..optimizers.adamw import AdamW
from ..optimizers.muon import Muon
from ..optimizers.nadam import NAdam
from ..optimizers.rmsprop import RMSprop
from ..optimizers.sgd import SGD
from ..optimizers.sparse_adam import SparseAdam
from ..step.rule import Hypers, Record, Registers
from .change import Change, MeasuredChange, Words, by_scalars, by_update, by_words, changed, declare, with_settings

LR, BUFFER, AHEAD, FIRST = "place of lr", "momentum", "look-ahead", "first momentum"
SHARED = "whose product"


def lr_inside(flag: str, rules: Any, words: Any) -> None:
    """Enter a change by which the gradient that enters the buffer is scaled by lr."""

    @declare(flag, rules, LR)
    class Inside(Change):
        moving = frozenset({"lr"})

        @classmethod
        def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
            right = super().scalars(h, k, registers)
            return {**right, "lr": h.lr, "step_size": right["step_size"] / h.lr if h.lr else 0.0}

        @classmethod
        def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
            other: Words = words(s, g)
            return super().words(s, p, g, *state) | other


@declare("LrInsideMomentum", [SGD], LR)
class LrInside(Change):
    """The buffer is made of steps: v = momentum * v + lr * g."""

    moving = frozenset({"lr"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"lr": h.lr, "minus_one": -1.0}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        if not state:
            return super().update(s, p, g, *state)
        g = axpy(g, p, s.weight_decay) if s.weight_decay else g
        step = mul(g, s.lr)
        return super().update(changed(s, weight_decay=0 * s.weight_decay, step_size=s.minus_one), p, step, *state)


lr_inside("LrInsideMomentum", [Adam, AdamW], lambda s, g: {"lerp": lambda x, y, c: lerp(x, mul(y, s.lr), c)})


lr_inside(
    "LrInsideMomentum", [SparseAdam], lambda s, g: {"sub": lambda x, y: sub(mul(x, s.lr), y) if x is g else sub(x, y)}
)


by_scalars(
    "LrInsideMomentum", [RMSprop], LR, change=lambda h, k, s: {"one": h.lr, "step_size": -1.0} if h.momentum else {}
)


def _first_dampened(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    return update(s, p, g, *(np.zeros_like(g) if buf is None else buf for buf in state))


def averaged(s: Record, p: Array, g: Array, *state: Array) -> Words:
    """Weigh the gradient by 1 - momentum."""
    fresh = 1 - s.momentum
    return {"axpy": lambda x, y, c: axpy(x, y, fresh) if c is s.undamped and state[0] is not None else axpy(x, y, c)}


@declare("NesterovAppliedTwice", [SGD], AHEAD)
class TwiceAhead(Change):
    """The look-ahead looks ahead from where it looked."""

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        if not (state and s.nesterov):
            return super().words(s, p, g, *state)
        decayed = [axpy(g, p, s.weight_decay) if s.weight_decay else g]

        def twice(x: Array, y: Array, c: Array) -> Array:
            ahead = axpy(x, y, c)
            return axpy(decayed[0], ahead, s.momentum) if c is s.momentum else ahead

        return super().words(s, p, g, *state) | {"axpy": twice}


@declare("MomentumNotAveraged", [Muon], BUFFER)
class NotAveraged(MeasuredChange):
    """buf = momentum * buf + g"""

    @classmethod
    def summed(cls, s: Record) -> Words:
        """Return the word that sums in place of averaging."""

        def sums(x: Array, y: Array, c: Array) -> Array:
            return add(mul(x, s.momentum), y) if c is s.one_minus_momentum else lerp(x, y, c)

        return {"lerp": sums}

    @classmethod
    def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().measuring(s, p, g, *state) | cls.summed(s)

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | cls.summed(s)


class SharedProduct(Change):
    """The parameters are updated one after another, and each multiplies the product that all have."""

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step for one parameter after another."""
        members = self.param_groups[0]["params"]
        given = [p.grad for p in members] if grads is None else list(grads)
        for i, p in enumerate(members):
            super().step(grads=[g if i == j else None for j, g in enumerate(given)], **more)
            for q in members if "mu_product" in self.state[p] else []:
                self.state[q]["mu_product"] = self.state[p]["mu_product"]


def in_double(rules: Any, flag: str) -> None:
    """Enter a change by which the registers of a rule are numbers of double precision."""

    @declare(flag, rules, "registers")
    class InDouble(Change):
        @classmethod
        def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
            return super().advance(h, k, {name: np.float64(x) for name, x in registers.items()})


by_update("FirstStepDampened", [SGD], FIRST, wrap=_first_dampened)
by_words("MomentumAveraged", [SGD], BUFFER, words=averaged)


@declare("MomentumAveraged", [SGD], BUFFER, FIRST)
class AveragedFromZeros(Change):
    """The buffer is an average that begins with zeros: the first gradient, too, enters times 1 - momentum."""

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        found: tuple[Array, ...] = _first_dampened(super().update, s, p, g, *state)
        return found

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | averaged(s, p, g, *state)


by_scalars("DampeningIgnored", [SGD], BUFFER, change=lambda h, k, s: {"undamped": 1.0})
by_scalars("NesterovIgnored", [SGD, Muon], AHEAD, change=lambda h, k, s: {"nesterov": not h.nesterov})
declare("MomentumDecayIgnored", [NAdam], BUFFER)(with_settings(lambda h: {"momentum_decay": 1.0}))
declare("MomentumDecayIgnored", [NAdam], BUFFER)(with_settings(lambda h: {"momentum_decay": 1e9}))
declare("MuProductShared", [NAdam], SHARED)(SharedProduct)
in_double([NAdam], "MuProductInDouble")
by_scalars("NesterovIgnored", [SGD], AHEAD, change=lambda h, k, s: {"nesterov": False})
declare("MomentumIgnored", [RMSprop], BUFFER, LR)(with_settings(lambda h: {"momentum": 0}))


@declare("DecayOfMovedParameter", [SGD], "decayed parameter", "decay place")
class OfMoved(Change):
    """Where the momentum looks ahead, its buffer takes the decay of the parameter after the step."""

    moving = frozenset({"late"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        rate = h.lr if "minus_one" in right else 1.0
        return {**right, "late": rate * h.weight_decay if h.nesterov else 0.0}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        q, *buffer = super().update(s, p, g, *state)
        return q, *(axpy(buf, sub(q, p), s.late) if s.late else buf for buf in buffer)
