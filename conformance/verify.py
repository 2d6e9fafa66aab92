"""Compares trajectories with the reference: where they first part, and by how much.

Two numbers agree if their bits do; all NaNs are one number, and -0 is not +0. Their distance in ULP is the number of
steps from one to the other through all numbers of their type in order, -0 and +0 being two of them. A NaN and a number
are as far apart as can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refoptim.numerics.arith import Array, as_reals
from refoptim.numerics.ieee import check_arithmetic

from . import cases, formats, generate, goldens, record_lr, schedules, tasks
from .generate import Watch
from .reference import Reference
from .strict import MAX_TEXT, GoldenError, is_count, layout, read_bytes, require, shown
from .trajectory import trajectory
from .words import from_hex, layout_of, to_hex, to_words

NAN_APART = (1 << 64) - 1
"""The distance of a NaN from a number."""


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be apart: bit for bit, by some ULP, or within ``atol + rtol * |expected|``."""

    ulp: int = 0
    rtol: float = 0.0
    atol: float = 0.0

    def __str__(self) -> str:
        close = f"within {self.atol:g} + {self.rtol:g} * |x|" if self.rtol or self.atol else ""
        return close or (f"within {self.ulp} ULP" if self.ulp else "EXACT")


EXACT = Tolerance()


def ULP(n: int) -> Tolerance:
    """Allow a distance of n numbers."""
    return Tolerance(ulp=n)


def CLOSE(rtol: float, atol: float) -> Tolerance:
    """Allow ``atol + rtol * |x|``."""
    return Tolerance(rtol=rtol, atol=atol)


@dataclass(frozen=True)
class Difference:
    """Where two numbers differ, and by how much."""

    step: int
    tensor: str
    element: list[int]
    expected: float
    found: float
    expected_bits: str
    found_bits: str
    ulp: int
    absolute: float
    relative: float

    def __str__(self) -> str:
        ulp = "a NaN on one side" if self.ulp == NAN_APART else f"{self.ulp} ULP"
        return (
            f"step {self.step}, {self.tensor} {self.element}: expected {self.expected} ({self.expected_bits}), "
            f"found {self.found} ({self.found_bits}): {ulp}, absolute {self.absolute:.3g}, relative {self.relative:.3g}"
        )


@dataclass(frozen=True)
class Verdict:
    """What a comparison found: how many numbers, how many differ and by how much, and where they first part.

    ``first`` is the first difference, ``outside`` the first that is outside the tolerance, ``largest`` the one that is
    farthest outside: by ULP, or by how many times it is what is allowed.
    ``note`` says what is known of the mistake.
    """

    name: str
    holds: bool
    compared: int
    differing: int = 0
    max_ulp: int = 0
    first: Difference | None = None
    problem: str = ""
    note: str = ""
    outside: Difference | None = None
    largest: Difference | None = None

    @property
    def shown(self) -> Difference | None:
        """The difference to be shown: the first outside the tolerance, or, where all is inside, the first."""
        return self.outside or self.first

    @property
    def summary(self) -> str:
        """One word or two for a table."""
        if self.problem:
            return self.problem
        if not self.differing:
            return "EXACT"
        return "NaN" if self.max_ulp == NAN_APART else f"{self.max_ulp} ULP"

    @property
    def refused(self) -> bool:
        """Whether what was to be compared could not be read."""
        return self.problem.startswith("refused")

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; NaN and infinity as texts."""
        differences = {key: described(getattr(self, key)) for key in ("first", "outside", "largest")}
        return {**asdict(self), **differences, "summary": self.summary}


def described(difference: Difference | None) -> dict[str, Any] | None:
    """Return what JSON can hold of a difference."""
    return None if difference is None else {key: plain(x) for key, x in asdict(difference).items()}


def plain(x: Any) -> Any:
    """Return what JSON can hold: NaN and infinities as texts."""
    return str(x) if isinstance(x, float) and not np.isfinite(x) else x


def order(x: Array) -> Array:
    """Return for each real an unsigned integer, such that these are ordered and adjacent as the reals are."""
    words = to_words(x)
    sign = words.dtype.type(1 << (8 * words.dtype.itemsize - 1))
    return np.where(words & sign, ~words, words | sign).astype(np.uint64)


def ulps(x: Array, y: Array) -> Array:
    """Return the distances of the reals of two arrays, as one vector."""
    if x.dtype.kind in "iu":
        a, b = (z.reshape(-1).astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63) for z in (x, y))
        return np.maximum(a, b) - np.minimum(a, b)
    a, b = order(x), order(y)
    with np.errstate(invalid="ignore"):
        one_nan = np.isnan(as_reals(x)) != np.isnan(as_reals(y))
    return np.where(one_nan.reshape(-1), np.uint64(NAN_APART), np.maximum(a, b) - np.minimum(a, b))


def compare(
    name: str,
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    steps: list[int],
    tolerance: Tolerance = EXACT,
) -> Verdict:
    """Compare the arrays of a trajectory that are found with those expected, of the same layouts.

    Args:
        name: what is compared, for the verdict.
        expected: all arrays, in the order in which a step computes them.
        found: some of them.
        steps: the step of each row of an array; an array with fewer rows has none for the first of them.
        tolerance: how far numbers may be apart.
    """
    gaps = {key: ulps(x, found[key]).reshape(len(x), -1) for key, x in expected.items() if key in found}
    total = sum(gap.size for gap in gaps.values())
    if not any(gap.any() for gap in gaps.values()):
        return Verdict(name, True, total)
    excess = {key: _excess(expected[key], found[key], gap, tolerance) for key, gap in gaps.items()}
    outside = {key: x > 1 for key, x in excess.items()}

    def at(place: tuple[str, int, int] | None) -> Difference | None:
        if place is None:
            return None
        key, row, i = place
        step = steps[-len(gaps[key]) :][row]
        return difference(step, key, expected[key][row], found[key][row], gaps[key][row], i)

    return Verdict(
        name,
        not any(x.any() for x in outside.values()),
        total,
        sum(int(np.count_nonzero(gap)) for gap in gaps.values()),
        max(int(gap.max()) for gap in gaps.values() if gap.size),
        at(_first({key: gap > 0 for key, gap in gaps.items()})),
        outside=at(_first(outside)),
        largest=at(_largest(excess, gaps)),
    )


def _first(marked: Mapping[str, Array]) -> tuple[str, int, int] | None:
    """Return the array, the row and the element that is marked first; the last rows of all arrays are of one step."""
    found = [(-len(x) + int(row), key) for key, x in marked.items() for row in np.flatnonzero(x.any(axis=1))[:1]]
    if not found:
        return None
    back, key = min(found, key=lambda item: item[0])
    row = back + len(marked[key])
    return key, row, int(np.flatnonzero(marked[key][row])[0])


def _largest(excess: Mapping[str, Array], gaps: Mapping[str, Array]) -> tuple[str, int, int]:
    """Return where numbers are farthest outside of what is allowed, and of such that are so alike where in ULP."""
    tops = {
        key: int(np.argmax(np.where(x == np.max(x), gaps[key].astype(np.float64), -1)))
        for key, x in excess.items()
        if x.size
    }
    key = max(tops, key=lambda key: (excess[key].flat[tops[key]], int(gaps[key].flat[tops[key]])))
    row, i = divmod(tops[key], gaps[key].shape[1])
    return key, row, i


def _excess(x: Array, y: Array, gap: Array, tolerance: Tolerance) -> Array:
    """Return by number how many times its distance is what is allowed: up to one is inside. Counts must be equal.

    Where ULP are allowed, or nothing, this is 0 inside, and else the distance in ULP and one.
    """
    if x.dtype.kind in "iu" or not (tolerance.rtol or tolerance.atol):
        allowed = 0 if x.dtype.kind in "iu" else tolerance.ulp
        return np.where(gap > allowed, 1 + gap.astype(np.float64), 0.0)
    a, b = (as_reals(z).reshape(gap.shape).astype(np.float64) for z in (x, y))
    with np.errstate(all="ignore"):
        far = np.abs(a - b) / (tolerance.atol + tolerance.rtol * np.abs(a))
        near = np.abs(a - b) <= tolerance.atol + tolerance.rtol * np.abs(a)
    finite = np.isfinite(a) & np.isfinite(b)
    inside = near & finite | (gap == 0)
    return np.where(
        inside, np.where(gap == 0, 0.0, np.fmin(far, 1.0)), np.where(finite, np.fmax(far, 1 + 1e-9), np.inf)
    )


def difference(step: int, key: str, x: Array, y: Array, gap: Array, i: int) -> Difference:
    """Describe element ``i``, counted by reals, in which two arrays of a step differ."""
    a, b = (np.asarray(z) if z.dtype.kind in "iu" else as_reals(np.asarray(z)) for z in (x, y))
    u, v = (z.reshape(-1)[i : i + 1] for z in (a, b))
    with np.errstate(all="ignore"):
        absolute = np.abs(u.astype(np.float64) - v.astype(np.float64))
        relative = absolute / np.abs(u.astype(np.float64))
    place = [int(n) for n in np.unravel_index(i, a.shape)]
    return Difference(
        step,
        key,
        place,
        float(u[0]),
        float(v[0]),
        to_hex(u),
        to_hex(v),
        int(gap[i]),
        float(absolute[0]),
        float(relative[0]),
    )


def verify_file(path: Path, tolerance: Tolerance = EXACT, watch: Watch = iter) -> list[Verdict]:
    """Compare a trajectory file, or a golden of several cases, with what refoptim computes.

    Raises:
        GoldenError: the file is neither, is cut off, altered, of another version, or does not fit what it says it is.
        RuntimeError: this process does not compute as IEEE 754 says.
    """
    check_arithmetic()
    if is_golden(path):
        return list(verify_golden(path, tolerance))
    if is_schedules(path):
        return list(verify_schedules(path, tolerance))
    header, tensors = formats.read(path)
    entry = header["case"]
    if "scheduler" in entry:
        schedules.check(entry)
        schedules.make({**entry, "steps": 1})  # is it a scheduler at all? The file says how long its epochs take
        fits = "lr" in tensors and layout_of(tensors["lr"]) == ("float64", (entry["steps"] + 1,))
        require(fits, f"{path.name} has no lr of dtype float64 and shape {(entry['steps'] + 1,)}")
        return [_judged(path.name, schedules.make(entry)[1], tensors, ("lr",), entry["steps"], tolerance)]
    case = tasks.check(entry)
    needed = [f"param.{i}" for i in range(len(case.shapes))]
    for name, shape in zip(needed, case.shapes, strict=True):
        fits = name in tensors and layout_of(tensors[name]) == (case.dtypes[0], (case.steps + 1, *shape))
        require(fits, f"{path.name} has no {name} of dtype {case.dtypes[0]} and shape {(case.steps + 1, *shape)}")
    expected = generate.trajectory(case, case.dtypes[0], watch)
    return [_judged(path.name, expected, tensors, needed, case.steps, tolerance)]


def _judged(
    name: str,
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    needed: Iterable[str],
    steps: int,
    tolerance: Tolerance,
) -> Verdict:
    """Compare trajectories after a look at what there is to be compared."""
    for key in needed:
        require(key in found, f"{name} has no {key}")
    for key, x in found.items():
        require(key in expected, f"{name} has {shown(key)}, which this case does not have")
        require(
            layout_of(x) == layout_of(expected[key]),
            f"{name}: {key} is {_text(x)}, expected {_text(expected[key])}",
        )
    return compare(name, expected, found, list(range(steps + 1)), tolerance)


def _text(x: Array) -> str:
    return f"{x.dtype.name} of shape {x.shape}"


def is_golden(path: Path) -> bool:
    """Tell whether a file is a golden of several cases, as ``record`` writes them."""
    return _mentions(path, b'"trajectories"')


def is_schedules(path: Path) -> bool:
    """Tell whether a file is a golden of a scheduler, as ``record_lr`` writes them."""
    return _mentions(path, b'"cases"')


def _mentions(path: Path, name: bytes) -> bool:
    """Tell whether a file is JSON in which a name stands that trajectory files do not have."""
    if path.suffix.lower() != ".json":
        return False
    data = read_bytes(path, MAX_TEXT)
    return name in data and b'"tensors"' not in data


def verify_schedules(path: Path, tolerance: Tolerance) -> Iterator[Verdict]:
    """Compare the learning rates and momenta of each case of a golden of a scheduler with what refoptim computes."""
    golden = record_lr.read(path)
    for entry in golden["cases"]:
        found = record_lr.values(entry)
        ours = record_lr.our_trace(record_lr.case_of(entry))
        expected = {key: np.array(ours[key]).T for key in found}
        yield compare(entry["case"], expected, found, list(range(len(found["lr"]))), tolerance)


def verify_golden(path: Path, tolerance: Tolerance) -> Iterator[Verdict]:
    """Compare the recorded steps of each case of a golden with what refoptim computes."""
    known = {(case.id, dtype): case for stem in cases.stems() for case in cases.load(stem) for dtype in case.dtypes}
    for entry in goldens.read(path)["trajectories"]:
        key = (entry["case"], entry["dtype"])
        require(key in known, f"{path.name} has a case that this version does not have: {shown(key)}")
        yield _recorded(f"{key[0]} {key[1]}", trajectory(Reference(), known[key], key[1]), entry, tolerance)


def _recorded(name: str, expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance) -> Verdict:
    """Compare recorded steps one by one, and the digest of all steps, and put the verdicts together."""
    require(set(found["steps"]) == set(expected["steps"]), f"{name}: other steps are recorded than the case says")
    verdicts = [
        _frame(name, int(step), expected["steps"][step], found["steps"][step], tolerance) for step in expected["steps"]
    ]
    unseen = expected["sha256"] != found["sha256"] and not any(x.differing for x in verdicts)
    far = [x.largest for x in verdicts if x.largest is not None]
    return Verdict(
        name,
        all(x.holds for x in verdicts) and not (unseen and tolerance == EXACT),
        sum(x.compared for x in verdicts),
        sum(x.differing for x in verdicts),
        max(x.max_ulp for x in verdicts),
        next((x.first for x in verdicts if x.first is not None), None),
        "parts between the recorded steps" if unseen else "",
        outside=next((x.outside for x in verdicts if x.outside is not None), None),
        largest=max(far, key=lambda x: x.ulp, default=None),
    )


def _array(entry: Any, where: str) -> Array:
    """Return an array, or a count, of a recorded frame."""
    if is_count(entry, (1 << 63) - 1):
        return np.asarray(entry)
    return from_hex(entry["bits"], layout(entry["dtype"], entry["shape"], where), where)


def _frame(name: str, step: int, expected: Any, found: Any, tolerance: Tolerance) -> Verdict:
    x, y = _tensors(expected, name), _tensors(found, name)
    same = {key: layout_of(v) for key, v in x.items()} == {key: layout_of(v) for key, v in y.items()}
    require(same, f"{name}: step {step} has other arrays than expected")
    return compare(name, x, y, [step], tolerance)


def _tensors(frame: Any, where: str) -> dict[str, Array]:
    """Return the arrays of a recorded frame under the names that trajectory files use, each with one row."""
    found: dict[str, Array] = {}
    try:
        for i, (p, state) in enumerate(zip(frame["parameters"], frame["state"], strict=True)):
            named = {f"state.{i}.{name}": state[name] for name in sorted(state)} | {f"param.{i}": p}
            found |= {key: _array(x, f"{where}: {shown(key)}")[None] for key, x in named.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GoldenError(f"{where} holds an array that is none: {shown(str(error))}") from None
    return found
