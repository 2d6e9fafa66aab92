"""Trials: an optimizer changed along some axes, or given other settings, put through what a black box met."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, NamedTuple

import numpy as np

import refoptim
from refoptim import dialects
from refoptim.dialects import Axis
from refoptim.numerics.arith import Array, as_reals
from refoptim.optimizers.base import Optimizer

from ..trajectory import Frame, State
from .evidence import Evidence

RAISED = (ArithmeticError, ValueError, RuntimeError, TypeError, IndexError)
"""What a dialect may raise on settings or numbers that the rule itself takes."""


class Place(NamedTuple):
    """A hyperparameter, or one of the numbers of which it is made."""

    name: str
    index: int | None = None

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"

    def of(self, hyper: Mapping[str, Any]) -> Any:
        """Return its value."""
        return hyper[self.name] if self.index is None else hyper[self.name][self.index]

    def put(self, hyper: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Return the hyperparameters with another value."""
        if self.index is None:
            return {**hyper, self.name: value}
        whole = hyper[self.name]
        return {**hyper, self.name: (*whole[: self.index], value, *whole[self.index + 1 :])}


@dataclass(frozen=True)
class Setting:
    """A setting that is read as another value than it has.

    Attributes:
        flag: the name of the mistake.
        place: the setting.
        value: the number that says how: the value itself, or a factor.
        change: what makes of all hyperparameters, or of those that change on the way, those that are used.
    """

    flag: str
    place: Place
    value: float | None
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    @property
    def touches(self) -> tuple[str, ...]:
        """What two settings must not share."""
        return (f"setting {self.place}",)

    @property
    def needs(self) -> tuple[str, ...]:
        """It changes something by itself."""
        return ()


Atom = Axis | Setting
"""One thing that may be different."""

Atoms = tuple[Atom, ...]


def fit(atoms: Atoms) -> bool:
    """Tell whether some things can be different at once."""
    return dialects.fit(atoms)  # type: ignore[arg-type]


@cache
def defaults(optimizer: str) -> dict[str, Any]:
    """Return the defaults of an optimizer."""
    arguments = inspect.signature(getattr(refoptim, optimizer)).parameters
    return {name: x.default for name, x in arguments.items() if x.default is not inspect.Parameter.empty}


def names_of(atoms: Atoms) -> tuple[str, ...]:
    """Return the flags of some atoms."""
    return tuple(atom.flag for atom in atoms)


def frames(optimizer: str, atoms: Atoms, evidence: Evidence) -> Iterator[Frame]:
    """Put the dialect that has some atoms through a case, with the gradients that the black box met."""
    rule = dialects.made_of(getattr(refoptim, optimizer), *(x for x in atoms if isinstance(x, Axis)))
    settings = [x for x in atoms if isinstance(x, Setting)]
    hyper = {**defaults(optimizer), **evidence.case.hyper} if settings else evidence.case.hyper
    driven = _Driven(rule, _read(hyper, settings), [p.copy() for p in evidence.before])
    for step, grads in enumerate(evidence.grads, 1):
        if step in evidence.case.set:
            driven.set(_read(evidence.case.set[step], settings))
        if step == evidence.case.resume:
            driven.resume()
        yield Frame(step, driven.parameters, driven.stepped(grads))


def _read(hyper: Mapping[str, Any], settings: list[Setting]) -> Mapping[str, Any]:
    for setting in settings:
        hyper = setting.change(hyper)
    return hyper


class _Driven:
    """A dialect on some arrays."""

    def __init__(self, rule: type[Optimizer], hyper: Mapping[str, Any], parameters: list[Array]) -> None:
        self.rule, self.hyper, self.parameters = rule, hyper, parameters
        self.optimizer = self._made()

    def _made(self) -> Any:
        made: Any = self.rule
        return made(self.parameters, **self.hyper)

    def set(self, hyper: Mapping[str, Any]) -> None:
        self.optimizer.param_groups[0].update(hyper)

    def resume(self) -> None:
        saved = self.optimizer.state_dict()
        self.optimizer = self._made()
        self.optimizer.load_state_dict(saved)

    def stepped(self, grads: list[Any]) -> list[State]:
        """Take a step and return the state after it."""
        self.optimizer.step(grads=grads)
        return [dict(self.optimizer.state.get(p, {})) for p in self.optimizer.param_groups[0]["params"]]


def distances(optimizer: str, atoms: Atoms, evidence: Evidence) -> Iterator[tuple[float, Array]]:
    """Yield after each step the distance from the black box, and the parameters, both relative to their scale.

    What the dialect raises is an infinite distance, and ends the trial.
    """
    try:
        for frame in frames(optimizer, atoms, evidence):
            here = evidence.relative(frame.parameters)
            yield apart(here, evidence.scaled[frame.step - 1]), here
    except RAISED:
        yield inf, np.full_like(evidence.scale, np.nan)


def apart(x: Array, y: Array) -> float:
    """Return the largest distance of numbers; infinite where one is no number or infinite and the other not so."""
    with np.errstate(all="ignore"):
        gap = np.abs(x - y)
    gap[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
    return float(np.max(gap, initial=0.0)) if not np.isnan(gap).any() else inf


def distance(optimizer: str, atoms: Atoms, evidence: Evidence, beyond: float = inf) -> float:
    """Return the largest distance in all steps, or the first that is beyond what is tolerated."""
    largest = 0.0
    for gap, _ in distances(optimizer, atoms, evidence):
        largest = max(largest, gap)
        if gap > beyond:
            break
    return largest


def state_apart(frame: Frame, evidence: Evidence) -> dict[str, float]:
    """Return for each array of the state that both have the distance, relative to the largest number of either."""
    theirs = evidence.state[frame.step - 1]
    found: dict[str, float] = {}
    for i, (x, y) in enumerate(zip(frame.state, theirs, strict=True)):
        for name in sorted(x.keys() & y.keys()):
            found[f"state.{i}.{name}"] = _relative(np.asarray(x[name]), np.asarray(y[name]))
    return found


def _relative(x: Array, y: Array) -> float:
    if x.shape != y.shape:
        return inf
    a, b = (z.astype(np.float64) if z.dtype.kind == "i" else as_reals(z).astype(np.float64) for z in (x, y))
    finite = np.concatenate([z[np.isfinite(z)].ravel() for z in (a, b)])
    largest = float(np.max(np.abs(finite), initial=0.0)) or 1.0
    return apart(np.atleast_1d(a / largest), np.atleast_1d(b / largest))
