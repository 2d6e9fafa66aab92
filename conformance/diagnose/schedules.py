"""A name for the mistake in a schedule: ``diagnose_curve`` and what it answers.

A curve, the learning rates from epoch 0 on, is compared with that of the reference scheduler. If they part by more than
rounding, every axis of ``schedule_axes`` is tried, alone and then two at a time, and those that explain the curve are
named::

    >>> from refoptim.conformance.diagnose.schedules import diagnose_curve
    >>> print(diagnose_curve("ExponentialLR(gamma=0.5)", 1.0, [0.5, 0.25, 0.125, 0.0625]).verdict)
    another rule

What explains no curve is not named: the verdict is then ``unknown``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..spec import Spec, parse
from ..strict import GoldenError, read_bytes, require
from .schedule_axes import AXES, Axis
from .schedule_forms import changed, filled, rates, tabulated
from .schedule_models import ROUNDING, Model, Seen, gaps, misfit, seen

SAME_BITS, SAME_RULE, ANOTHER_RULE, UNKNOWN = VERDICTS = ("same bits", "same rule", "another rule", "unknown")
"""What can be said of a curve; ``same rule`` is rounded otherwise."""

MOST_TIED = 8
"""How many explanations that are as good are listed."""

MOST_PAIRS = 40
"""How many pairs that explain one curve are tried on the others."""

MOST_MODELS = 4
"""Of how many models of one axis, the nearest to the rule, pairs are made."""

MOST_BYTES = 1 << 24


class Curve(NamedTuple):
    """A curve to be explained: the description of its scheduler, the optimizer's learning rate, and what was seen.

    ``metrics`` are the numbers that ReduceLROnPlateau was told at the end of epoch 0, 1, 2 ….
    """

    scheduler: Spec
    lr: float
    rates: Sequence[float]
    momentum: Sequence[float] | None = None
    metrics: Sequence[float] | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What is said of a schedule.

    Attributes:
        scheduler: its name.
        verdict: one of ``VERDICTS``.
        names: the flags that explain what was seen, one or two.
        notes: of each name what is particular, such as ``1 step ahead``.
        tied: other flags that explain it as well.
        error: the largest difference that is left, relative.
        distance: the largest difference from the reference itself, relative.
        first: the first epoch in which a curve is not that of the reference; None if there is none.
        runner_up: the flags that come nearest without explaining it, and ``runner_up_error`` how near.
        excluded: all flags that were tried and do not explain it.
        curves: how many curves were compared.
    """

    scheduler: str
    verdict: str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    error: float = 0.0
    distance: float = 0.0
    first: int | None = None
    runner_up: tuple[str, ...] = ()
    runner_up_error: float | None = None
    excluded: tuple[str, ...] = ()
    curves: int = 1

    @property
    def ok(self) -> bool:
        """Whether the rule is the same."""
        return self.verdict in (SAME_BITS, SAME_RULE)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        found = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}
        return {**found, "summary": self.summary}

    @property
    def summary(self) -> str:
        """The verdict and the names in one line."""
        if self.verdict == SAME_BITS:
            return "same bits"
        if self.verdict == SAME_RULE:
            rounding = "rounded to float32 on the way" if self.distance > ROUNDING["float64"] else "other rounding"
            return f"same rule, {rounding}: {self.distance:.1g} at most, from epoch {self.first}"
        if self.verdict == ANOTHER_RULE:
            return f"another rule: {' + '.join(self._named())}{self._ties()}"
        near = f"; nearest is {' + '.join(self.runner_up)}, {self.runner_up_error:.2g} away" if self.runner_up else ""
        return f"nothing known explains it: first parts at epoch {self.first}{near}"

    @property
    def line(self) -> str:
        """The summary, and of each name what it means and what to look at, in one line."""
        named = [axis for name in self.names for axis in AXES if axis.flag == name]
        return ". ".join([self.summary, *(f"{axis.flag}: {axis.says}; look at {axis.look}" for axis in named)])

    def _named(self) -> Iterator[str]:
        for name, note in zip(self.names, self.notes, strict=True):
            yield f"{name} ({note})" if note else name

    def _ties(self) -> str:
        return f", or as well {', or '.join(' + '.join(x) for x in self.tied)}" if self.tied else ""

    def __str__(self) -> str:
        lines = [f"{self.scheduler}: {self.summary}"]
        for axis in (axis for name in self.names for axis in AXES if axis.flag == name):
            lines.append(f"  {axis.flag}: {axis.says}" + (f" (so in {axis.who})" if axis.who else ""))
            lines.append(f"    look at {axis.look}")
        if self.names:
            lines.append(f"  with that, {self.curves} of {self.curves} curves agree to {self.error:.1g}")
        if self.names and self.runner_up:
            lines.append(f"  next: {' + '.join(self.runner_up)}, which is {self.runner_up_error:.2g} away")
        return "\n".join(lines)


class _Problem(NamedTuple):
    """A curve, and the reference as a model of it, which is ``off`` at worst and ``typical`` in the middle."""

    model: Model
    curve: Seen
    off: float
    typical: float
    same: bool
    first: int | None

    @property
    def holds(self) -> bool:
        """Whether the reference explains the curve."""
        return self.off <= self.curve.rounding

    @property
    def holds_in_single(self) -> bool:
        """Whether it does if some numbers on the way are float32, though the curve is not."""
        return self.off <= ROUNDING["float32"] and self.typical <= np.finfo(np.float32).eps


Notes = tuple[str, ...]


class _Near(NamedTuple):
    """The nearest model there is, and how near it is."""

    error: float
    notes: Notes
    spec: Spec


class _Found(NamedTuple):
    """An explanation: axes, the notes on them, and how far what they give is from the curves, at worst."""

    error: float
    axes: tuple[Axis, ...]
    notes: tuple[str, ...]
    holds: bool
    spec: Spec

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(axis.flag for axis in self.axes)


def diagnose_curve(
    scheduler: str,
    lr: float,
    curve: Sequence[float],
    momentum: Sequence[float] | None = None,
    metrics: Sequence[float] | None = None,
) -> Diagnosis:
    """Say what a curve of learning rates is, beside what a scheduler makes of the learning rate ``lr``.

    Args:
        scheduler: a description, ``StepLR(step_size=30)``; arguments that are not given are torch's defaults.
        lr: the learning rate of the optimizer.
        curve: the learning rates at epoch 0, 1, 2 ….
        momentum: the momenta, for CyclicLR and OneCycleLR.
        metrics: for ReduceLROnPlateau, the metric at the end of epoch 0, 1, 2 ….

    Raises:
        ValueError, TypeError: the description is none, has a setting that does not exist or is outside its range, or
            the curve is no row of finite numbers.
    """
    return diagnose([Curve(parse(scheduler), lr, curve, momentum, metrics)])


def diagnose(curves: Sequence[Curve]) -> Diagnosis:
    """Say what curves of one implementation of a scheduler have in common: an explanation must explain them all."""
    problems = [_problem(curve) for curve in curves]
    blank = _blank(curves[0].scheduler.name, problems)
    if blank.verdict in (SAME_BITS, SAME_RULE):
        return blank
    tried = [found for axis in AXES if (found := _explained(problems, (axis,))) is not None]
    good = [found for found in tried if found.holds]
    if not good and all(x.holds_in_single for x in problems):
        return replace(blank, verdict=SAME_RULE)
    tried += [] if good else _pairs(problems)
    good = good or [found for found in tried if found.holds]
    near = min((found for found in tried if not found.holds), key=lambda found: found.error, default=None)
    return _answer(blank, good, near)


def _problem(curve: Curve) -> _Problem:
    shown, spec = seen(curve.rates, curve.momentum), filled(curve.scheduler)
    spec = spec if curve.metrics is None else changed(spec, metrics=list(curve.metrics))
    reference = tabulated(spec, curve.lr, len(shown.lr))
    form = rates(spec, curve.lr, shown.epochs) if curve.lr else reference._replace(lr=np.full(len(shown.lr), np.nan))
    fits = float(gaps(form.lr, reference.lr).max()) <= shown.rounding / 10
    momentum = None if reference.momentum is None else shown.momentum
    shown = shown._replace(momentum=momentum)
    model = Model(spec if fits else changed(spec, _table=True), float(curve.lr))
    off = misfit(Model(changed(spec, _table=True), float(curve.lr)), shown)
    apart = gaps(reference.lr, shown.lr)
    differs, beyond = shown.lr != reference.lr, apart > shown.rounding
    if momentum is not None and reference.momentum is not None:
        differs = differs | (momentum != reference.momentum)
        beyond = beyond | (gaps(reference.momentum, momentum) > shown.rounding)
    parts = np.flatnonzero(beyond if beyond.any() else differs)
    first = int(parts[0]) if len(parts) else None
    return _Problem(model, shown, off, float(np.median(apart)), not differs.any(), first)


def _blank(name: str, problems: Sequence[_Problem]) -> Diagnosis:
    """Compare with the reference."""
    same, holds = all(x.same for x in problems), all(x.holds for x in problems)
    verdict = SAME_BITS if same else SAME_RULE if holds else UNKNOWN
    worst = [x.first for x in problems if x.first is not None and (holds or not x.holds)]
    distance = max(x.off for x in problems)
    return Diagnosis(name, verdict, first=min(worst, default=None), distance=distance, curves=len(problems))


def _models(model: Model, curve: Seen, axes: Sequence[Axis]) -> Iterator[tuple[Model, Notes]]:
    """Yield the models that make all of some mistakes, in this order, each with what is particular about it."""
    if not axes:
        yield model, ()
        return
    for made in axes[0].models(model._replace(note=""), curve):
        for further, notes in _models(made, curve, axes[1:]):
            yield further, (made.note, *notes)


def _explained(problems: Sequence[_Problem], axes: tuple[Axis, ...]) -> _Found | None:
    """Return how well some axes explain all curves; None if they say nothing of those that need to be explained.

    Once a curve is not explained the others are not looked at.
    """
    worst, first, holds = 0.0, None, True
    for problem in sorted(problems, key=lambda x: x.holds):
        if not problem.holds and any(axis.solved for axis in axes) and problem.curve.levels < len(axes) + 1:
            return None
        found = _nearest(problem, axes)
        if found is None:
            worst, holds = max(worst, problem.off), holds and problem.holds
        else:
            worst, holds = max(worst, found.error), holds and found.error <= problem.curve.rounding
            first = found if first is None and not problem.holds else first
        if not holds:
            break
    return None if first is None else _Found(worst, axes, first.notes, holds, first.spec)


def _nearest(problem: _Problem, axes: tuple[Axis, ...]) -> _Near | None:
    """Return how near the nearest model comes, and its notes; None if there is no model."""
    best: _Near | None = None
    for model, notes in _models(problem.model, problem.curve, axes):
        error = misfit(model, problem.curve)
        if best is None or error < best.error:
            best = _Near(error, notes, model.spec)
            if error <= problem.curve.rounding / 100:
                break
    return best


def _pairs(problems: Sequence[_Problem]) -> list[_Found]:
    """Return what two axes explain, and the two that come nearest."""
    hard = max((x for x in problems if not x.holds), key=lambda x: (x.curve.levels, x.off))
    solvable = hard.curve.levels >= 4 and "_table" not in hard.model.spec.settings
    errors: dict[tuple[int, int], _Near] = {}
    for i, model in _steps_away(hard):
        for j, axis in enumerate(AXES):
            if j == i or (j < i and not axis.solved) or (axis.solved and not solvable):
                continue
            for further, notes in _models(model, hard.curve, (axis,)):
                error = misfit(further, hard.curve)
                if (i, j) not in errors or error < errors[i, j].error:
                    errors[i, j] = _Near(error, (model.note, *notes), further.spec)
    ranked = sorted(errors, key=lambda pair: errors[pair].error)
    close = [pair for pair in ranked if errors[pair].error <= hard.curve.rounding]
    checked = [_explained(problems, (AXES[i], AXES[j])) for i, j in close[:MOST_PAIRS]]
    others = [_found(errors[i, j], (AXES[i], AXES[j])) for i, j in ranked[len(close) :][:1]]
    return [found for found in checked if found is not None] + others


def _found(near: _Near, axes: tuple[Axis, ...]) -> _Found:
    return _Found(near.error, axes, near.notes, False, near.spec)


def _steps_away(problem: _Problem) -> Iterator[tuple[int, Model]]:
    """Yield the models that are one mistake away from the reference, with the place of its axis, each curve once."""
    known = {_print(problem.model, problem.curve)}
    for i, axis in enumerate(AXES):
        made = () if axis.solved else axis.models(problem.model, problem.curve)
        for model in islice(made, MOST_MODELS):
            curve = _print(model, problem.curve)
            if curve not in known:
                known.add(curve)
                yield i, model


def _print(model: Model, curve: Seen) -> bytes:
    """Return what two models share that give the same numbers, but for their last digits."""
    found = model.at(curve.epochs)
    row = found.lr if found.momentum is None else np.concatenate([found.lr, found.momentum])
    return np.round(row / (np.abs(curve.lr).max() or 1.0), 12).tobytes()


def _answer(blank: Diagnosis, good: Sequence[_Found], near: _Found | None) -> Diagnosis:
    """Name what explains the curves, the likeliest first: with nothing solved for, and earlier in the table."""
    explained = {axis for found in good for axis in found.axes}
    excluded = tuple(axis.flag for axis in AXES if axis not in explained)
    answer = replace(blank, excluded=excluded)
    if near is not None and near.error < blank.distance:
        answer = replace(answer, runner_up=near.flags, runner_up_error=near.error)
    if not good:
        return answer
    first, *others = sorted(good, key=lambda found: sum(axis.solved for axis in found.axes))
    sets = {frozenset(found.flags): found.flags for found in others if not _is_same(found, first)}
    tied = tuple(islice(sets.values(), MOST_TIED))
    named = replace(answer, names=first.flags, notes=first.notes, tied=tied)
    return replace(named, verdict=ANOTHER_RULE, error=first.error)


def _is_same(x: _Found, y: _Found) -> bool:
    """Tell whether two explanations are one: the same mistakes, or the same settings under two names."""
    return set(x.flags) == set(y.flags) or _alike(x.spec, y.spec)


def _alike(x: Spec, y: Spec) -> bool:
    same = x.name == y.name and x.settings.keys() == y.settings.keys() and len(x.members) == len(y.members)
    return (
        same
        and all(_equal(x.settings[key], y.settings[key]) for key in x.settings)
        and all(_alike(a, b) for a, b in zip(x.members, y.members, strict=True))
    )


def _equal(x: Any, y: Any) -> bool:
    is_real = isinstance(x, float) and isinstance(y, (int, float))
    return math.isclose(x, y, rel_tol=1e-7, abs_tol=1e-15) if is_real else bool(x == y)


def read_curve(path: Path) -> dict[str, list[float]]:
    """Read a curve from a file: ``lr``, and ``momentum`` and ``metric`` if they are there.

    A ``.json`` file holds a list of learning rates, or an object of lists. Any other file is CSV: a line of names, then
    a row for each epoch; without the names the last column holds the learning rates.

    Raises:
        GoldenError: the file cannot be read so.
    """
    data = read_bytes(path, MOST_BYTES)
    try:
        text = data.decode("utf-8-sig")
        found = json.loads(text) if path.suffix.lower() == ".json" else _columns(text)
        found = found if isinstance(found, Mapping) else {"lr": found}
        rows = {key: [float(x) for x in found[key]] for key in ("lr", "momentum", "metric") if key in found}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GoldenError(f"{path.name} holds no curve: {error}") from None
    require("lr" in rows and len(rows["lr"]) > 1, f"{path.name} holds no curve: it has no lr, or fewer than two")
    return rows


def _columns(text: str) -> dict[str, list[str]]:
    """Return the columns of a table by name."""
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if rows and not _is_number(rows[0][-1]):
        if any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("its rows are not of one length")
        return {name.strip(): [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    return {"lr": [row[-1] for row in rows]}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
