"""Bias correction, the count of steps, and the maxima that stand beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arith import Array, div, maximum, mul
from ..numerics.power import power
from ..optimizers.adafactor import Adafactor
from ..optimizers.adagrad import Adagrad
from ..optimizers.adam import Adam
from ..optimizers.adamax import Adamax
from ..optimizers.adamw import AdamW
from ..optimizers.asgd import ASGD
from ..optimizers.nadam import NAdam
from ..optimizers.radam import RAdam
from ..optimizers.rectification import length, longest, rectification
from ..optimizers.sparse_adam import SparseAdam
from ..step.rule import Hypers, Record, Registers
from .change import Change, Words, by_scalars, by_words, declare

CORRECTION, COUNT, MAXIMUM = "bias correction", "step count", "maximum"

CORRECTED = (Adam, AdamW, Adamax, RAdam, SparseAdam)

COUNTING = (*CORRECTED, NAdam, Adagrad, ASGD, Adafactor)
"""Rules in which the number of the step matters."""


def uncorrected(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    """The scalars of a step without bias correction, of those that a rule has."""
    without = {"step_size": -h.lr, "root_correction2": 1.0, "correction1": 1.0}
    return {name: x for name, x in without.items() if name in s}


def _first_uncorrected(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"step_size": -h.lr} if "correction1" not in s else {"correction1": 1.0}


def _second_uncorrected(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"root_correction2": 1.0}


def rectified_by_count(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    """Count the steps, one too many, where rho should exceed 5."""
    if k + 1 <= 5:
        return {}
    beta2 = h.betas[1]
    return {"rectified": True, "rect": rectification(length(beta2, k), longest(beta2))}


by_scalars("NoBiasCorrection", CORRECTED, CORRECTION, change=uncorrected)
by_scalars("FirstMomentUncorrected", [Adam, AdamW, RAdam], CORRECTION, change=_first_uncorrected)
by_scalars("SecondMomentUncorrected", [Adam, AdamW], CORRECTION, change=_second_uncorrected)
by_scalars("RectifiedTooEarly", [RAdam], "rectification", change=rectified_by_count)


def counted(flag: str, count: Any, rules: Any) -> None:
    """Enter a change by which step ``k`` is computed as step ``count(k)``."""

    @declare(flag, rules, COUNT)
    class Counted(Change):
        @classmethod
        def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
            return super().advance(h, count(k), registers)

        @classmethod
        def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
            return super().scalars(h, count(k), registers)


counted("StepAhead", lambda k: k + 1, COUNTING)
counted("StepStuck", lambda k: 1, COUNTING)


@declare("StepFromZero", [Adam, AdamW], COUNT, CORRECTION)
class FromZero(Change):
    """The first step has number 0, and no correction."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, max(1, k - 1), registers)
        return right if k > 1 else {**right, **uncorrected(h, k, right), "eps": h.eps}


@declare("CorrectionAccumulated", [Adam, AdamW], CORRECTION)
class Accumulated(Change):
    """The products of the betas so far stand for their powers."""

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {"product1": 1.0, "product2": 1.0}

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return {f"product{i}": np.float64(registers[f"product{i}"]) * h.betas[i - 1] for i in (1, 2)}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        product1, product2 = (float(x) for x in cls.advance(h, k, registers).values())
        right = super().scalars(h, k, registers)
        root = power(1 - product2, 0.5)
        eps = right["eps"] * right["root_correction2"] / root if right["eps"] != h.eps else h.eps
        return {**right, "eps": eps, "root_correction2": root, "step_size": -(h.lr / (1 - product1))}


def maximum_after(s: Record, p: Array, g: Array, *state: Array) -> Words:
    """Let the maximum be that of corrected averages."""
    if not s.amsgrad:
        return {}
    square = mul(s.root_correction2, s.root_correction2)
    return {
        "maximum": lambda x, y: maximum(x, div(y, square)),
        "div": lambda x, c: x if c is s.root_correction2 else div(x, c),
    }


by_words("AmsgradAfterCorrection", [Adam, AdamW], MAXIMUM, words=maximum_after)
by_scalars("AmsgradIgnored", [Adam, AdamW], MAXIMUM, change=lambda h, k, s: {"amsgrad": False})
by_scalars("MaximumKept", [Adamax], MAXIMUM, change=lambda h, k, s: {"beta2": 1.0})
