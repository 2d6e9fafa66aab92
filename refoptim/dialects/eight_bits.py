"""How implementations of rules that keep state in 8 bits differ."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..numerics.arith import Array, div, mul, sub
from ..numerics.codes import Code, below, encoded, table
from ..optimizers.adam8bit import Adam8bit
from ..optimizers.adamw8bit import AdamW8bit
from ..step.rule import Hypers, Record
from .change import Change, by_scalars, by_update, changed, declare
from .correction import CORRECTION

BOTH = [Adam8bit, AdamW8bit]

CODES = "codes"

by_scalars("NoBiasCorrection", BOTH, CORRECTION, change=lambda h, k, s: {"correction1": 1.0, "root_correction2": 1.0})
by_scalars("EpsUnscaled", BOTH, "eps", change=lambda h, k, s: {"eps": h.eps / s["root_correction2"]}, varying={"eps"})
by_scalars("DecoupledDecay", [Adam8bit], "decay place", change=lambda h, k, s: {"decoupled": True})
by_scalars("CoupledDecay", [AdamW8bit], "decay place", change=lambda h, k, s: {"decoupled": False})
by_scalars("DecayWithoutLr", [AdamW8bit], "decay size", change=lambda h, k, s: {"decay": h.weight_decay})


def _shrunk_after(update: Any, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
    p, *state = update(changed(s, decay=0 * s.decay), p, g, *state)
    return sub(p, mul(p, s.decay)), *state


by_update("DecayAfterUpdate", [AdamW8bit], "decay place", wrap=_shrunk_after)


@declare("CodesIgnored", BOTH, CODES)
class Uncoded(Change):
    """All averages are kept as they are."""

    @classmethod
    def coded(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, Code]:
        return {}


@declare("SmallCoded", BOTH, CODES)
class SmallCoded(Change):
    """Averages of all whole blocks are kept in 8 bits."""

    @classmethod
    def coded(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, Code]:
        if not prod(shape) or prod(shape) % h.block_size:
            return {}
        return {name: Code(table(name == "exp_avg"), h.block_size) for name in cls.arrays(h, shape)}


@declare("SignedSquares", BOTH, CODES)
class SignedSquares(Change):
    """The squares use the signed table."""

    @classmethod
    def coded(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, Code]:
        return {name: Code(table(True), x.block) for name, x in super().coded(h, shape).items()}


@declare("ScaleUnfloored", BOTH, CODES)
class Unfloored(Change):
    """A scale may be as small as the numbers of its block."""

    @classmethod
    def encode(cls, x: Array, table: Array) -> tuple[Array, Array]:
        return encoded(x, table, 0.0)


@declare("CodesDown", BOTH, CODES)
class Down(Change):
    """The number of a code is never above that which it stands for."""

    @classmethod
    def encode(cls, x: Array, table: Array) -> tuple[Array, Array]:
        scale = super().encode(x, table)[1]
        return below(div(x, scale[:, None]), table), scale


@declare("TiesDown", BOTH, CODES)
class TiesDown(Change):
    """Of two numbers as near, a code stands for the smaller one."""

    @classmethod
    def encode(cls, x: Array, table: Array) -> tuple[Array, Array]:
        codes, scale = super().encode(x, table)
        y = div(x, scale[:, None])
        low = below(y, table)
        high = np.minimum(low, low.dtype.type(254)) + low.dtype.type(1)
        tied = sub(y, table[low]) == mul(sub(table[high], table[low]), table.dtype.type(0.5))
        return np.where(tied, low, codes), scale
