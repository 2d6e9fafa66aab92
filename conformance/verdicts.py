"""Three verdicts: the same bits; the same rule, rounded otherwise; another rule.

One for each optimizer of an implementation, from all its runs but those at the edges of the range, where overflow and
subnormal numbers make small causes large; these are told apart. What counts is a run's *drift*: the largest difference
after a step, relative to the largest number that its array has held. Numbers near zero do not count more than others,
as they do in ULP. What rounds otherwise drifts by some roundings and no more than they grow; what computes something
else drifts, in cases made to show it, by ten thousands of times as much. ``BOUNDS`` says how much is which.

Of a case that ran in several storage types the widest decides, and float64 parts the two best: the same rule drifts by
less than 1e-10, and another one by more than 1e-5. What drifts in float64 as if it computed in float32, but no more, is
the same rule if a case whose hyperparameters tell is among its runs: at defaults an ``eps`` of 1e-8 in another place is
no larger than that. What lies between is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from . import cases
from .cases import Case
from .promises import STORED
from .run import ERROR, NOT_RUN, Result
from .verify import plain

SAME_BITS, SAME_RULE, ANOTHER_RULE, UNKNOWN = VERDICTS = ("same bits", "same rule", "another rule", "unknown")

BOUNDS = {
    "float64": (1e-10, 1e-5),
    "complex128": (1e-10, 1e-5),
    "float32": (1e-4, 2e-3),
    "complex64": (1e-4, 2e-3),
    "float16": (0.05, 0.5),
    "bfloat16": (0.3, 2.0),
}
"""The drift up to which a storage type shows the same rule, and that from which on it shows another."""

OF_PRODUCTS = {"Muon": (5e-4, 2e-2)}
"""The same for rules that multiply matrices in bfloat16, whatever the storage."""

AS_FLOAT32 = 3e-6
"""The drift in float64 of the same rule that computes, or keeps its hyperparameters, in float32."""

WIDTH = ("bfloat16", "float16", "complex64", "float32", "complex128", "float64")
"""Storage types by how well they tell roundings from mistakes."""


@dataclass(frozen=True)
class Verdict:
    """What an implementation's optimizer is, in the cases that it ran.

    ``verdict`` is one of ``VERDICTS``. ``distance`` is the largest drift in the storage type ``dtype`` that decides; it
    is reached in ``case``, which first parts in ``step``, in the array ``tensor``; all are empty where nothing parts.
    ``edges`` says what parts at the edges of the range alone, ``reason`` why a verdict is unknown. ``ran`` counts what
    was compared, ``unlike`` what could not be, because arrays are missing or of another shape or type.
    """

    implementation: str
    optimizer: str
    verdict: str
    distance: float = 0.0
    dtype: str = ""
    case: str = ""
    step: int | None = None
    tensor: str = ""
    ran: int = 0
    raised: int = 0
    unlike: int = 0
    not_run: int = 0
    edges: str = ""
    reason: str = ""

    @property
    def line(self) -> str:
        """The verdict in one line, without the names."""
        text = self.verdict
        if self.verdict == SAME_RULE and self.step is not None:
            text += f", other rounding: at most {self.distance:.0e} of the largest number ({self.dtype})"
        elif self.step is not None:
            text += f": {_far(self.distance)} ({self.dtype})"
        if self.step is not None:
            text += f", from step {self.step} of {self.case} on"
        return "; ".join([text, *filter(None, [self.reason, self.edges, *self._counts()])])

    def _counts(self) -> Iterator[str]:
        whole = self.ran + self.raised + self.unlike
        if self.raised:
            yield f"{self.raised} of {whole} raised"
        if self.unlike:
            yield f"{self.unlike} of {whole} have arrays of another shape or type"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**asdict(self), "distance": plain(self.distance), "line": self.line}


def _far(distance: float) -> str:
    beyond = "more than can be measured, beside zeros, infinities or NaN"
    return f"{distance:.0e} of the largest number" if math.isfinite(distance) else beyond


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """Return a verdict for each optimizer of each implementation, in the order of the results."""
    grouped: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        grouped.setdefault((r.implementation, r.optimizer), []).append(r)
    return [_verdict(key, _of_reference(found)) for key, found in grouped.items()]


def _of_reference(results: Sequence[Result]) -> list[Result]:
    """Return the comparisons with refoptim, and where there are none, as for schedulers, all."""
    return [r for r in results if r.golden in ("reference", STORED)] or list(results)


@cache
def _cases() -> dict[str, Case]:
    return {case.id: case for stem in cases.stems() for case in cases.load(stem)}


def at_the_edges(result: Result) -> bool:
    """Tell whether a run goes to the edges of the range."""
    return result.case in _cases() and _cases()[result.case].at_the_edges


def telling(result: Result) -> bool:
    """Tell whether a case has hyperparameters whose misuse shows."""
    return result.case in _cases() and not _cases()[result.case].plain


def drift(result: Result) -> float:
    """Return the largest drift of a run; infinite where nothing could be compared."""
    return 0.0 if result.exact else max(result.drift, default=math.inf)


def bounds(result: Result) -> tuple[float, float]:
    """Return the drift up to which a run shows the same rule, and that from which on it shows another."""
    return OF_PRODUCTS.get(result.optimizer, BOUNDS[result.dtype])


def _verdict(key: tuple[str, str], results: Sequence[Result]) -> Verdict:
    ran = [r for r in results if r.compared or r.drift]
    counts: dict[str, Any] = {"ran": len(ran), "not_run": sum(r.outcome == NOT_RUN for r in results)}
    counts["raised"] = sum(r.outcome == ERROR for r in results)
    counts["unlike"] = sum(r.ran and not (r.compared or r.drift) for r in results)
    inner = _widest([r for r in ran if not at_the_edges(r)])
    edges = _edges([r for r in ran if at_the_edges(r)])
    verdict, reason, worst = _judged(inner, edges)
    where: dict[str, Any] = {}
    if worst is not None and not worst.exact:
        where = {"distance": drift(worst), "dtype": worst.dtype, "case": worst.case}
        if worst.first is not None:
            where |= {"step": worst.first.step, "tensor": worst.first.tensor}
    return Verdict(key[0], key[1], verdict, edges=edges, reason=reason, **where, **counts)


def _widest(results: Sequence[Result]) -> list[Result]:
    """Return of each case the run in the storage type that tells best, and narrower ones that show another rule."""
    best: dict[str, Result] = {}
    for r in sorted(results, key=lambda r: WIDTH.index(r.dtype)):
        best[r.case] = r
    clear = [r for r in results if drift(r) > bounds(r)[1] and r is not best[r.case]]
    return [*best.values(), *clear]


def _judged(inner: Sequence[Result], edges: str) -> tuple[str, str, Result | None]:
    """Return the verdict, why it is unknown, and the run that decides."""
    if not inner:
        return UNKNOWN, "no case could be compared", None
    unlike = next((f"{r.case} {r.reason}" for r in inner if not r.compared), "")
    worst = max(inner, key=lambda r: drift(r) / bounds(r)[0])
    if all(r.exact for r in inner):
        return (SAME_RULE if edges else SAME_BITS), "", None
    low, high = bounds(worst)
    if drift(worst) <= low:
        return SAME_RULE, unlike, worst
    if drift(worst) >= high:
        return ANOTHER_RULE, unlike, worst
    if low < AS_FLOAT32 >= drift(worst) and low < 1e-9 and any(map(telling, inner)):
        return SAME_RULE, "as if in float32", worst
    return UNKNOWN, "too far for rounding, and too near for another rule", worst


def _edges(results: Sequence[Result]) -> str:
    """Say in how many cases at the edges of the range numbers part, and in which first."""
    apart = [r for r in results if not r.exact]
    if not apart:
        return ""
    why = next((r.reason for r in apart if r.reason), apart[0].distance)
    return f"at the edges of the range {len(apart)} of {len(results)} part ({apart[0].case}: {why})"
