"""What a schedule might be instead: models of a curve, how far they are from it, and settings solved for.

A model is a description with its settings written out, on an optimizer with some learning rate. ``Seen`` is the curve
that is to be explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refoptim.numerics.arith import Array

from ..spec import Spec
from .schedule_forms import Rates, changed, rates, with_member

FLOOR = 1e-3
"""Below this part of the largest learning rate, differences are measured against that, not against each number."""

ROUNDING = {"float64": 1e-8, "float32": 1e-4}
"""How far the same rule may be from itself if it is rounded elsewhere: chained products add up their errors."""

FAR = 1e9

ROUNDS = 25
"""Steps of Newton's method."""


class Model(NamedTuple):
    """A schedule on an optimizer with the learning rate ``lr``; ``note`` says what is particular about it."""

    spec: Spec
    lr: float
    note: str = ""

    def at(self, e: Array) -> Rates:
        """Return what it gives at some epochs; NaN if its settings cannot be, as while they are solved for."""
        try:
            with np.errstate(all="ignore"):
                return rates(self.spec, self.lr, e)
        except (ValueError, ArithmeticError):
            return Rates(np.full(len(e), np.nan))

    def noted(self, note: str) -> Model:
        """Return it with another note added."""
        return self._replace(note="; ".join(filter(None, (self.note, note))))


class Seen(NamedTuple):
    """A curve to be explained: learning rates from epoch 0 on, momenta if there are any, and how it is rounded."""

    lr: Array
    momentum: Array | None
    rounding: float

    @property
    def epochs(self) -> Array:
        """0, 1, 2 …"""
        return np.arange(float(len(self.lr)))

    @property
    def levels(self) -> int:
        """How many numbers differ, the momenta counted too: what a curve can tell apart."""
        momenta = 0 if self.momentum is None else len(np.unique(self.momentum)) - 1
        return len(np.unique(self.lr)) + momenta


def seen(lr: Any, momentum: Any = None) -> Seen:
    """Return a curve as it is explained.

    Raises:
        ValueError: these are no learning rates: not one row of at least two finite numbers.
    """
    x, m = _row("lr", lr), None if momentum is None else _row("momentum", momentum)
    if m is not None and len(m) != len(x):
        raise ValueError(f"a curve must have as many momenta as learning rates, got {len(m)} and {len(x)}")
    narrow = bool((x == x.astype(np.float32)).all()) and bool((x * 1e3 % 1 != 0).any())
    return Seen(x, m, ROUNDING["float32" if narrow else "float64"])


def _row(name: str, x: Any) -> Array:
    try:
        row = np.asarray(x, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of a curve must be numbers: {error}") from None
    if row.ndim != 1 or len(row) < 2:
        raise ValueError(f"{name} of a curve must be a row of at least two numbers, got shape {row.shape}")
    if not np.isfinite(row).all():
        raise ValueError(
            f"{name} of a curve must be finite, got {row[~np.isfinite(row)][0]} at {np.argmin(np.isfinite(row))}"
        )
    return row


def gaps(expected: Array, found: Array) -> Array:
    """Return the differences, each relative to the number found or to a part of the largest."""
    least = FLOOR * float(np.abs(found).max()) or 1.0
    with np.errstate(all="ignore"):
        gap = np.abs(expected - found) / np.maximum(np.abs(found), least)
    return np.where(np.isfinite(gap), gap, FAR)


def misfit(model: Model, curve: Seen) -> float:
    """Return the largest gap between a model and a curve, momenta included."""
    found = model.at(curve.epochs)
    worst = float(gaps(found.lr, curve.lr).max())
    if curve.momentum is None:
        return worst
    still = np.full(len(curve.lr), curve.momentum[0])
    return max(worst, float(gaps(still if found.momentum is None else found.momentum, curve.momentum).max()))


def places(spec: Spec) -> Iterator[tuple[Spec, Callable[[Spec], Spec]]]:
    """Yield a scheduler and all it is made of, each with what puts another one in its place."""
    yield spec, lambda x: x
    for i, member in enumerate(spec.members):
        for inner, put in places(member):
            yield inner, lambda x, i=i, put=put: with_member(spec, i, put(x))  # type: ignore[misc]


def residual(model: Model, curve: Seen) -> Array:
    """Return the signed differences from a curve, as parts of the largest number."""
    found = model.at(curve.epochs)
    parts = [(found.lr - curve.lr) / (np.abs(curve.lr).max() or 1.0)]
    if curve.momentum is not None and found.momentum is not None:
        parts.append(found.momentum - curve.momentum)
    return np.clip(np.nan_to_num(np.concatenate(parts), nan=FAR), -FAR, FAR)


def solve(make: Callable[[float], Model], curve: Seen, starts: Sequence[float]) -> tuple[float, float]:
    """Return the value with which a model is nearest to a curve, found from some starts, and how far it is then."""
    best = (float("nan"), FAR)
    for start in sorted(starts, key=lambda x: _loss(make, curve, x))[:3]:
        x = _newton(make, curve, start)
        error = misfit(make(x), curve)
        best = min(best, (x, error), key=lambda pair: pair[1])
        if error <= curve.rounding:
            break
    return _plain(make, curve, *best)


def _loss(make: Callable[[float], Model], curve: Seen, x: float) -> float:
    return float(np.square(residual(make(x), curve)).sum())


def _newton(make: Callable[[float], Model], curve: Seen, x: float) -> float:
    """Go to a minimum of the squared differences, by Gauss and Newton, never uphill.

    Near an explanation each step divides the differences by a large number; where it does not there is none.
    """
    here = residual(make(x), curve)
    for i in range(ROUNDS):
        h = 1e-6 * (abs(x) or 1e-3)
        slope = (residual(make(x + h), curve) - residual(make(x - h), curve)) / (2 * h)
        steep, loss = float(slope @ slope), float(here @ here)
        if not 0 < steep < FAR**2:
            break
        step = -float(slope @ here) / steep
        x, here = _downhill(make, curve, x, step, here)
        if float(here @ here) > loss * (0.999 if i < 4 else 0.3):
            break
    return x


def _downhill(make: Callable[[float], Model], curve: Seen, x: float, step: float, here: Array) -> tuple[float, Array]:
    """Go a step, or a part of it, if that makes the differences smaller."""
    loss = float(here @ here)
    for part in (1.0, 0.25, 0.0625, 0.01):
        tried = residual(make(x + part * step), curve)
        if float(tried @ tried) < loss:
            return x + part * step, tried
    return x, here


def _plain(make: Callable[[float], Model], curve: Seen, x: float, error: float) -> tuple[float, float]:
    """Return the value with the fewest digits that explains the curve as well as a rounded one can."""
    if error > curve.rounding:
        return x, error
    for short in (0.0, *(float(f"{x:.{digits}g}") for digits in range(1, 10))):
        found = misfit(make(short), curve)
        if found <= curve.rounding / 10:
            return short, found
    return x, error


def starts_of(curve: Seen, lr: float, value: float) -> list[float]:
    """Return values from which a setting may be found: near its own, and what can be read off a curve."""
    y = curve.lr
    read = [y.min(), y.max(), y[0], y[-1]]
    with np.errstate(all="ignore"):
        quotients = y[1:] / y[:-1]
    ratios = [quotients[np.argmax(np.abs(np.diff(y)))], np.median(quotients), quotients[0]]
    ratios += [x / lr for x in read] if lr else []
    near = [value * k for k in (0.1, 0.5, 0.9, 1.1, 2, 10)] + [1e-3, 0.1, 0.5, 0.9, 1.0]
    return [float(x) for x in {*read, *ratios, *near} if np.isfinite(x)]


def setting_of(model: Model, put: Callable[[Spec], Spec], spec: Spec, name: str) -> Callable[[Any], Model]:
    """Return what gives a model another value of a setting, in the scheduler it belongs to."""
    return lambda x: model._replace(spec=put(changed(spec, **{name: x})))
