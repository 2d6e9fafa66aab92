"""How far implementations are from real arithmetic.

Cases with given gradients, the same for all whatever their parameters become, are run by ``exact`` and by
implementations. The error of a parameter's element after a step is its distance from the exact one. It is told

- in ULP: units in the last place of the storage type at the exact value, which are small where a parameter passes zero;
- relative to the distance travelled: the largest error of an element in all steps, by the length of its exact way, all
  steps added up.

Exact numbers are kept as the sum of two doubles, so that an error has about 15 digits of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

import refoptim
from refoptim.numerics.arith import FLOATS, Array, epsilon
from refoptim.numerics.ieee import check_arithmetic

from . import adapters, cases, promises, trajectory
from .adapters import ENGINES, NotAvailable, Unsupported
from .cases import Case
from .exact import Exact
from .gradients import FORMATS, make_source, np_dtype
from .known import Dialect, axes_of, meaning
from .reference import Reference
from .trajectory import sums_over_all

STORAGES = tuple(reversed(FLOATS))

KINDS = {"normal", "zeros", "tiny", "nil"}
"""Kinds of gradients that are measured with; with numbers at the ends of the range there is nothing to measure."""

TORCH = "torch-for-loop"

MEASURED = ("numpy", "host", TORCH, "torch-foreach", "torch-fused", "optax", "keras")
"""What is measured unless told otherwise, where it is installed."""

ROUNDING = 1e-6
"""A tolerance above what rounding does in double, and below what another rule does."""

ERRORS = (NotImplementedError, RuntimeError, TypeError, ValueError, Unsupported)


class Job(NamedTuple):
    """A case in a storage type."""

    case: Case
    dtype: str


@dataclass(frozen=True)
class Row:
    """The errors of an implementation of an optimizer in a storage type, over ``cases`` and ``count`` numbers."""

    optimizer: str
    storage: str
    implementation: str
    largest_ulp: float
    mean_ulp: float
    relative: float
    count: int
    cases: tuple[str, ...]


class Missing(NamedTuple):
    """What could not be measured, and why."""

    case: str
    storage: str
    implementation: str
    reason: str


def jobs(pattern: str, dtypes: Sequence[str], steps: int) -> list[Job]:
    """Return what is to be measured: cases and optimizers that a glob describes, in some storage types or all."""
    found = []
    for stem in cases.stems():
        suitable = [replace(case, steps=steps, record=[steps]) for case in cases.load(stem) if is_suitable(case)]
        for dtype in (x for x in STORAGES if not dtypes or x in dtypes):
            listed = [case for case in suitable if dtype in case.dtypes] or suitable[:1]
            found += [Job(case, dtype) for case in listed if cases.matches(pattern, case.id, case.optimizer)]
    return found


OPEN = frozenset({"soap-vectors"})
"""Cases in which real arithmetic decides nothing: where eigenvalues are equal, their vectors are free."""


def is_suitable(case: Case) -> bool:
    """Tell whether gradients are given and of ordinary size, parameters have one in each step and are real.

    A rule that computes in float32 whatever the storage rounds as that does, and its codes round further. The exact run
    takes parameters one by one, and sums over all of them are not among what it follows.
    """
    if getattr(refoptim, case.optimizer).in_single or sums_over_all(case.optimizer, case.hyper):
        return False
    kinds = {*case.gradient.get("kinds", ["none"]), case.gradient.get("start", "normal")}
    return case.id not in OPEN and kinds <= KINDS and not case.skip and not set(case.dtypes).isdisjoint(FLOATS)


@dataclass(frozen=True)
class Way:
    """The exact trajectory of all elements in a storage type: after each step, and before the first, high plus low."""

    high: Array
    low: Array
    dtype: str

    @cached_property
    def ulp(self) -> Array:
        """The unit in the last place at each number: of a power of two that it stays below, that of the half below."""
        m, e = np.frexp(np.abs(self.high))
        below = (m == 0.5) & (self.high * self.low < 0)
        _, least, _ = FORMATS["subnormal"][self.dtype]
        e = np.maximum(np.where(m == 0, least, e - below), least + 1)
        return np.ldexp(epsilon(np_dtype(self.dtype)), e - 1)

    @cached_property
    def length(self) -> Array:
        """How far each element travels, all steps added up."""
        return np.abs(np.diff(self.high, axis=0) + np.diff(self.low, axis=0)).sum(axis=0)

    def errors(self, found: Array) -> Array:
        """Return how far numbers are from the exact ones; infinitely if they are not finite."""
        with np.errstate(invalid="ignore"):
            error = np.abs((found - self.high) - self.low)
        return np.where(np.isfinite(error), error, np.inf)


def flat(arrays: Iterable[Array], kind: type) -> Array:
    """Put the elements of some arrays into one."""
    return np.concatenate([np.asarray(x).reshape(-1).astype(kind) for x in arrays])


def exact_way(job: Job) -> Way:
    """Run a case in real arithmetic."""
    start = make_source(job.case.gradient, job.case.shapes, job.dtype).parameters()
    steps = [flat(frame.parameters, object) for frame in trajectory.run(Exact(), job.case, job.dtype)]
    numbers = np.array([flat(start, float).astype(object), *steps])
    high = numbers.astype(float)
    return Way(high, (numbers - high).astype(float), job.dtype)


def way(name: str, job: Job, start: Array) -> Array:
    """Run a case on an implementation."""
    made = adapters.find(name)()
    steps = [flat(frame.parameters, float) for frame in trajectory.run(made, job.case, job.dtype)]
    return np.array([start, *steps])


def another_rule(name: str, case: Case) -> str:
    """Say what a library's dialect does otherwise, if it parts from the rule in a case by more than rounding."""
    axes = axes_of(name, case.optimizer)
    if not axes:
        return ""
    theirs, rule = (
        [flat(x.parameters, float) for x in trajectory.run(made, case, "float64")]
        for made in (Dialect(axes), Reference())
    )
    same = np.allclose(theirs, rule, rtol=ROUNDING, atol=ROUNDING)
    return "" if same else f"another rule: {meaning([x.flag for x in axes])}"


def why_not(name: str, job: Job) -> str:
    """Say why a case is not measured on an implementation: it does not have it, or has another rule."""
    known = promises.deviation(promises.deviations(name), job.case, job.dtype)
    listed = f"another rule: {known.reason}" if known and known.flags else ""
    return listed or another_rule(name, job.case) or adapters.why_not(adapters.find(name)(), job.case, job.dtype) or ""


def measure(job: Job, names: Sequence[str]) -> Iterator[Row | Missing]:
    """Measure a case on implementations."""
    check_arithmetic()
    try:
        exact = exact_way(job)
    except ImportError as error:  # bfloat16 without ml_dtypes
        yield from (Missing(job.case.id, job.dtype, name, str(error)) for name in names)
        return
    for name in names:
        reason = why_not(name, job)
        try:
            found = None if reason else way(name, job, exact.high[0])
        except ERRORS as error:
            reason = str(error).partition("\n")[0]
        if reason:
            yield Missing(job.case.id, job.dtype, name, reason)
        else:
            yield _row(job, name, exact, found)


def _row(job: Job, name: str, exact: Way, found: Array) -> Row:
    """Sum up the errors of a case; what does not move at all has no error, or an infinite one."""
    errors = exact.errors(found)[1:]
    ulps, largest = errors / exact.ulp[1:], errors.max(axis=0)
    relative = np.where(largest > 0, np.inf, 0.0)
    np.divide(largest, exact.length, out=relative, where=exact.length > 0)
    numbers = float(ulps.max()), float(ulps.mean()), float(relative.max()), ulps.size
    return Row(job.case.optimizer, job.dtype, name, *numbers, (job.case.id,))


def summary(rows: Iterable[Row]) -> list[Row]:
    """Put the cases of an optimizer together: the largest of the largest errors, the mean of all numbers."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row.optimizer, row.storage, row.implementation
        found[key] = _both(found[key], row) if key in found else row
    return list(found.values())


def _both(a: Row, b: Row) -> Row:
    count = a.count + b.count
    return replace(
        a,
        largest_ulp=max(a.largest_ulp, b.largest_ulp),
        mean_ulp=(a.mean_ulp * a.count + b.mean_ulp * b.count) / count,
        relative=max(a.relative, b.relative),
        count=count,
        cases=a.cases + b.cases,
    )


def above(rows: Sequence[Row], factor: float = 1.0) -> list[tuple[Row, Row]]:
    """Return rows of refoptim whose mean error is above ``factor`` times that of torch in the same cases, with torch's.

    torch is its loop over tensors, which is what it takes on the CPU if it is not told otherwise.
    """
    theirs = {_key(x): x for x in rows if x.implementation == TORCH}
    pairs = [(x, theirs[_key(x)]) for x in rows if x.implementation in ENGINES and _key(x) in theirs]
    return [(ours, torch) for ours, torch in pairs if ours.mean_ulp > factor * torch.mean_ulp]


def _key(row: Row) -> Any:
    return row.optimizer, row.storage, row.cases


def available() -> list[str]:
    """Return the implementations that are here."""
    found = []
    for name in MEASURED:
        try:
            adapters.find(name)()
        except NotAvailable:
            continue
        found.append(name)
    return found
