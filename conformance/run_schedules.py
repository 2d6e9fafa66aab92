"""Runs schedules through implementations: what they give, how far that is from the reference, and why.

``ours`` compares refoptim's schedulers with those of torch, or of the library that owns the rule, as recorded. ``work``
puts an implementation's method ``schedule`` through the same cases, each group of an optimizer by itself, compares with
refoptim, and where the learning rates part says what the rule of the other is: see
``refoptim.conformance.diagnose.schedules``. All cases of a scheduler are explained together, for they have one
implementation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from refoptim.numerics.arith import Array
from refoptim.numerics.ieee import check_arithmetic

from . import adapters, lr_cases, lr_witnesses, record_lr
from .adapters import Unsupported
from .cases import matches
from .diagnose.schedule_forms import filled
from .diagnose.schedules import Curve, Diagnosis, diagnose
from .lr_cases import Case
from .run import ERROR, NOT_RUN, Result, Run, compare, told
from .spec import Spec, parse
from .verify import EXACT, Tolerance

Work = Callable[[], list[Result]]


class Job(NamedTuple):
    """One case of a scheduler on one implementation."""

    implementation: str
    make: adapters.Make
    stem: str
    case: Case
    dtype: str = "float64"

    def perform(self) -> list[Result]:
        """Run the case and compare it with refoptim."""
        return perform([self])


def ours(pattern: str | Sequence[str] = "") -> list[Work]:
    """List the goldens of schedulers, each to be called for its result."""
    found: list[Work] = []
    for path in record_lr.paths():
        entries = [x for x in record_lr.read(path)["cases"] if matches(pattern, x["case"], path.stem)]
        found += [partial(_recorded, path.stem, entry) for entry in entries]
    return found


def _recorded(scheduler: str, entry: Mapping[str, Any]) -> list[Result]:
    """Compare refoptim with a golden."""
    golden = record_lr.values(entry)
    trace = record_lr.our_trace(record_lr.case_of(entry))
    theirs, steps = {key: np.array(trace[key]).T for key in golden}, list(range(len(golden["lr"])))
    owner = lr_witnesses.OWNERS.get(scheduler, "torch-installed")
    blank = Result("numpy", scheduler, entry["case"], "float64", owner, NOT_RUN)
    return [compare(blank, Run("ours", steps, theirs), Run("theirs", steps, golden), EXACT, True)]


def jobs(name: str, pattern: str | Sequence[str] = "") -> list[Job]:
    """List the schedules that there are for an implementation: none if it has no method ``schedule`` of its own.

    Raises:
        NotAvailable: the implementation is not.
    """
    make = adapters.find(name)
    return jobs_of(name, make, pattern) if has_schedules(make) else []


def jobs_of(name: str, make: adapters.Make, pattern: str | Sequence[str] = "") -> list[Job]:
    """List all schedules whose names match, for what makes an implementation."""
    every = [(stem, case) for stem in lr_cases.DRAWS for case in lr_cases.cases(stem, record_lr.CASES)]
    return [Job(name, make, stem, case) for stem, case in every if matches(pattern, case.id, stem)]


def has_schedules(made: Any) -> bool:
    """Tell whether an implementation, or its class, has a method ``schedule`` that is not the base's."""
    method = getattr(getattr(made, "func", made), "schedule", None)
    return callable(method) and getattr(method, "__func__", method) is not adapters.Adapter.schedule


def work(name: str, pattern: str | Sequence[str] = "") -> list[Work]:
    """List what there is to run on an implementation, one piece for each scheduler, to be called for the results."""
    if name == "numpy":
        return ours(pattern)
    return [partial(perform, list(group)) for _, group in groupby(jobs(name, pattern), lambda job: job.stem)]


def perform(jobs: Sequence[Job]) -> list[Result]:
    """Run cases of one scheduler, compare them with refoptim, and say of those that part why they do."""
    return performed(jobs)[0]


def performed(jobs: Sequence[Job]) -> tuple[list[Result], Diagnosis | None]:
    """Run cases of one scheduler as ``perform`` does; return the diagnosis too, None if nothing could be compared."""
    with redirect_stdout(sys.stderr):
        pairs = [_one(job) for job in jobs]
    curves = [curve for _, found in pairs for curve in found]
    if not curves:
        return [result for result, _ in pairs], None
    said = diagnose(curves)
    return [_explained(result, said) for result, _ in pairs], said


def _explained(result: Result, said: Diagnosis) -> Result:
    """Say of a run that parts from the reference why it does."""
    return result if result.exact or not result.compared else replace(result, reason=said.line)


def _one(job: Job) -> tuple[Result, list[Curve]]:
    """Run a case; return the result, and what there is to be explained."""
    blank = Result(job.implementation, job.stem, job.case.id, job.dtype, "reference", NOT_RUN)
    try:
        implementation: Any = job.make()
        if not has_schedules(implementation):
            return replace(blank, reason="it has no method schedule"), []
        found = [asked(implementation, job.case, i) for i in range(len(job.case.lrs))]
        promise = promise_of(job.implementation, implementation)
        check_arithmetic()
    except KeyboardInterrupt:
        raise
    except (Unsupported, NotImplementedError) as error:
        return replace(blank, reason=str(error) or "not written"), []
    except BaseException as error:  # what an implementation raises must not end the run
        return replace(blank, outcome=ERROR, reason=told(error)), []
    theirs = {key: np.stack([rows[key] for rows in found]).T for key in found[0]}
    return compared(blank, job.case, theirs, promise), curves_of(job.case, theirs)


def promise_of(name: str, implementation: Any) -> Tolerance | None:
    """Return what must hold: of other libraries, whose schedules are others on purpose, nothing is promised."""
    promise = None if name in adapters.BUILT_IN else getattr(implementation, "promise", EXACT)
    return promise.get("float64", promise.get("*", EXACT)) if isinstance(promise, Mapping) else promise


def asked(implementation: Any, case: Case, i: int) -> dict[str, Array]:
    """Ask an implementation for the schedule of one group of a case, as arrays.

    Raises:
        ValueError: it does not return a number for each epoch.
    """
    spec = filled(lr_cases.of_group(parse(case.scheduler), i))
    settings = settings_of(spec) | ({} if case.metrics is None else {"metrics": lr_cases.told(case)})
    answer = implementation.schedule(spec.name, settings, case.lrs[i], case.epochs)
    named = answer if isinstance(answer, Mapping) else {"lr": answer}
    if "lr" not in named:
        raise ValueError(f"schedule() must return learning rates, got a dict with {', '.join(map(repr, named))}")
    wanted = [key for key in record_lr.kept(spec.name) if key in named]
    return {key: _row(key, named[key], case.epochs + 1) for key in wanted}


def settings_of(spec: Spec) -> dict[str, Any]:
    """Return the settings of a scheduler; of one that is made of others, these as pairs of name and settings."""
    members = [(member.name, settings_of(member)) for member in spec.members]
    return {**spec.settings, **({"schedulers": members} if members else {})}


def _row(key: str, x: Any, n: int) -> Array:
    row = np.array([float(each) for each in x])
    if row.shape != (n,):
        raise ValueError(f"schedule() must return {n} numbers as {key}, from epoch 0 on, got {len(row)}")
    return row


def compared(blank: Result, case: Case, theirs: Mapping[str, Array], promise: Tolerance | None) -> Result:
    """Compare arrays, with a row for each epoch, with those of refoptim."""
    trace = record_lr.our_trace(case)
    golden = {key: np.array(trace[key]).T for key in theirs}
    steps = list(range(case.epochs + 1))
    return compare(blank, Run("theirs", steps, dict(theirs)), Run("ours", steps, golden), promise, True)


def curves_of(case: Case, theirs: Mapping[str, Array]) -> list[Curve]:
    """Return the curves of a case, one for each group, to be explained; none if they are not finite."""
    if not all(np.isfinite(x).all() for x in theirs.values()):
        return []
    spec, metrics = parse(case.scheduler), lr_cases.told(case)
    momenta = theirs["momentum"].T if "momentum" in theirs else [None] * len(case.lrs)
    groups = zip(case.lrs, theirs["lr"].T, momenta, strict=True)
    return [Curve(lr_cases.of_group(spec, i), lr, x, m, metrics) for i, (lr, x, m) in enumerate(groups)]
