"""The rules in real arithmetic: refoptim's own functions run on numbers of 50 digits.

A rule is pure, so that its ``scalars``, ``measure`` and ``update`` run on any numbers; here on NumPy's arrays of
objects, whose elements are mpmath's. A few names would make a double of them on the way: powers, roots, ``float``, the
types of arithmetic. They stand for exact ones while a step is taken, in the modules that define it, and for nothing
else: there is no second text of a rule. Numbers that are given, literals among them, are taken as the doubles they are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

import refoptim
from refoptim.engines import pure
from refoptim.numerics import arith
from refoptim.numerics.arith import Array, DType
from refoptim.step import rule as rules
from refoptim.step.hyper import Count, declared
from refoptim.step.plan import layout
from refoptim.step.rule import Hypers, Rule
from refoptim.step.sparse import SparseGrad

from .trajectory import State

DIGITS = 50

OBJECT = np.dtype(object)
"""The type of arrays of numbers; what a word asks of a type fits: it is not complex, and not of 16 bits."""

SHARED = (
    *("refoptim.numerics.tree", "refoptim.numerics.decompositions", "refoptim.numerics.followed"),
    *("refoptim.step.cautious", "refoptim.step.rule", "refoptim.step.sparse"),
)
"""Modules in which names are replaced besides the room of a rule."""


@cache
def arithmetic() -> Any:
    """Return mpmath's arithmetic of 50 digits, apart from anyone else's; its numbers have a ``dtype``, as NumPy's."""
    import mpmath

    numbers = mpmath.MPContext()
    numbers.dps = DIGITS
    numbers.mpf.dtype = OBJECT
    return numbers


def exact(x: Any) -> Array:
    """Return the elements of an array, real and of any storage type, as exact numbers."""
    out = np.empty(np.shape(x), OBJECT)
    out.reshape(-1)[:] = [arithmetic().mpf(float(y)) for y in np.asarray(x).reshape(-1)]
    return out


def replacements(storage: DType) -> dict[str, Any]:
    """Return what stands for names that compute with doubles; ``storage`` is the type whose epsilon a rule asks for."""
    numbers = arithmetic()
    return {
        "power": numbers.power,
        "exp": numbers.exp,
        "log": numbers.log,
        "math": SimpleNamespace(sqrt=numbers.sqrt, prod=math.prod),
        "float": numbers.mpf,
        "np": SimpleNamespace(**{**vars(np), "dtype": lambda name: OBJECT}),
        "arithmetic": lambda dtype: OBJECT,
        "storage": lambda dtype: OBJECT,
        "epsilon": lambda dtype: numbers.mpf(arith.epsilon(storage)),
        "negligible": lambda dtype: numbers.ldexp(1, -3 * DIGITS),
        "zeros": lambda like, n: exact(np.zeros((n, n))),
        "to_bfloat16": lambda x: x,
    }


@contextmanager
def real_arithmetic(rule: type[Rule], storage: DType) -> Iterator[None]:
    """Let the functions of a rule compute with exact numbers inside the block. Other threads see that too."""
    rooms = {cls.__module__ for cls in rule.__mro__ if cls.__module__.startswith("refoptim.optimizers")}
    instead = replacements(storage)
    before: list[tuple[dict[str, Any], str, Any]] = []
    for name in (*rooms, *SHARED):
        found = vars(sys.modules[name])
        kept = instead if name in rooms else {key: x for key, x in instead.items() if key not in ("np", "math")}
        before += [(found, key, found[key]) for key in kept if key in found]
        found.update((key, x) for key, x in kept.items() if key in found or key == "float")
    try:
        yield
    finally:
        for name in (*rooms, *SHARED):
            vars(sys.modules[name]).pop("float", None)
        for found, key, x in before:
            found[key] = x


def exact_hyper(rule: Any, hyper: Mapping[str, Any]) -> Hypers:
    """Check hyperparameters and return them resolved, every real one an exact number."""
    h = rules.resolve(rule, rule([{"params": []}], **hyper).defaults)
    counts = {name for name, x in declared(rule).items() if isinstance(x, Count)}
    return SimpleNamespace(**{name: x if name in counts else _number(x) for name, x in vars(h).items()})


def _number(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_number, x))
    return arithmetic().mpf(x) if isinstance(x, (int, float)) and not isinstance(x, bool) else x


class Exact:
    """refoptim's rules in real arithmetic, as an implementation that cases are put through."""

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        self._rule, self._hyper = getattr(refoptim, optimizer), dict(hyper)
        self._storage = parameters[0].dtype
        self._h = exact_hyper(self._rule, self._hyper)
        self._arrays = [exact(p) for p in parameters]
        self._states: list[State] = [self._first(p) for p in self._arrays]
        self._registers = [self._rule.registers(self._h) for _ in parameters]
        self._steps = [0] * len(parameters)

    def _first(self, p: Array) -> State:
        fills = layout(self._rule, self._h, p.shape)
        return {name: fill if fill is None else exact(np.full(shape, fill)) for name, (shape, fill, _) in fills.items()}

    def set(self, hyper: Mapping[str, Any]) -> None:
        self._hyper |= hyper
        self._h = exact_hyper(self._rule, self._hyper)

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        with real_arithmetic(self._rule, self._storage):
            for i, g in enumerate(grads):
                if g is not None:
                    self._update(i, g, estimates[i] if estimates else None)

    def _update(self, i: int, g: Any, h: Any) -> None:
        """Take a step of one parameter, as an engine does; ``h`` is an estimate."""
        sparse = isinstance(g, SparseGrad)
        g = SparseGrad(g.indices, exact(g.values), g.shape) if sparse else exact(g)
        rule = rules.rule_of(self._rule, self._h)
        g = rule.accept(self._h, g)
        self._steps[i] += 1
        now = rule, self._h, self._steps[i], _numbers(self._registers[i])
        scalars = rules.step_scalars(*now) | {"sparse": isinstance(g, SparseGrad), "estimated": h is not None}
        self._registers[i] = rules.next_registers(*now)
        s = rules.record(scalars, OBJECT)
        self._arrays[i], self._states[i] = pure.run(
            rule, s, self._arrays[i], g, self._states[i], estimate=None if h is None else exact(h)
        )

    def resume(self) -> None:
        """Nothing is lost: what would be saved is exact."""

    def parameters(self) -> list[Array]:
        return list(self._arrays)

    def state(self) -> list[State]:
        return list(self._states)


def _numbers(registers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arithmetic().mpf(x) for name, x in registers.items()}
