"""What is rounded when, and what becomes of zeros, subnormal numbers and NaN."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from ..numerics.arith import Array, add, axpy, div, mul, neg, round_to, sub, to_bfloat16, widen
from ..optimizers import adafactor
from ..optimizers.adafactor import Adafactor
from ..optimizers.adagrad import Adagrad
from ..optimizers.adam import Adam
from ..optimizers.adamax import Adamax
from ..optimizers.adamw import AdamW
from ..optimizers.muon import Muon
from ..optimizers.rmsprop import RMSprop
from ..optimizers.rprop import Rprop
from ..optimizers.sgd import SGD
from ..optimizers.sparse_adam import SparseAdam
from ..step.rule import Hypers, Record, Registers
from .change import Change, Words, by_update, by_words, declare, with_words
from .running import EVERY

ELEMENTWISE = tuple(rule for rule in EVERY if rule not in (Adafactor, Muon))

IN_COMPOUNDS = tuple(rule for rule in ELEMENTWISE if rule is not SparseAdam)
"""Rules in words of more than one operation."""

TINIEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
"""The smallest normal numbers."""


def flushing(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    """Flush what goes in and what comes out."""
    operands = (x if x is None else flushed(x) for x in (p, g, *state))
    return tuple(map(flushed, update(s, *operands)))


def flushed(x: Array) -> Array:
    """Return an array with zeros for its subnormal numbers."""
    return np.where(np.abs(x) < x.dtype.type(TINIEST[x.dtype.name]), np.copysign(x.dtype.type(0), x), x)


def unsigned_zeros(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    """Make every zero +0."""
    return tuple(x + x.dtype.type(0) for x in update(s, p, g, *state))


def fused(x: Array, y: Array, z: Array) -> Array:
    """X + y * z, rounded once"""
    operands = (np.broadcast_to(t, x.shape) for t in (x, y, z))
    if x.dtype == np.float32:
        return _fused_single(*operands)
    a, b, c = (t.astype(np.float64).ravel().tolist() for t in operands)
    exact = [_fused_double(*each) for each in zip(a, b, c, strict=True)]
    return np.array(exact, np.float64).reshape(x.shape).astype(x.dtype)


def _fused_double(a: float, b: float, c: float) -> float:
    try:
        return float(Fraction(a) + Fraction(b) * Fraction(c))
    except (ValueError, OverflowError):  # infinities, NaN, and what is too large
        return a + b * c


def _fused_single(x: Array, y: Array, z: Array) -> Array:
    """The product of two float32 is a double; the sum is rounded to odd so that the second rounding is the only one."""
    product, a = y.astype(np.float64) * z.astype(np.float64), x.astype(np.float64)
    total = a + product
    part = total - a
    rest = (a - (total - part)) + (product - part)
    bits = total.view(np.int64) if total.ndim else np.asarray(total).reshape(1).view(np.int64).reshape(())
    with np.errstate(all="ignore"):
        toward = np.where(np.isfinite(rest) & (rest != 0) & ((bits & 1) == 0), np.sign(rest) * np.inf, total)
        odd = np.where(toward == total, total, np.nextafter(total, toward))
        return odd.astype(np.float32)


def modulus_squared(x: Array) -> Array:
    """Return for each pair of reals the square of its modulus, twice."""
    squares = np.square(x.reshape(-1, 2))
    return np.repeat(squares[:, 0] + squares[:, 1], 2).reshape(x.shape)


@declare("ComplexModulus", [Adam], "complex numbers")
class Moduli(Change):
    """The moments of a complex parameter are made of the square of its modulus."""

    pairs = False

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step that knows whether its reals are pairs."""
        members = [p for group in self.param_groups for p in group["params"]]
        type(self).pairs = all(p.dtype.kind == "c" for p in members)
        try:
            return super().step(closure, grads=grads, **more)
        finally:
            type(self).pairs = False

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        right = super().words(s, p, g, *state)
        return right | ({"addcmul": lambda x, y, z, c: axpy(x, modulus_squared(y), c)} if cls.pairs else {})


def stored(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    """Compute in float32 and round what is stored."""
    wide = [x if x is None else widen(x) for x in (p, g, *state)]
    return tuple(round_to(x, p) for x in update(s, *wide))


def moments_in(narrow: Any) -> Any:
    """Return what rounds the state arrays to narrower numbers."""

    def kept(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
        p, *after = update(s, p, g, *state)
        return p, *(narrow(x) for x in after)

    return kept


def to_single(x: Array) -> Array:
    """Round doubles to single precision."""
    return x.astype(np.float32).astype(x.dtype) if x.dtype.itemsize == 8 else x


def to_brain(x: Array) -> Array:
    """Round to bfloat16."""
    return to_bfloat16(x.astype(np.float32)).astype(x.dtype) if x.dtype.itemsize > 2 else x


class SingleScalars(Change):
    """The scalars of a step are made of hyperparameters in single precision."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        return {name: float(np.float32(x)) if isinstance(x, float) else x for name, x in right.items()}


def _one_sided(x: Array, y: Array, c: Array) -> Array:
    return add(x, mul(sub(y, x), c))


def contracted(s: Record, p: Array, g: Array, *state: Array) -> Words:
    """Return the words that a compiler contracts."""
    return {"axpy": fused, "addcmul": lambda x, y, z, c: fused(x, mul(y, c), z)}


def descending(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    """Take the step that minimizes."""
    return update(s, p, neg(g) if s.maximize else g, *state)


ROUNDING, RANGE = "rounding", "range"

by_update("SubnormalsFlushed", EVERY, RANGE, wrap=flushing)
by_update("SignOfZeroLost", [rule for rule in EVERY if rule is not Rprop], "signs of zero", wrap=unsigned_zeros)
by_words("LerpOneSided", [Adam, AdamW, RMSprop], "lerp", words=lambda s, p, g, *state: {"lerp": _one_sided})
by_words(
    "FusedMultiplyAdd",
    IN_COMPOUNDS,
    ROUNDING,
    words=contracted,
)
by_words(
    "LrAfterDivision",
    [Adam, AdamW, Adamax, Adagrad, RMSprop],
    ROUNDING,
    words=lambda s, p, g, *state: {"addcdiv": lambda x, y, z, c: add(x, mul(div(y, z), c))},
)
by_update("RoundedWhenStored", IN_COMPOUNDS, ROUNDING, wrap=stored)
by_update("MomentsInFloat32", ELEMENTWISE, "dtype of moments", wrap=moments_in(to_single))
by_update("MomentsInBfloat16", ELEMENTWISE, "dtype of moments", wrap=moments_in(to_brain))
declare("ScalarsInFloat32", ELEMENTWISE, "dtype of scalars")(SingleScalars)
by_update(
    "MaximizeIgnored",
    [rule for rule in EVERY if rule is not Muon],
    "sign",
    wrap=descending,
)
by_words("NanDropped", [Adam, AdamW, Adamax], "NaN", words=lambda s, p, g, *state: {"maximum": np.fmax})
by_update(
    "NanDropped",
    [SGD],
    "NaN",
    wrap=lambda update, s, p, g, *state: update(s, p, np.where(g != g, g.dtype.type(0), g), *state),
)
by_words(
    "NanDropped",
    [Adafactor],
    "NaN",
    words=lambda s, p, g, *state: {"direction": with_words(adafactor.direction, {"maximum": np.fmax})},
)
