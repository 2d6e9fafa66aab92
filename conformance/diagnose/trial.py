"""Trials: an optimizer changed along some axes, or given other settings, put through what a black box met."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

import refoptim
from refoptim import dialects
from refoptim.dialects import Axis
from refoptim.engines import pure
from refoptim.numerics.arith import Array, as_reals
from refoptim.optimizers.base import Optimizer
from refoptim.step.plan import Kept, begun, first_registers, layout
from refoptim.step.rule import (
    Rule,
    computed,
    keeps_shapes,
    next_registers,
    record,
    resolve,
    rule_of,
    step_scalars,
)
from refoptim.step.sparse import SparseGrad

from ..cases import arguments_of
from ..trajectory import Frame, State, estimates
from .evidence import Evidence

RAISED = (ArithmeticError, ValueError, RuntimeError, TypeError, IndexError)
"""What a dialect may raise on settings or numbers that the rule itself takes."""


class Place(NamedTuple):
    """A hyperparameter, or one of the numbers of which it is made."""

    name: str
    item: int | None = None

    def __str__(self) -> str:
        return self.name if self.item is None else f"{self.name}[{self.item}]"

    def of(self, hyper: Mapping[str, Any]) -> Any:
        """Return its value."""
        return hyper[self.name] if self.item is None else hyper[self.name][self.item]

    def put(self, hyper: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Return the hyperparameters with another value."""
        if self.item is None:
            return {**hyper, self.name: value}
        whole = hyper[self.name]
        return {**hyper, self.name: (*whole[: self.item], value, *whole[self.item + 1 :])}


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
    arguments = arguments_of(getattr(refoptim, optimizer))
    return {name: x.default for name, x in arguments.items() if x.default is not inspect.Parameter.empty}


def names_of(atoms: Atoms) -> tuple[str, ...]:
    """Return the flags of some atoms."""
    return tuple(atom.flag for atom in atoms)


def frames(optimizer: str, atoms: Atoms, evidence: Evidence) -> Iterator[Frame]:
    """Put the dialect that has some atoms through a case, with the gradients that the black box met."""
    for step, driven in _steps(optimizer, atoms, evidence):
        yield Frame(step, driven.parameters, driven.state())


def _steps(optimizer: str, atoms: Atoms, evidence: Evidence) -> Iterator[tuple[int, _Driven | _Light]]:
    rule = dialects.made_of(getattr(refoptim, optimizer), *(x for x in atoms if isinstance(x, Axis)))
    settings = [x for x in atoms if isinstance(x, Setting)]
    hyper = _read({**defaults(optimizer), **evidence.case.hyper}, settings)
    driven = (_Driven if _runs_otherwise(rule, hyper) else _Light)(rule, hyper, evidence)
    for step, grads in enumerate(evidence.grads, 1):
        if step in evidence.case.set:
            driven.set(_read(evidence.case.set[step], settings))
        if step == evidence.case.resume:
            driven.resume()
        with np.errstate(all="ignore"):
            driven.step(grads, *estimates(evidence.case, evidence.dtype, step))
        yield step, driven


def _read(hyper: Mapping[str, Any], settings: list[Setting]) -> Mapping[str, Any]:
    for setting in settings:
        hyper = setting.change(hyper)
    return hyper


def _runs_otherwise(rule: Any, hyper: Mapping[str, Any]) -> bool:
    """Tell whether a run goes otherwise than parameter by parameter: a dialect changes it, or all are summed over."""
    changed = any(getattr(rule, name) is not getattr(Optimizer, name) for name in ("step", "load_state_dict"))
    return changed or bool(rule.takes_part(resolve(rule, {**_group(rule), **hyper})))


class _Driven:
    """A dialect as an optimizer of some arrays."""

    def __init__(self, rule: type[Optimizer], hyper: Mapping[str, Any], evidence: Evidence) -> None:
        self.rule, self.hyper, self.parameters = rule, hyper, [p.copy() for p in evidence.before]
        self.optimizer = self._made()

    def _made(self) -> Any:
        made: Any = self.rule
        return made(self.parameters, **self.hyper)

    @property
    def vectors(self) -> list[Array]:
        """The parameters, perhaps some of them as one."""
        return self.parameters

    def set(self, hyper: Mapping[str, Any]) -> None:
        self.optimizer.param_groups[0].update(hyper)

    def resume(self) -> None:
        saved = self.optimizer.state_dict()
        self.optimizer = self._made()
        self.optimizer.load_state_dict(saved)

    def step(self, grads: list[Any], estimates: Sequence[Any] | None = None) -> None:
        self.optimizer.step(grads=grads, estimates=estimates)

    def state(self) -> list[State]:
        return [dict(self.optimizer.state.get(p, {})) for p in self.optimizer.param_groups[0]["params"]]


class _Light:
    """The rule of a dialect, without all that an optimizer checks: the same numbers in a fraction of the time.

    A rule that goes element by element takes all parameters as one, where they take the same steps.
    """

    def __init__(self, rule: type[Optimizer], hyper: Mapping[str, Any], evidence: Evidence) -> None:
        self.rule, self.base = rule, getattr(refoptim, evidence.case.optimizer)
        self.settings = {**_group(self.base), **hyper}
        self.h = resolve(self.base, self.settings)
        self.shapes = [p.shape for p in evidence.before]
        sparse = "nnz" in evidence.case.gradient
        self.whole = not (keeps_shapes(rule_of(rule, self.h)) or evidence.case.skip or evidence.case.estimate or sparse)
        parts = [_joined(evidence.before)] if self.whole else [p.copy() for p in evidence.before]
        self.parts = [_Part(p) for p in parts]

    def set(self, hyper: Mapping[str, Any]) -> None:
        self.settings |= hyper
        self.h = resolve(self.base, self.settings)

    def resume(self) -> None:
        """Saving and loading changes nothing here."""

    def step(self, grads: list[Any], estimates: Sequence[Any] | None = None) -> None:
        given = [_joined(grads)] if self.whole else grads
        beside = estimates or [None] * len(given)
        for part, g, estimate in zip(self.parts, given, beside, strict=True):
            if g is not None:
                part.step(rule_of(self.rule, self.h), self.h, g, estimate)

    @property
    def vectors(self) -> list[Array]:
        """The parameters, perhaps some of them as one."""
        return [part.p for part in self.parts]

    @property
    def parameters(self) -> list[Array]:
        return self._split(self.parts[0].p) if self.whole else [part.p for part in self.parts]

    def state(self) -> list[State]:
        if not self.whole:
            return [part.state(self.rule) for part in self.parts]
        found: list[State] = [{} for _ in self.shapes]
        for name, x in self.parts[0].state(self.rule).items():
            pieces = self._split(x) if isinstance(x, np.ndarray) and x.shape else [x] * len(found)
            for state, piece in zip(found, pieces, strict=True):
                state[name] = piece
        return found

    def _split(self, x: Array) -> list[Array]:
        ends = [*accumulate(map(prod, self.shapes), initial=0)]
        return [x[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(self.shapes)]


@cache
def _group(optimizer: Any) -> Mapping[str, Any]:
    """Return what a group of an optimizer holds, hyperparameters that are no arguments too."""
    return dict(optimizer([{"params": []}]).defaults)


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(x).ravel() for x in arrays])


class _Part:
    """A parameter, or several as one, with its state."""

    def __init__(self, p: Array) -> None:
        self.p, self.k, self.registers, self.arrays = p, 0, dict[str, Any](), dict[str, Array]()

    def step(self, rule: type[Rule], h: Any, g: Any, estimate: Any) -> None:
        """Take a step with the dialect's scalars and words."""
        g = rule.accept(h, g)
        self.k = self.k + 1 if rule.counts_steps else min(2, self.k + 1)
        registers = first_registers(rule, rule.registers(h), self.registers)
        given = {"sparse": isinstance(g, SparseGrad), "estimated": estimate is not None}
        s = record({**step_scalars(rule, h, self.k, registers), **given}, computed(rule, self.p.dtype))
        kept = {name: self._kept(name, x) for name, x in layout(rule, h, self.p.shape).items()}
        self.registers = next_registers(rule, h, self.k, registers)
        self.p, self.arrays = pure.run(rule, s, self.p, g, kept, estimate=estimate)

    def _kept(self, name: str, like: Kept) -> Array | None:
        made = None if like.first is None else begun(name, like, self.p)
        return self.arrays.get(name, made)

    def state(self, rule: type[Optimizer]) -> State:
        """Return what an optimizer keeps of it."""
        if not self.k:
            return {}
        return {**({"step": self.k} if rule.counts_steps else {}), **self.registers, **self.arrays}


def distances(optimizer: str, atoms: Atoms, evidence: Evidence) -> Iterator[tuple[float, Array]]:
    """Yield after each step the distance from the black box, and the parameters, both relative to their scale.

    What the dialect raises is an infinite distance, and ends the trial.
    """
    try:
        for step, driven in _steps(optimizer, atoms, evidence):
            here = evidence.relative(driven.vectors)
            yield apart(here, evidence.scaled[step - 1]), here
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
    a, b = (z.astype(np.float64) if z.dtype.kind in "iu" else as_reals(z).astype(np.float64) for z in (x, y))
    finite = np.concatenate([z[np.isfinite(z)].ravel() for z in (a, b)])
    largest = float(np.max(np.abs(finite), initial=0.0)) or 1.0
    return apart(np.atleast_1d(a / largest), np.atleast_1d(b / largest))
