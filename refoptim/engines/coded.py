"""Runs rules that compute in float32 and may keep state in 8 bits, on vectors of whole blocks of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..numerics.arith import Array, widen
from ..numerics.codes import SINGLE, parts_of
from ..step.rule import Record, Rule, ascent, unscaled


def own(names: Mapping[str, Any]) -> list[str]:
    """Return the names of the state arrays that a rule knows: not the scales and the tables of codes."""
    parts = {part for name in names for part in parts_of(name)}
    return [name for name in names if name not in parts]


def block(sizes: Mapping[str, int], size: int) -> int:
    """Return the number of elements of a block, 1 where nothing is kept as codes; ``sizes`` are those of the state."""
    scales = (parts_of(name)[0] for name in own(sizes))
    return next((size // sizes[scale] for scale in scales if scale in sizes), 1)


def slices(sizes: Mapping[str, int], size: int, begin: int, end: int) -> dict[str, slice]:
    """Return where the state of the elements from ``begin`` to ``end`` of a parameter lies; a table is there whole."""
    found = {}
    for name in own(sizes):
        found[name] = slice(begin, end)
        scale, table = parts_of(name)
        if scale in sizes:
            length = size // sizes[scale]
            found |= {scale: slice(begin // length, end // length), table: slice(None)}
    return found


def run(rule: type[Rule], s: Record, p: Array, g: Array, state: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return the new parameter and the new state arrays, tables left out, each rounded once to its storage."""
    values = {name: _read(rule, name, state) for name in own(state)}
    g = ascent(s, unscaled(s, widen(g))).astype(SINGLE)
    new_p, *new = rule.update(s, p.astype(SINGLE), g, *values.values())
    written: dict[str, Array] = {}
    for name, x in zip(values, new, strict=True):
        written |= _written(rule, name, x, state)
    return new_p.astype(p.dtype), written


def _read(rule: type[Rule], name: str, state: Mapping[str, Array]) -> Array:
    scale, table = parts_of(name)
    if scale not in state:
        return state[name].astype(SINGLE)
    codes = state[name].reshape(len(state[scale]), -1)
    return rule.decode(codes, state[scale], state[table]).reshape(-1)


def _written(rule: type[Rule], name: str, x: Array, state: Mapping[str, Array]) -> dict[str, Array]:
    scale, table = parts_of(name)
    if scale not in state:
        return {name: x.astype(state[name].dtype)}
    codes, scales = rule.encode(x.reshape(len(state[scale]), -1), state[table])
    return {name: codes.reshape(-1), scale: scales}
