"""Evidence: what a black box made of a case, kept step by step.

The gradients are those that the black box met: those that a suite or a file holds, or else those at its own parameters,
so that a small difference in one step does not grow by way of the next gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refoptim import SparseGrad
from refoptim.numerics.arith import Array, as_reals, storage

from .. import adapters, export, formats, run, tasks
from ..cases import Case
from ..gradients import make_source
from ..strict import require
from ..trajectory import State
from ..words import layout_of

EDGES = frozenset({"mixed", "extreme", "special", "subnormal", "huge"})
"""Kinds of numbers at the ends of the range, and what is no number."""

TIGHT = {"float64": 1e-10, "float32": 5e-5, "float16": 5e-2, "bfloat16": 3e-1}
"""How far apart, relative to the largest number of a parameter, two ways of rounding one rule may come."""

LOOSE = {**TIGHT, "float64": TIGHT["float32"]}
"""The same for numbers some of which are kept, or computed, in single precision."""

SINGLE = 2e-6
"""The same for float64 where settings are kept in float32, or what is made of them once a step."""

PRODUCTS = 5e-4
"""The same for Muon, whose products of matrices are rounded to bfloat16."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a black box made of a case in one storage type.

    Attributes:
        case: the case.
        dtype: the storage type.
        before: the parameters before the first step.
        parameters: the parameters after each step.
        state: the state of each parameter after each step, as far as it was given.
        given: the gradients of each step, if they were not computed at the parameters.
        settings: the storage type in which the black box is taken to keep settings, if not its own.
    """

    case: Case
    dtype: str
    before: Sequence[Array]
    parameters: Sequence[Sequence[Array]]
    state: Sequence[Sequence[State]]
    given: Sequence[Sequence[Any]] | None = None
    settings: str = ""

    @property
    def name(self) -> str:
        """The name for messages."""
        return f"{self.case.id} in {self.dtype}"

    @cached_property
    def grads(self) -> list[list[Any]]:
        """The gradients of each step, None where a parameter had none."""
        found = self.given or self._computed()
        skipped = {(step, i) for step, i in self.case.skip}
        return [[None if (k, i) in skipped else g for i, g in enumerate(x)] for k, x in enumerate(found, 1)]

    def _computed(self) -> Sequence[Sequence[Any]]:
        source = make_source(self.case.gradient, self.case.shapes, self.dtype)
        met = [self.before, *self.parameters[:-1]]
        return [source.gradients(step, x) for step, x in enumerate(met, 1)]

    @cached_property
    def scale(self) -> Array:
        """For each real the largest number of its parameter in all steps."""
        columns = zip(self.before, *self.parameters, strict=True)
        sizes = [_largest(column) for column in columns]
        return np.concatenate([np.full(as_reals(p).size, s) for p, s in zip(self.before, sizes, strict=True)])

    @cached_property
    def scaled(self) -> list[Array]:
        """The parameters after each step as one vector of reals, relative to their scale."""
        return [self.relative(x) for x in self.parameters]

    def relative(self, parameters: Iterable[Array]) -> Array:
        """Return parameters as one vector of reals, relative to their scale."""
        return np.concatenate([as_reals(p).ravel() for p in parameters]).astype(np.float64) / self.scale

    @cached_property
    def is_edge(self) -> bool:
        """Whether the case meets numbers at the ends of the range."""
        gradient = self.case.gradient
        return bool(EDGES & {*gradient.get("kinds", ()), gradient.get("start", "normal")})

    @property
    def storage(self) -> str:
        """The type of its reals."""
        return str(storage(self.before[0].dtype).name)

    @property
    def tight(self) -> float:
        """The tolerance for one rule, rounded in another way."""
        return SINGLE if self.settings == "float32" and self.storage == "float64" else TIGHT[self.storage]

    @property
    def loose(self) -> float:
        """The tolerance for one rule that is computed in single precision somewhere, or in products of matrices."""
        return max(LOOSE[self.storage], PRODUCTS if self.case.optimizer == "Muon" else 0.0)


def _largest(arrays: Iterable[Array]) -> float:
    reals = np.concatenate([as_reals(p).ravel() for p in arrays]).astype(np.float64)
    return float(np.max(np.abs(reals[np.isfinite(reals)]), initial=0.0)) or 1.0


def ran(case: Case, dtype: str, tensors: Mapping[str, Array]) -> Evidence:
    """Make evidence of the arrays of a run, a row for each step; state may begin later."""
    count = len(case.shapes)
    parameters = [[tensors[f"param.{i}"][k] for i in range(count)] for k in range(case.steps)]
    before = make_source(case.gradient, case.shapes, dtype).parameters()
    state = [[_state(tensors, i, k, case.steps) for i in range(count)] for k in range(case.steps)]
    given = [[_gradient(tensors, i, k, shape) for i, shape in enumerate(case.shapes)] for k in range(case.steps)]
    return Evidence(case, dtype, before, parameters, state, given if "grad.0" in tensors else None)


def _gradient(tensors: Mapping[str, Array], i: int, k: int, shape: tuple[int, ...]) -> Any:
    """Return the gradient of a parameter that is given with row ``k``, if one is."""
    if f"grad.{i}" not in tensors:
        return None
    entries = tensors[f"grad.{i}"][k]
    return SparseGrad(tensors[f"rows.{i}"][k][None], entries, shape) if f"rows.{i}" in tensors else entries


def _state(tensors: Mapping[str, Array], i: int, k: int, steps: int) -> State:
    """Return the state of parameter ``i`` in row ``k``; the rows that are missing are the first."""
    prefix = f"state.{i}."
    named = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
    return {name: x[k - steps + len(x)] for name, x in named.items() if k >= steps - len(x)}


class Collected(NamedTuple):
    """What could be run, and what was said of the rest: by a case's name the reason, the error, or what is unlike."""

    evidence: list[Evidence]
    not_run: dict[str, str]
    raised: dict[str, str]
    unlike: dict[str, str]


def collect(jobs: Iterable[run.Job]) -> Collected:
    """Run cases on a black box; what it raises is kept as a text."""
    found = Collected([], {}, {}, {})
    for job in jobs:
        name = f"{job.case.id} in {job.dtype}"
        try:
            implementation = job.make()
            reason = adapters.why_not(implementation, job.case, job.dtype) or run.lacking(job.dtype)
            if reason:
                found.not_run[name] = reason
                continue
            tensors = run.execute(implementation, job.case, job.dtype).tensors
            if wrong := _misshapen(job.case, tensors):
                found.unlike[name] = wrong
                continue
            found.evidence.append(ran(job.case, job.dtype, tensors))
        except KeyboardInterrupt:
            raise
        except adapters.Unsupported as error:
            found.not_run[name] = str(error)
        except BaseException as error:  # what an implementation raises must not end the search
            found.raised[name] = run.raised_at(error)
    return found


def _misshapen(case: Case, tensors: Mapping[str, Array]) -> str:
    """Say which parameter is missing, or has another shape than it was given."""
    for i, shape in enumerate(case.shapes):
        x = tensors.get(f"param.{i}")
        if x is None or x.shape[1:] != tuple(shape):
            return f"param.{i} {'is missing' if x is None else f'has the shape {x.shape[1:]}, expected {tuple(shape)}'}"
    return ""


def of_file(path: Path) -> Evidence:
    """Read a trajectory file as evidence.

    Raises:
        GoldenError: it is none, or holds another thing than the trajectory of an optimizer that takes gradients.
    """
    header, tensors = formats.read(path)
    require("scheduler" not in header["case"], f"{path.name} is of a scheduler")
    case = tasks.check(header["case"])
    wanted = {f"param.{i}": (case.dtypes[0], (case.steps + 1, *shape)) for i, shape in enumerate(case.shapes)}
    for key, layout in wanted.items():
        found = layout_of(tensors[key]) if key in tensors else None
        require(found == layout, f"{path.name} has no {key} of dtype {layout[0]} and shape {layout[1]}")
    rows = {key: x[1:] if key in wanted else x for key, x in tensors.items()}
    fits = all(len(x) == case.steps for key, x in rows.items() if key.startswith(("param.", "state.")))
    require(fits, f"{path.name} has arrays of other lengths than {case.steps} steps")
    return ran(case, case.dtypes[0], {key: x for key, x in rows.items() if key.startswith(("param.", "state."))})


def of_suite(folder: Path, patterns: Sequence[str] = (), dtypes: Sequence[str] = ()) -> Iterator[Evidence]:
    """Read the results that lie in an exported suite as evidence."""
    for each, tensors in export.results(folder, patterns, dtypes):
        yield ran(each.case, each.dtype, tensors)
