"""Runs a rule on whole arrays and returns new ones: nothing is written, so any array type can pass through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..numerics.arith import Array, as_reals, from_reals, round_to, widen
from ..numerics.array_types import place
from ..numerics.namespaces import Foreign
from ..step.rule import Record, Rule, apply, extended, unscaled
from ..step.rule import is_measured as is_measured
from ..step.sparse import SparseGrad
from . import coded

State = dict[str, Any]


def run(
    rule: type[Rule], s: Record, p: Array, g: Any, state: State, rounding: str = "each", *, estimate: Any = None
) -> tuple[Array, dict[str, Array]]:
    """Return the new parameter and the new state of a step; ``state`` maps names to arrays, or to None if unmade."""
    with np.errstate(all="ignore"):
        if isinstance(g, SparseGrad):
            return _rows(rule, s, p, g, state, rounding)
        if rule.in_single:
            return _coded(rule, s, p, g, state)
        arrays = (p, g, *state.values(), *(() if estimate is None else (estimate,)))
        operands = [x if x is None else as_reals(x) for x in arrays]
        half = _measured if is_measured(rule) else _flat
        results = half(rule, s, operands, list(state), rounding)
        new_p, *new_state = (from_reals(round_to(x, operands[0]), p.dtype) for x in _apart(results, operands))
        return new_p, dict(zip(state, new_state, strict=True))


def totals(rule: type[Rule], s: Record, p: Array, g: Array, state: Mapping[str, Any]) -> tuple[float, ...]:
    """Return what a parameter adds to the sums over all; ``state`` is as ``run`` takes it."""
    with np.errstate(all="ignore"):
        p, g, *arrays = with_axes(rule, {"p": p, "g": g, **state})
        return rule.totals_over_all(s, p, g, *arrays)


def _rows(
    rule: type[Rule], s: Record, p: Array, g: SparseGrad, state: State, rounding: str
) -> tuple[Array, dict[str, Array]]:
    """Run the rule on the rows that a sparse gradient touches."""
    rows, values = g.coalesce()
    at = np.unravel_index(rows, g.shape[: len(g.indices)])
    new_p, new_state = run(rule, s, p[at], values, {name: x[at] for name, x in state.items()}, rounding)

    def put(x: Array, part: Array) -> Array:
        x = x.copy()
        x[at] = part
        return x

    return put(p, new_p), {name: put(x, new_state[name]) for name, x in state.items()}


def _coded(rule: type[Rule], s: Record, p: Array, g: Array, state: State) -> tuple[Array, dict[str, Array]]:
    """Rules that compute in float32 round at the store, whatever ``rounding`` says; tables stay as they are."""
    new_p, new = coded.run(rule, s, p.reshape(-1), g.reshape(-1), {name: x.reshape(-1) for name, x in state.items()})
    kept = {name: new[name].reshape(x.shape) if name in new else x.copy() for name, x in state.items()}
    return new_p.reshape(p.shape), kept


def _apart(results: list[Array], operands: list[Array]) -> list[Array]:
    """Copy the arrays of NumPy and CuPy among ``results`` that share memory with an operand or another result."""
    taken = [x for x in operands if place(x)]
    apart = []
    for x in results:
        shared = place(x) and any(np.may_share_memory(x, y) for y in taken)
        apart.append(x.copy() if shared else x)
        taken += [apart[-1]] if place(x) else []
    return apart


def _flat(rule: type[Rule], s: Record, operands: list[Array], names: list[str], rounding: str) -> list[Array]:
    shape = operands[0].shape
    flats = [x if x is None else x.reshape(-1) for x in operands]
    if rounding == "store":
        flats = [widen(x) for x in flats]
    results = list(apply(rule, s, *flats))
    for i, x in enumerate(results):
        if isinstance(x, Foreign) and any(x is y for y in (*flats, *results[:i])):
            results[i] = x.copy()
    return [x.reshape(shape) for x in results]


def _measured(rule: type[Rule], s: Record, operands: list[Array], names: list[str], rounding: str) -> list[Array]:
    """Rules that measure round at the store, whatever ``rounding`` says."""
    shape = operands[0].shape
    p, g, *state = with_axes(rule, dict(zip(("p", "g", *names), operands, strict=True)))
    measured = rule.measure(s, p, unscaled(s, widen(g)), *state)
    walked = {name: x for name, x in zip(names, state, strict=True) if name not in measured}
    s = extended(s, measured, p.dtype)
    new_p, *rest = apply(rule, s, *(x if x is None else widen(x) for x in (p, g, *walked.values())))
    updated = dict(zip(walked, rest, strict=True))
    results = [new_p, *(updated[name] if name in updated else measured[name] for name in names)]
    return results if shape else [x.reshape(()) for x in results]


def with_axes(rule: type[Rule], arrays: Mapping[str, Array]) -> list[Array]:
    """Give arrays that have no axis one, but for the state that is a number by itself."""
    kept = (x if x is None or x.ndim or name in rule.numbers else x.reshape(1) for name, x in arrays.items())
    return list(kept)
