"""Numbers that are too large for the type in which a step uses them: refused, before anything is written.

A number of a record that is finite but beyond the storage type is rare, so only then is it worth asking where it is
used: the rule's own ``update`` says so, run on one element with numbers that take note.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ..numerics.arith import DType, Undecided, storage
from .rule import (
    Hypers,
    Record,
    Rule,
    computed,
    extended,
    has_own_measure,
    has_sums,
    module_of,
    overflow,
    record,
    renewed,
    told,
)

LARGEST = {
    "float16": 65504.0,
    "bfloat16": 255 * 2.0**120,
    "float32": (2 - 2.0**-23) * 2.0**127,
    "float64": sys.float_info.max,
}
"""The largest number of each storage type."""


NUMBERS = (int, float, np.integer, np.floating)


@cache
def _largest(dtype: DType) -> float:
    return LARGEST[storage(dtype).name]


def fitting(rule: type[Rule], h: Hypers, scalars: dict[str, Any], dtype: DType) -> Record:
    """Return the record of a step on arrays of ``dtype``, or raise RuntimeError if a number overflows where it is used.

    16-bit storage is taken as the rounding ``each`` takes it, whoever runs the step, so that all give one answer.
    """
    own_type = computed(rule, dtype)
    s, largest = record(scalars, own_type), _largest(own_type)
    large = _large(scalars, largest)
    if large not in ([], ["grad_scale"]) and (has_sums(rule) or not has_own_measure(rule)):
        own = module_of(rule.scalars).partition(".")[0] == __package__.partition(".")[0]
        meant = [] if own else [name for name in large if abs(scalars[name]) == math.inf]  # a rule of others may use it
        _try(rule, h, s, storage(dtype), {*large}.difference(meant))
    return s


class Records:
    """The records of steps one after another, on arrays of ``dtype``: what stays is rounded and looked at once."""

    def __init__(self, rule: type[Rule], dtype: DType) -> None:
        self.rule, self.dtype = rule, computed(rule, dtype)
        self.largest = _largest(self.dtype)
        self.last: Record | None = None
        self.before: dict[str, Any] = {}
        self.names: list[str] = []

    def next(self, h: Hypers, scalars: dict[str, Any]) -> Record:
        """Return the record of a step, the last one if nothing is new in it, or raise as ``fitting`` does."""
        if self.last is None or self.names != [*scalars]:
            return self._first(h, scalars)
        before = self.before
        new = {
            name: x
            for name, x in scalars.items()
            if x is not (y := before[name])
            and (x != y or not x or type(x) is not float or type(y) is not float)  # a zero may have another sign
        }
        if not new:
            return self.last
        if _large(new, self.largest):
            return self._first(h, scalars)
        self.last, self.before = renewed(self.last, new, self.dtype), scalars
        return self.last

    def check(self, h: Hypers, scalars: dict[str, Any]) -> None:
        """Raise as ``fitting`` does, without a record."""
        numbers = {**scalars, "grad_scale": 1}.values()
        try:
            fits = sum(map(abs, numbers)) <= self.largest  # then each of them does
        except TypeError:  # not all are numbers
            fits = False
        if not fits:
            fitting(self.rule, h, scalars, self.dtype)

    def _first(self, h: Hypers, scalars: dict[str, Any]) -> Record:
        """Return the record of a step of which everything is looked at, as it is next time if a number is large."""
        s = fitting(self.rule, h, scalars, self.dtype)
        self.last, self.before = None if _large(scalars, self.largest) else s, scalars
        self.names = [*scalars]
        return s


def _large(scalars: Mapping[str, Any], largest: float) -> list[str]:
    """Return the names of the scalars that are numbers beyond the largest one of a type."""
    return [name for name, x in scalars.items() if isinstance(x, NUMBERS) and not abs(x) <= largest]


def check_constants(rule: type[Rule], h: Hypers, s: Record, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise RuntimeError if a number that ``measure`` makes of scalars alone is too large for its type."""
    for name, x in rule.constants(s, shape, dtype).items():
        check_number(name, x, x.dtype, h)


def check_number(name: str, x: Any, dtype: DType, h: Hypers | None = None) -> None:
    """Raise RuntimeError if a number, which the settings ``h`` decide, is not finite in the type ``dtype``."""
    try:
        fits = abs(float(x)) <= _largest(np.dtype(dtype))
    except Undecided:
        return
    if not fits:
        raise overflow(dtype, f"{name} = {float(x)!r}", h)


class _Watched(np.ndarray[Any, Any]):
    """A number of a record that takes note, in ``used``, of the types in which the words of a rule use it."""

    used: list[DType]

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        self.used.append(np.dtype(dtype))
        return np.asarray(self).astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*map(_noted, inputs), **options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return function(*map(_noted, inputs), **options)


def _watched(x: Any) -> _Watched:
    watched = np.array(x).view(_Watched)
    watched.used = []
    return watched


def _noted(x: Any) -> Any:
    """Return an operand as a plain one; one that is watched is used as it is."""
    if not isinstance(x, _Watched):
        return x
    x.used.append(x.dtype)
    return np.asarray(x)


def _try(rule: type[Rule], h: Hypers, s: Record, dtype: DType, names: set[str]) -> None:
    """Run the array half of a rule on one element, and raise RuntimeError if one of some numbers overflows in it."""
    numbers = {name: _watched(x) for name, x in vars(s).items() if name in names and isinstance(x, np.floating)}
    shapes = rule.shapes(h, (1,))
    p, g, *state = (np.ones(shapes.get(name, (1,)), dtype) for name in ("p", "g", *rule.arrays(h, (1,))))
    if rule.takes_part(h):
        found, _ = told(rule, h, rule.registers(h), [1.0 for _ in rule.sums_over_all(s, p, g, *state)])
        s = extended(s, found, dtype)
    watched = type(s)(**{**vars(s), **numbers})
    measured = rule.measure(watched, p, g, *state)
    walked: list[Any] = state[: len(state) - len(measured.keys() & {*rule.numbers})]
    walked += [g if s.estimated else None] if rule.takes_estimates else []
    rule.update(type(s)(**{**vars(extended(s, measured, dtype)), **numbers}), p, g, *walked)
    for name, x in numbers.items():
        for used in x.used:
            check_number(name, getattr(s.exact, name), used, h)
