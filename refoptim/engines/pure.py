"""Runs a rule on whole arrays and returns new ones: nothing is written, so any array type can pass through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ..arith import Array, as_reals, from_reals, round_to, widen
from ..rule import Record, Rule, apply


def run(
    rule: type[Rule], s: Record, p: Array, g: Array, state: dict[str, Any], rounding: str = "each"
) -> tuple[Array, dict[str, Array]]:
    """Return the new parameter and the new state of a step; ``state`` maps names to arrays, or to None if unmade."""
    storage = as_reals(p)
    operands = [x if x is None else as_reals(x) for x in (p, g, *state.values())]
    if rounding == "store" or is_measured(rule):
        operands = [x if x is None else widen(x) for x in operands]
    half = _measured if is_measured(rule) else _flat
    with np.errstate(all="ignore"):
        new_p, new_state = half(rule, s, operands, list(state))

    def restore(x: Array) -> Array:
        return from_reals(round_to(x, storage), p.dtype)

    return restore(new_p), {name: restore(x) for name, x in new_state.items()}


def is_measured(rule: type[Rule]) -> bool:
    """Tell whether a rule needs sums over elements, so that its arrays keep their shapes."""
    return rule.measure.__func__ is not Rule.measure.__func__  # type: ignore[attr-defined]


def _flat(rule: type[Rule], s: Record, operands: list[Array], names: list[str]) -> tuple[Array, dict[str, Array]]:
    shape = operands[0].shape
    results = apply(rule, s, *(x if x is None else x.reshape(-1) for x in operands))
    new_p, *new_state = (x.reshape(shape) for x in results)
    return new_p, dict(zip(names, new_state, strict=True))


def _measured(rule: type[Rule], s: Record, operands: list[Array], names: list[str]) -> tuple[Array, dict[str, Array]]:
    p, g, *state = operands
    measured = rule.measure(s, p, g, *state)
    walked = {name: x for name, x in zip(names, state, strict=True) if name not in measured}
    new_p, *rest = apply(rule, SimpleNamespace(**vars(s), **measured), p, g, *walked.values())
    updated = dict(zip(walked, rest, strict=True))
    return new_p, {name: updated[name] if name in updated else measured[name] for name in names}
