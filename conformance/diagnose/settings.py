"""Wrong settings: ignored, swapped, or of another value, which is solved for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np

import refoptim
from refoptim import dialects
from refoptim.numerics.arith import Array
from refoptim.step.hyper import Count, Real, Several, declared

from .evidence import Evidence
from .trial import Atoms, Place, Setting, defaults, distance, distances

OTHERS: dict[str, tuple[float, ...]] = {
    "eps": (1e-7, 1e-6, 1e-5, 1e-10),
    "betas[1]": (0.99, 0.98),
    "alpha": (0.9,),
    "rho": (0.95,),
    "lr": (1e-2, 1.0),
    "momentum": (0.9,),
    "weight_decay": (1e-4,),
}
"""Defaults that other libraries have where torch has another."""

AXES_OF_IGNORED = {
    "weight_decay": "DecayIgnored",
    "dampening": "DampeningIgnored",
    "initial_accumulator_value": "InitialAccumulatorIgnored",
}
"""Axes that say that a setting is 0 whatever it is given."""

GRIDS = {
    "beta": (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999),
    "size": (0.0, *(float(f"1e{n}") for n in range(-12, 3)), *(float(f"3e{n}") for n in range(-4, 3))),
}
"""Where a value is looked for."""

BETAS = ("betas[0]", "betas[1]", "alpha", "rho", "momentum", "beta2_decay")
"""Settings by which averages forget."""

HALVINGS = 60
AGREEING = 0.8
"""The part of the telling numbers that must lie on both sides of a value."""

NEAR = 2.0**-23
"""A value that is relatively as near as this to the one given is the one given, rounded to float32."""

DIGITS = range(1, 8)
"""With how many digits people write settings."""


def places(optimizer: str) -> list[Place]:
    """Return the settings of an optimizer that are real numbers, one by one."""
    cls: Any = getattr(refoptim, optimizer)
    given = inspect.signature(cls).parameters
    found = []
    for name, x in declared(cls).items():
        if name in given and isinstance(x, Several) and given[name].default is not None:
            found += [Place(name, i) for i in range(len(x.items))]
        elif name in given and isinstance(x, Real) and not isinstance(x, Count):
            found.append(Place(name))
    return found


def fixed(optimizer: str) -> list[Setting]:
    """Return the wrong settings in which nothing is to be solved for."""
    usual, found = defaults(optimizer), []
    for place in places(optimizer):
        own = place.of(usual)
        if own == 0 and (optimizer, AXES_OF_IGNORED.get(str(place), "")) in dialects.AXES:
            continue
        known = [x for x in (own, *OTHERS.get(str(place), ())) if isinstance(x, (int, float))]
        found += [constant(place, x, usual) for x in dict.fromkeys(known)]
        if str(place) in BETAS:
            found.append(_complemented(place))
    if "betas" in usual:
        found.append(Setting("BetasSwapped", Place("betas"), None, _swapped))
    return found


def _swapped(hyper: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**hyper, "betas": hyper["betas"][::-1]} if "betas" in hyper else hyper


def constant(place: Place, value: float, usual: Mapping[str, Any]) -> Setting:
    """Return the mistake that a setting has a value, whatever it is given."""
    known = (place.of(usual), *OTHERS.get(str(place), ()))
    return Setting(
        "SettingIgnored" if value in known else "SettingDiffers", place, value, _each(place, lambda x: value)
    )


def _each(place: Place, made: Callable[[float], float]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return what changes a setting by a function of its value."""

    def change(hyper: Mapping[str, Any]) -> Mapping[str, Any]:
        value = place.of(hyper) if place.name in hyper else None
        return place.put(hyper, made(value)) if isinstance(value, (int, float)) else hyper

    return change


def _complemented(place: Place) -> Setting:
    return Setting("BetaComplemented", place, None, _each(place, lambda x: 1 - x if x else x))


def scaled(place: Place, factor: float) -> Setting:
    """Return the mistake that a setting is multiplied by a factor."""
    flag = "LrScaled" if place.name == "lr" else "SettingScaled"
    return Setting(flag, place, factor, _each(place, lambda x: x * factor))


def solved(optimizer: str, atoms: Atoms, place: Place, evidence: Evidence, tolerance: float) -> Iterator[Setting]:
    """Yield the values, as constants and as factors, with which a dialect does what a black box did in a case.

    Where the two part first, the value is bracketed, then bisected, and then rounded to as few digits as explain all
    steps of the case.
    """
    usual = defaults(optimizer)
    given = place.of({**usual, **evidence.case.hyper})
    if not isinstance(given, (int, float)):
        return
    step = _first_part(optimizer, atoms, evidence, tolerance)
    if step is None:
        return
    ask = _Question(optimizer, atoms, place, evidence, usual, step)
    for value in ask.answers(GRIDS["beta" if str(place) in BETAS else "size"], tolerance):
        if abs(value - given) > NEAR * abs(given):
            yield constant(place, value, usual)
    if given:
        factors = ask.factors(float(given), tolerance)
        yield from (scaled(place, float(x)) for x in factors if abs(x - 1) > NEAR)


def _first_part(optimizer: str, atoms: Atoms, evidence: Evidence, tolerance: float) -> int | None:
    """Return the first step in which a dialect and the black box part."""
    gaps = (gap for gap, _ in distances(optimizer, atoms, evidence))
    return next((k for k, gap in enumerate(gaps, 1) if gap > tolerance), None)


class _Question:
    """Which value must a setting have for a step to end where it did?"""

    def __init__(
        self, optimizer: str, atoms: Atoms, place: Place, evidence: Evidence, usual: Mapping[str, Any], step: int
    ) -> None:
        self.optimizer, self.atoms, self.place, self.evidence = optimizer, atoms, place, evidence
        self.usual, self.step, self.found = usual, step, list[float]()

    def with_value(self, value: float) -> Atoms:
        return (*self.atoms, constant(self.place, value, self.usual))

    def gap(self, value: float) -> Array:
        """Return by how much the numbers of the step are too large, NaN if there are none."""
        trial = distances(self.optimizer, self.with_value(value), self.evidence)
        reached = list(islice(trial, self.step))
        return reached[-1][1] - self.evidence.scaled[len(reached) - 1]

    def answers(self, grid: Sequence[float], tolerance: float) -> list[float]:
        """Return the values that explain all steps."""
        with np.errstate(all="ignore"):
            table = np.array([self.gap(x) for x in grid])
            hits = [i for i, gaps in enumerate(table) if np.max(np.abs(gaps), initial=0.0) <= tolerance]
            spans = (i for i in range(len(grid) - 1) if i not in hits and i + 1 not in hits)
            between = [i for i in spans if _crosses(table[i], table[i + 1])]
            roots = [self._root(grid[i], grid[i + 1], table[i], table[i + 1]) for i in between[:3]]
            roots += [grid[i] for i in hits[:3]]
        self.found = [x for x in (self.rounded(root, tolerance) for root in roots) if x is not None]
        return self.found

    def _root(self, low: float, high: float, at_low: Array, at_high: Array) -> float:
        """Narrow down where the most telling number is what it should be."""
        i = int(np.nanargmax(np.abs(at_high - at_low)))
        f_low, f_high = at_low[i], at_high[i]
        for n in range(HALVINGS):
            guess = high - f_high * (high - low) / (f_high - f_low) if f_high != f_low else low
            middle = guess if n % 3 and low < guess < high else _between(low, high)
            f = self.gap(middle)[i]
            if f == 0 or not isfinite(f) or high - low <= 1e-15 * high:
                return middle
            low, f_low, high, f_high = (middle, f, high, f_high) if (f < 0) == (f_low < 0) else (low, f_low, middle, f)
        return high

    def rounded(self, value: float, tolerance: float) -> float | None:
        """Return the value with the fewest digits that explains all steps, or None."""
        for digits in DIGITS:
            for x in dict.fromkeys((float(f"{value:.{digits - 1}e}"), 1 - float(f"{1 - value:.{digits - 1}e}"))):
                if x >= 0 and abs(x - value) <= 1e-3 * abs(value) + 1e-15 and self.explains(x, tolerance):
                    return x
        return value if self.explains(value, tolerance) else None

    def explains(self, value: float, tolerance: float) -> bool:
        return distance(self.optimizer, self.with_value(value), self.evidence, tolerance) <= tolerance

    def factors(self, given: float, tolerance: float) -> list[float]:
        """Return the factors, rounded where that explains as much, that make the values found of the one given."""
        return [self._factor(x / given, given, tolerance) for x in self.found if x > 0]

    def _factor(self, factor: float, given: float, tolerance: float) -> float:
        for digits in DIGITS:
            rounded = float(f"{factor:.{digits - 1}e}")
            near = abs(rounded - factor) <= 1e-6 * factor
            if near and self.explains(rounded * given, tolerance):
                return rounded
        return factor


def _crosses(x: Array, y: Array) -> bool:
    """Tell whether zero lies between the most telling numbers of two trials."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    change = np.abs(x - y)
    telling = change > 1e-3 * np.max(change, initial=0.0)
    crossed = ((x <= 0) != (y <= 0))[telling]
    return bool(len(crossed) and np.count_nonzero(crossed) >= AGREEING * len(crossed))


def _between(low: float, high: float) -> float:
    """Halve an interval; of two sizes that are far apart take the middle of their logarithms."""
    return float(np.sqrt(low * high)) if low > 0 and high > 4 * low else 0.5 * (low + high)
