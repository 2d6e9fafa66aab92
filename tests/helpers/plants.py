"""Black boxes with planted mistakes: dialects of refoptim, and rules that are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
from refoptim.conformance import cases, run
from refoptim.conformance.diagnose.evidence import Evidence, collect
from refoptim.conformance.known import Dialect
from refoptim.conformance.reference import Reference

from refoptim import dialects
from refoptim.dialects import Axis
from refoptim.dialects.change import Change

WIDEST = ("float64", "complex128", "float32", "complex64", "float16", "bfloat16")
"""Storage types by how well they tell roundings from mistakes."""


def planted(optimizer: str, *axes: Axis, read: Callable[[dict[str, Any]], Mapping[str, Any]] = dict) -> type[Reference]:
    """Return an implementation that has some axes, and reads its hyperparameters in some way."""
    assert all(axis.optimizer == optimizer for axis in axes)

    class Planted(Dialect):
        def __init__(self) -> None:
            super().__init__(axes)

        def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Any]) -> None:
            super().make(optimizer, read(dict(hyper)), parameters)

        def set(self, hyper: Mapping[str, Any]) -> None:
            super().set(read(dict(hyper)))

    return Planted


def evidence(optimizer: str, implementation: Any, dtypes: Sequence[str] = ()) -> list[Evidence]:
    """Return what an implementation makes of the cases of an optimizer in some storage types, or each in its widest."""
    found = [case for stem in cases.stems() for case in cases.load(stem) if case.optimizer == optimizer]
    jobs = [
        run.Job("planted", implementation, optimizer, case, dtype)
        for case in found
        for dtype in case.dtypes
        if (dtype in dtypes if dtypes else dtype == min(case.dtypes, key=WIDEST.index))
    ]
    collected = collect(jobs)
    assert not collected.raised and not collected.unlike
    return collected.evidence


def drawn_pair(optimizer: str, random: Random, left_out: Any = ()) -> tuple[Axis, Axis]:
    """Draw two axes of an optimizer that stand together."""
    axes = [axis for axis in dialects.axes_of(optimizer) if axis.flag not in left_out]
    while True:
        one, two = random.sample(axes, 2)
        if one.flag != two.flag and dialects.fit((one, two)):
            return one, two


Update = Callable[..., tuple[Any, ...]]
Wrap = Callable[..., tuple[Any, ...]]


def outside(optimizer: str, random: Random) -> type[Reference]:
    """Draw a mistake that is none of the axes: another formula, or a constant where none belongs."""
    kind = random.choice([_gradient, _direction, _kept, _scalar, _root])
    change = type("Outside", (kind(random),), {})
    return planted(optimizer, Axis(optimizer, "Outside", change, ("anything",)))


def _wrapped(wrap: Wrap) -> type[Change]:
    class Wrapped(Change):
        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
            with np.errstate(all="ignore"):
                return wrap(super().update, s, p, g, *state)

    return Wrapped


def _gradient(random: Random) -> type[Change]:
    """The gradient is bent before it enters."""
    c = random.uniform(0.05, 0.6)
    bent: Callable[[Any], Any] = random.choice(
        [
            lambda g: g + g.dtype.type(c) * g * np.abs(g),
            lambda g: np.clip(g, -g.dtype.type(c), g.dtype.type(c)),
            lambda g: g / (g.dtype.type(1) + g.dtype.type(c) * np.abs(g)),
            lambda g: g + g.dtype.type(c),
            lambda g: np.where(np.abs(g) < c, g.dtype.type(0), g),
        ]
    )
    return _wrapped(lambda update, s, p, g, *state: update(s, p, bent(g), *state))


def _direction(random: Random) -> type[Change]:
    """The step is bent after it was computed."""
    c = random.uniform(0.05, 0.6)
    bend: Callable[[Any, Any], Any] = random.choice(
        [
            lambda step, p: step * (1 + c * np.cos(7 * p)),
            lambda step, p: step - c * step * np.abs(step),
            lambda step, p: step * (1 + c * (np.abs(p) > 0.5)),
            lambda step, p: step + 1e-3 * c * np.sin(5 * p),
        ]
    )

    def wrap(update: Update, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        q, *after = update(s, p, g, *state)
        return (p + bend(q - p, p)).astype(p.dtype), *after

    return _wrapped(wrap)


def _kept(random: Random) -> type[Change]:
    """What is kept is bent each time."""
    c, which = random.uniform(0.05, 0.4), random.randrange(4)

    def wrap(update: Update, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        p, *after = update(s, p, g, *state)
        if after:
            i = which % len(after)
            after[i] = (after[i] - after[i].dtype.type(c) * after[i] * np.abs(after[i])).astype(p.dtype)
        return p, *after

    return _wrapped(wrap)


def _scalar(random: Random) -> type[Change]:
    """A number of the step wavers from step to step; not eps, which may count in one step alone."""
    c, which = random.uniform(0.05, 0.4), random.randrange(1000)

    class Wavering(Change):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            right = super().scalars(h, k, registers)
            names = sorted(name for name, x in right.items() if type(x) is float and x and name != "eps")
            name = names[which % len(names)]
            return {**right, name: right[name] * (1 + c * (-1) ** k / k)}

    return Wavering


def _root(random: Random) -> type[Change]:
    """Another power stands for the square root, where there is one."""
    power = random.choice([0.33, 0.4, 0.45, 0.55, 0.6, 0.75])

    class Powered(Change):
        @classmethod
        def words(cls, s: Any, p: Any, g: Any, *state: Any) -> dict[str, Any]:
            return super().words(s, p, g, *state) | {"sqrt": lambda x: np.abs(x) ** x.dtype.type(power)}

    return Powered


def in_single(optimizer: str, *axes: Axis) -> type[Reference]:
    """Return an implementation with some axes whose scalars are worked out in float32, in an order of its own."""

    class Nudged(Change):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            random = Random(k)
            right = super().scalars(h, k, registers)
            return {name: _nudged(x, random) if type(x) is float else x for name, x in right.items()}

    return planted(optimizer, *axes, Axis(optimizer, "Nudged", Nudged, ("scalars in float32",)))


def _nudged(x: float, random: Random) -> float:
    """Return one of the three numbers of float32 next to a number."""
    near = np.float32(x)
    return float(random.choice([np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))]))


@cache
def right(optimizer: str) -> list[Evidence]:
    """Return what the reference makes of the cases of an optimizer in the widest types."""
    return evidence(optimizer, Reference)


def shows(found: Sequence[Evidence]) -> bool:
    """Tell whether what an implementation gave is not what the reference gives."""
    pairs = zip(right(found[0].case.optimizer), found, strict=True)
    return not all(np.allclose(x.scaled, y.scaled, 1e-9, 1e-12, equal_nan=True) for x, y in pairs if not x.is_edge)
