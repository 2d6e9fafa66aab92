"""Runs cases through implementations and says how far each is from the goldens, and where it first parts.

A run is compared by its SHA-256 first. Where that differs, all steps are compared with those of refoptim if refoptim's
own digest is the golden's, and else the steps that the golden holds. Kernels round 16-bit numbers once, when they are
stored, and the goldens after each operation: there the reference, rounding as kernels do, takes the place
of the goldens.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import refoptim
from refoptim.dialects import Axis, fit
from refoptim.numerics.arith import COMPLEX, FLOATS, Array, as_reals, storage
from refoptim.numerics.ieee import check_arithmetic

from . import adapters, cases, goldens, promises, verify
from .cases import Case, matches
from .cases import witness as package_of
from .gradients import FORMATS, np_dtype
from .known import Dialect, axes_of, meaning
from .promises import ANY, STORED, Deviation
from .reference import Reference
from .trajectory import Digest, Frame, Implementation, State, decode, run
from .verify import EXACT, Difference, Tolerance, Verdict, described, plain
from .words import layout_of

HOLDS, MEASURED, DEVIATES, FAILS, PASSES, NOT_RUN, ERROR = OUTCOMES = (
    "holds",
    "measured",
    "deviates as known",
    "FAILS",
    "passes unexpectedly",
    "not run",
    "ERROR",
)
"""What can come of a comparison: the promise holds; nothing is promised; a listed deviation; the promise is broken; a
listed deviation that is gone; the implementation does not have it; it raised an error."""


@dataclass(frozen=True)
class Result:
    """What came of a case in one storage type on one implementation, compared with one golden.

    ``ulps`` holds the largest distance after each of ``steps`` in ULP, and ``drift`` relative to the largest number
    that its array has held so far. ``first`` is the first difference, ``outside`` the first outside of what is
    promised, and ``largest`` the farthest. ``flags`` name a known deviation, ``reason`` says why a run deviates, was
    not done, or failed, and ``traceback`` where it raised.
    """

    implementation: str
    optimizer: str
    case: str
    dtype: str
    golden: str
    outcome: str
    promise: str = ""
    exact: bool = False
    max_ulp: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    first: Difference | None = None
    steps: tuple[int, ...] = ()
    ulps: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str = ""
    outside: Difference | None = None
    largest: Difference | None = None
    drift: tuple[float, ...] = ()
    traceback: str = ""

    @property
    def ok(self) -> bool:
        """Whether no promise is broken."""
        return self.outcome not in (FAILS, ERROR)

    @property
    def ran(self) -> bool:
        """Whether there is something to compare."""
        return self.outcome not in (NOT_RUN, ERROR)

    @property
    def compared(self) -> bool:
        """Whether there are distances."""
        return self.exact or bool(self.steps)

    @property
    def shown(self) -> Difference | None:
        """The difference to be shown: the first outside of what is promised, or, where all is inside, the first."""
        return self.outside or self.first

    @property
    def distance(self) -> str:
        """EXACT, or the largest distance in a word or two."""
        if not self.ran or not (self.exact or self.ulps):
            return "cannot be compared" if self.ran else self.outcome
        return "EXACT" if self.exact else in_ulps(self.max_ulp)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        found = {**asdict(self), "ok": self.ok, "distance": self.distance, "drift": [plain(x) for x in self.drift]}
        differences = {key: described(getattr(self, key)) for key in ("first", "outside", "largest")}
        return {**found, **differences, "absolute": plain(self.absolute), "relative": plain(self.relative)}


def in_ulps(n: int) -> str:
    """Write a distance: what is far apart needs no digits."""
    if n == verify.NAN_APART:
        return "NaN"
    return f"{n} ULP" if n < 10**6 else f"{n:.0e} ULP".replace("e+", "e")


class Run(NamedTuple):
    """All that an implementation gave in a case: the digest, and arrays by name with a row for each step."""

    sha256: str
    steps: list[int]
    tensors: dict[str, Array]


def execute(implementation: Implementation, case: Case, dtype: str) -> Run:
    """Run a case and keep every step."""
    digest, frames = Digest(), []
    for frame in run(implementation, case, dtype):
        digest.add(frame)
        frames.append(_kept(frame))
    return Run(digest.hexdigest(), [frame.step for frame in frames], stack(frames))


def _kept(frame: Frame) -> Frame:
    """Copy a frame: arrays change with the next step."""
    state: list[State] = [{name: np.array(x) for name, x in kept.items()} for kept in frame.state]
    return Frame(frame.step, [np.array(x) for x in frame.parameters], state)


def stack(frames: list[Frame]) -> dict[str, Array]:
    """Return the state and the parameters of frames as arrays with a row for each step; state may begin later."""
    tensors: dict[str, Array] = {}
    for i in range(len(frames[0].parameters)):
        for name in sorted({name for frame in frames for name in frame.state[i]}):
            rows = [np.asarray(frame.state[i][name]) for frame in frames if name in frame.state[i]]
            tensors[f"state.{i}.{name}"] = np.stack(rows)
        tensors[f"param.{i}"] = np.stack([frame.parameters[i] for frame in frames])
    return tensors


@cache
def _reference(stem: str, name: str, dtype: str, rounding: str = "each") -> Run:
    """Run a case on refoptim, once."""
    with refoptim.rounding(rounding):
        return execute(Reference(), next(case for case in cases.load(stem) if case.id == name), dtype)


@cache
def _dialect(stem: str, name: str, dtype: str, axes: tuple[Axis, ...]) -> Run:
    """Run a case on refoptim with what differs along some axes, once."""
    return execute(Dialect(axes), next(case for case in cases.load(stem) if case.id == name), dtype)


@cache
def _golden(witness: str, stem: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    entries = goldens.read(goldens.folder() / witness / f"{stem}.json")["trajectories"]
    return {(entry["case"], entry["dtype"]): entry for entry in entries}


def expected(witness: str, stem: str, case: Case, dtype: str) -> Run:
    """Return what a golden says: all steps if refoptim has its digest, else those that are recorded.

    In place of ``STORED`` it returns what the reference computes.

    Raises:
        GoldenError: there is no such golden.
    """
    if witness == STORED:
        return _reference(stem, case.id, dtype, "store")
    entry = _golden(witness, stem).get((case.id, dtype))
    if entry is None:
        raise goldens.GoldenError(f"{stem}.json of {witness} holds no {case.id} in {dtype}: record it")
    ours = _reference(stem, case.id, dtype)
    return ours if ours.sha256 == entry["sha256"] else _recorded(entry)


def _recorded(entry: Mapping[str, Any]) -> Run:
    frames = [
        Frame(
            int(step),
            [np.asarray(decode(x)) for x in frame["parameters"]],
            [{name: np.asarray(decode(x)) for name, x in state.items()} for state in frame["state"]],
        )
        for step, frame in entry["steps"].items()
    ]
    return Run(entry["sha256"], [frame.step for frame in frames], stack(frames))


def compare(result: Result, theirs: Run, golden: Run, promise: Tolerance | None, partial: bool) -> Result:
    """Fill in how far a run is from a golden, and whether that is what is promised."""
    if theirs.sha256 == golden.sha256:
        return _judged(replace(result, exact=True), True, promise)
    rows = [theirs.steps.index(step) for step in golden.steps]
    found = {key: _rows(x, rows, len(theirs.steps)) for key, x in theirs.tensors.items()}
    problem = _misfit(found, golden.tensors, partial)
    if problem:
        apart = _parameters_alone(result, found, golden)
        return replace(apart, outcome=FAILS if promise else MEASURED, promise=_text(promise), reason=problem)
    verdict = verify.compare(result.case, golden.tensors, found, golden.steps, promise or EXACT)
    unseen = not verdict.differing and not partial and len(golden.steps) < len(theirs.steps)
    flushed = any(_flushes(golden.tensors[key], x) for key, x in found.items())
    reason = "parts between the recorded steps" if unseen else "subnormal numbers become zero" if flushed else ""
    measured = _measured(replace(result, reason=reason), verdict, golden, found)
    return _judged(measured, verdict.holds and not flushed and not (unseen and promise == EXACT), promise)


def _parameters_alone(result: Result, found: Mapping[str, Array], golden: Run) -> Result:
    """Fill in how far the parameters part, where the state cannot be compared and they can."""
    keys = [key for key in golden.tensors if key.startswith("param.")]
    if any(key not in found or layout_of(found[key]) != layout_of(golden.tensors[key]) for key in keys):
        return result
    verdict = verify.compare(result.case, golden.tensors, {key: found[key] for key in keys}, golden.steps)
    pairs = [(golden.tensors[key], found[key]) for key in keys]
    return replace(result, first=verdict.first, drift=tuple(_drift(pairs, len(golden.steps))))


def _flushes(x: Array, y: Array) -> bool:
    """Tell whether subnormal numbers of a golden are zeros in another array, and none of them is subnormal there."""
    if x.dtype.kind in "iu":
        return False
    a, b = (np.abs(as_reals(z).astype(np.float64)) for z in (x, y))
    smallest = 2.0 ** FORMATS["subnormal"][storage(x.dtype).name][1]
    subnormal = (a > 0) & (a < smallest)
    return bool((b[subnormal] == 0).any() and not ((b > 0) & (b < smallest)).any())


def _rows(x: Array, rows: list[int], steps: int) -> Array:
    """Take the rows of some steps of an array whose first steps may be missing."""
    missing = steps - len(x)
    return x[[row - missing for row in rows if row >= missing]]


def _misfit(found: Mapping[str, Array], golden: Mapping[str, Array], partial: bool) -> str:
    """Say what array is missing, too many, or of another kind than in a golden."""
    for key in found.keys() - golden.keys():
        return f"has {key}, which the golden does not have"
    for key in golden.keys() - found.keys():
        if not partial or key.startswith("param."):
            return f"has no {key}"
    wrong = next((key for key, x in found.items() if layout_of(x) != layout_of(golden[key])), None)
    if wrong is None:
        return ""
    (dtype, shape), (wanted, extent) = layout_of(found[wrong]), layout_of(golden[wrong])
    return f"{wrong} is {dtype} of shape {shape[1:]} in {shape[0]} steps, expected {wanted}, {extent[1:]}, {extent[0]}"


def _measured(result: Result, verdict: Verdict, golden: Run, found: Mapping[str, Array]) -> Result:
    pairs = [(golden.tensors[key], x) for key, x in found.items()]
    gaps = [_gaps(x, y) for x, y in pairs]
    return replace(
        result,
        exact=not verdict.differing and not result.reason,
        max_ulp=verdict.max_ulp,
        absolute=max((gap for gap, _ in gaps), default=0.0),
        relative=max((gap for _, gap in gaps), default=0.0),
        first=verdict.first,
        outside=verdict.outside,
        largest=verdict.largest,
        steps=tuple(golden.steps),
        drift=tuple(_drift(pairs, len(golden.steps))) if verdict.differing else (),
        ulps=tuple(_per_step(pairs, len(golden.steps))) if verdict.differing else (),
    )


def _gaps(x: Array, y: Array) -> tuple[float, float]:
    """Return the largest absolute and relative difference of numbers; where one is no number both are NaN."""
    a, b = (z.astype(np.complex128) if z.dtype.kind == "c" else z.astype(np.float64) for z in (x, y))
    with np.errstate(all="ignore"):
        absolute = np.where(verify.ulps(x, y).reshape(*x.shape, -1).any(axis=-1), np.abs(a - b), 0.0)
        relative = np.where(absolute == 0, 0.0, absolute / np.abs(a))
    return (float(absolute.max()), float(relative.max())) if x.size else (0.0, 0.0)


def _per_step(pairs: list[tuple[Array, Array]], steps: int) -> list[int]:
    """Return the largest distance in each step."""
    largest = [0] * steps
    for x, y in pairs:
        gaps = verify.ulps(x, y).reshape(len(x), -1)
        for i, gap in enumerate(gaps.max(axis=1, initial=0).tolist(), start=steps - len(x)):
            largest[i] = max(largest[i], gap)
    return largest


def _drift(pairs: list[tuple[Array, Array]], steps: int) -> list[float]:
    """Return for each step the largest difference of numbers, relative to the largest that their array has held.

    Infinite where a count differs, where one of two numbers is not finite, or where an array is nothing but zeros.
    """
    largest = np.zeros(steps)
    for x, y in pairs:
        differ = verify.ulps(x, y).reshape(len(x), -1) > 0
        a, b = (np.asarray(z if z.dtype.kind in "iu" else as_reals(z)).reshape(differ.shape) for z in (x, y))
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(all="ignore"):
            scale = np.maximum.accumulate(np.max(np.where(np.isfinite(a), np.abs(a), 0), axis=1, initial=0))
            far = np.where(differ & (np.abs(a - b) > 0), np.abs(a - b) / scale[:, None], 0.0)
            apart = differ & (~(np.isfinite(a) & np.isfinite(b)) | (x.dtype.kind in "iu"))
        rows = np.max(np.where(apart, np.inf, far), axis=1, initial=0)
        largest[steps - len(x) :] = np.maximum(largest[steps - len(x) :], rows)
    return [float(x) for x in largest]


def _judged(result: Result, holds: bool, promise: Tolerance | None) -> Result:
    outcome = MEASURED if promise is None else HOLDS if holds else FAILS
    return replace(result, outcome=outcome, promise=_text(promise))


def _text(promise: Tolerance | None) -> str:
    return "" if promise is None else str(promise)


def excused(result: Result, known: Deviation | None) -> Result:
    """Take a listed deviation into account: it explains what does not hold, and is reported when it is gone.

    It explains distances. An error, or arrays that cannot be compared, only one that says so explains.
    """
    if known is None or result.outcome == NOT_RUN or not (result.compared or known.raises):
        return result
    gone = result.exact if result.outcome == MEASURED else result.outcome == HOLDS
    reason = f"{known.reason}: {result.reason}" if result.reason else known.reason
    return replace(result, outcome=PASSES if gone else DEVIATES, flags=known.flags, reason=reason)


class Job(NamedTuple):
    """One case in one storage type on one implementation; ``tolerance`` takes the place of what is promised."""

    implementation: str
    make: adapters.Make
    stem: str
    case: Case
    dtype: str
    tolerance: Tolerance | None = None


def jobs(
    name: str, pattern: str | Sequence[str] = "", dtypes: tuple[str, ...] = (), tolerance: Tolerance | None = None
) -> list[Job]:
    """List what there is to run on an implementation.

    Args:
        name: the name of an adapter, or package.module:Class.
        pattern: what ``cases.matches`` takes: globs, or names, of cases and optimizers.
        dtypes: the storage types; all if there are none.
        tolerance: takes the place of what is promised.

    Raises:
        NotAvailable: the implementation is not.
    """
    make = adapters.find(name)
    return [
        Job(name, make, stem, case, dtype, tolerance)
        for stem in cases.stems()
        for case in cases.load(stem)
        for dtype in case.dtypes
        if matches(pattern, case.id, case.optimizer) and (not dtypes or dtype in dtypes)
    ]


def perform(job: Job) -> list[Result]:
    """Run a case and compare it with each golden there is for the implementation; what it prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        return _performed(job)


def _performed(job: Job) -> list[Result]:
    blank = Result(job.implementation, job.case.optimizer, job.case.id, job.dtype, "reference", NOT_RUN)
    try:
        implementation = job.make()
        reason = adapters.why_not(implementation, job.case, job.dtype) or lacking(job.dtype)
        if reason:
            return [replace(blank, reason=reason)]
        theirs = execute(implementation, job.case, job.dtype)
        partial = bool(getattr(implementation, "partial_state", False))
        check_arithmetic()
    except KeyboardInterrupt:
        raise
    except adapters.Unsupported as error:
        return [replace(blank, reason=str(error))]
    except BaseException as error:  # what an implementation raises must not end the run
        raised = replace(blank, outcome=ERROR, reason=raised_at(error), traceback=whole(error))
        return [_excused(raised, job)]
    results = []
    for witness in witnesses_of(job):
        promise = promise_of(job, witness, implementation)
        golden = expected(witness, job.stem, job.case, job.dtype)
        seen = _as_kept(theirs, witness, job.stem)
        found = compare(replace(blank, golden=witness), seen, golden, promise, partial)
        results.append(_excused(held_to_dialect(found, job, theirs, golden, promise, partial), job))
    return results


def _as_kept(run: Run, witness: str, stem: str) -> Run:
    """Return a run without the state that a witness does not keep, or keeps in another way."""
    package = package_of(stem) if witness == "package-ieee" else None
    if package is None:
        return run
    kept = {key: x for key, x in run.tensors.items() if package.keeps(key.rpartition(".")[2])}
    return run._replace(tensors=kept)


def told(error: BaseException) -> str:
    """Say what an implementation raised: the kind of its error, and its message, if it gives one."""
    try:
        message = str(error)
    except Exception:
        message = "it does not say why"
    return f"{type(error).__name__}: {message}"


OURS = (str(Path(__file__).parent), str(Path(str(refoptim.__file__)).parent))
"""Folders whose files are ours: what is raised there by what an implementation gave is not where its mistake is."""


def raised_at(error: BaseException) -> str:
    """Say what an implementation raised, and in which file and line of its own: the innermost that is not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(OURS)] or frames
    frame = next((x for x in reversed(own) if "site-packages" not in x.filename), own[-1]) if own else None
    where = f" ({_short(frame.filename)}:{frame.lineno} in {frame.name})" if frame else ""
    return told(error) + where


def _short(path: str) -> str:
    """Return a path from here, if it leads down, or as it is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (OSError, ValueError):
        return path


def whole(error: BaseException) -> str:
    """Return a traceback as Python prints it; an error that cannot be printed has none."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception:
        return ""


def witnesses_of(job: Job) -> tuple[str, ...]:
    """Return what a run is compared with: of an engine with all goldens, and where it has kernels see above."""
    if job.implementation not in adapters.ENGINES:
        return ("reference",)
    rounds_once = job.implementation != "numpy" and np_dtype(job.dtype).itemsize == 2
    own = [x for x in goldens.witnesses(job.stem) if (job.case, job.dtype) in goldens.runs(x, job.stem)]
    return (STORED,) if rounds_once else tuple(own)


def promise_of(job: Job, witness: str, implementation: Implementation) -> Tolerance | None:
    """Return what the table promises; an implementation of the user's says it itself, and EXACT if it does not.

    It may say it by storage type; a type that it does not name has what it says of ``"*"``, or else EXACT.
    """
    if job.tolerance is not None:
        return job.tolerance
    if job.implementation in adapters.BUILT_IN:
        return promises.promised(job.implementation, witness, job.case.optimizer, job.dtype)
    promise = getattr(implementation, "promise", EXACT)
    return promise.get(job.dtype, promise.get(ANY, EXACT)) if isinstance(promise, Mapping) else promise


def held_to_dialect(
    result: Result, job: Job, theirs: Run, golden: Run, promise: Tolerance | None, partial: bool
) -> Result:
    """Hold a library to its dialect in a case where that parts from the rule.

    It deviates as known where it breaks the promise and its dialect keeps it; where it keeps the promise all the same,
    that is reported. Where nothing is promised there is nothing to excuse.
    """
    axes = axes_of(job.implementation, job.case.optimizer) if promise else ()
    dialect = _dialect(job.stem, job.case.id, job.dtype, axes) if axes else golden
    blank = Result(job.implementation, job.case.optimizer, job.case.id, job.dtype, result.golden, NOT_RUN)
    seen = dialect._replace(tensors={key: x for key, x in dialect.tensors.items() if key in theirs.tensors})
    if dialect.sha256 == golden.sha256 or compare(blank, seen, golden, promise, True).ok:
        return result
    flags = _showing(job, axes)
    if result.outcome == HOLDS:
        return replace(result, outcome=PASSES, flags=flags, reason=meaning(flags))
    if result.outcome == FAILS and not compare(blank, theirs, dialect, promise, partial).ok:
        what = f"is neither the rule nor {job.implementation}'s dialect of it ({' + '.join(flags)})"
        return replace(result, reason=f"{what}; {result.reason}" if result.reason else what)
    return replace(result, outcome=DEVIATES, flags=flags, reason=meaning(flags))


def _showing(job: Job, axes: tuple[Axis, ...]) -> tuple[str, ...]:
    """Return the flags of the axes without which a dialect computes something else in a case."""
    whole = _dialect(job.stem, job.case.id, job.dtype, axes).sha256
    rest = {axis.flag: tuple(x for x in axes if x is not axis) for axis in axes}
    return tuple(
        flag
        for flag, left in rest.items()
        if not fit(left) or _dialect(job.stem, job.case.id, job.dtype, left).sha256 != whole
    )


def _excused(result: Result, job: Job) -> Result:
    return excused(result, promises.deviation(_known(job.implementation), job.case, job.dtype))


@cache
def _known(name: str) -> list[Deviation]:
    return promises.deviations(name)


def lacking(dtype: str) -> str:
    """Say why arrays of a dtype cannot be made here: bfloat16 needs ml_dtypes."""
    try:
        np_dtype(dtype)
    except ImportError:
        return "bfloat16 needs ml_dtypes"
    return ""


def versions(name: str) -> dict[str, str]:
    """Make an implementation once, and return the versions of what computes in it.

    Raises:
        NotAvailable: it cannot be imported or made, or what it says of itself is of another kind than it should be.
    """
    try:
        with redirect_stdout(sys.stderr):
            made = adapters.find(name)()
            found: Any = getattr(made, "versions", dict)()
            promise = getattr(made, "promise", EXACT)
            texts = {str(key): str(x) for key, x in found.items()} if isinstance(found, Mapping) else {}
            texts_of = repr(found), repr(promise)
    except adapters.NotAvailable:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise adapters.NotAvailable(f"{name} cannot be used: {told(error)}") from error
    if not isinstance(found, Mapping):
        raise adapters.NotAvailable(f"{name}: versions() must return a dict, got {texts_of[0]}")
    _check_promise(name, promise, texts_of[1])
    return texts


def _check_promise(name: str, promise: Any, text: str) -> None:
    """Raise NotAvailable unless a promise is one, or a mapping from storage types to promises."""
    parts = promise if isinstance(promise, Mapping) else {ANY: promise}
    unknown = [key for key in parts if key not in (ANY, *FLOATS, *COMPLEX)]
    if unknown or not all(x is None or isinstance(x, Tolerance) for x in parts.values()):
        kinds = "EXACT, ULP(n), CLOSE(rtol, atol) or None, or a dict of these by storage type"
        raise adapters.NotAvailable(f"{name}: promise must be {kinds}, got {text}")
