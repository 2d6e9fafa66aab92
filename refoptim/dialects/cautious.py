"""How cautious steps differ: what the mask is kept in, and by how much it scales up what it leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import refoptim

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.cautious import LEAST, masked
from ..step.hyper import declared
from ..step.rule import Record
from .change import Change, Words, changed, declare

MASK = "mask"

CLASSES: list[Any] = [x for x in (getattr(refoptim, name) for name in refoptim.__all__) if inspect.isclass(x)]

CAUTIOUS = [x for x in CLASSES if issubclass(x, Optimizer) and "cautious" in declared(x)]
"""The rules that have the flag."""

KEPT = [rule for rule in CAUTIOUS if rule.__name__ not in ("Lion", "LAMB")]
"""Those of whose state a direction is one array."""


def by_caution(flag: str, change: Callable[[float, int], Any]) -> None:
    """Enter a change of what divides the mask: ``change(caution, size)`` returns another, False for no mask."""

    @declare(flag, CAUTIOUS, MASK)
    class Caution(Change):
        @classmethod
        def counted(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
            return {"caution": change(super().counted(s, p, g, *state)["caution"], max(1, p.size))}


def _one_more(caution: float, size: int) -> float:
    count = round(caution * size) if caution > LEAST else 0
    return (count + 1) / size


by_caution("CautionIgnored", lambda caution, size: False)
by_caution("MaskUnscaled", lambda caution, size: 1.0)
by_caution("MaskCountsOneMore", _one_more)


@declare("MaskKept", KEPT, MASK)
class MaskKept(Change):
    """The average is kept as the mask leaves it."""

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | {"masked": _noting}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        here = changed(s, noted=[])
        new_p, *new = super().update(here, p, g, *state)
        return new_p, *(next((y for u, y in here.noted if u is x), x) for x in new)


def _noting(s: Record, u: Array, g: Array) -> Array:
    """Mask a direction, and take note of it."""
    s.noted.append((u, masked(s, u, g)))
    noted: Array = s.noted[-1][1]
    return noted
