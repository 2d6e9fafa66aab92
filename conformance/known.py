"""What is known of other libraries: their dialects, which ``refoptim.dialects`` has as presets.

Where a library's dialect parts from the rule in a case, the library is held to its dialect in place of the rule. It
then deviates as known: nothing is listed by hand, and what the dialect does not explain breaks the promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from refoptim import dialects
from refoptim.dialects import Axis
from refoptim.dialects.preset import LIBRARIES, known

from .reference import Reference


class Dialect(Reference):
    """refoptim with what differs along some axes."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._axes = axes

    def rule(self, optimizer: str) -> Any:
        return dialects.made_of(super().rule(optimizer), *self._axes)


@cache
def axes_of(library: str, optimizer: str) -> tuple[Axis, ...]:
    """Return what differs in an optimizer of a library; nothing where no dialect is known."""
    made = known()[library].get(optimizer) if library in LIBRARIES else None
    return made.axes if made else ()


def meaning(flags: Sequence[str]) -> str:
    """Return what some flags mean, in one sentence."""
    return "; ".join(dialects.FLAGS[flag].meaning for flag in flags)
