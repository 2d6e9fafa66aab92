"""What benchmarks share: the steps to measure, the numbers they work on, their turns, the bytes they must move."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from typing import Any

import numpy as np

import refoptim

from ..conformance.cases import matches
from ..conformance.cases import witness as witness_of
from ..conformance.gradients import np_dtype
from ..conformance.oracle import imported, in_training
from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.rule import Rule, has_own, is_measured
from . import describe


def is_elementwise(rule: type[Rule]) -> bool:
    """Tell whether a rule has an array half, and no sums over elements."""
    return has_own(rule, "update") and not is_measured(rule)


Step = Callable[[], Any]

Clock = Callable[[Step, int], float]
"""Takes a step so many times and returns the seconds that all of them took."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "Adam": {},
    "AdamW": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "Adadelta": {},
    "Adagrad": {},
    "RMSprop": {},
    "Rprop": {},
    "ASGD": {"t0": 0.0},
    **{x.__name__: {} for x in describe.optimizers() if not x.of_torch and is_elementwise(x)},
    **{name: {"block_size": 128} for name in ("Adam8bit", "AdamW8bit")},
}
"""The rules without sums, with settings that make each use all its state: ASGD averages from the start, and the blocks
of codes divide the sizes that are measured."""

OF_TORCH = tuple(name for name in OPTIMIZERS if getattr(refoptim, name).of_torch)
"""Those that can be measured beside torch's."""

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
"""Those for which torch has fused kernels."""

WARM_UP = 6
"""Steps before any is timed: by then RAdam has left its first, shorter form."""

TURN, MOST = 0.02, 50
"""Seconds that a turn takes about, of one step at least and of so many at most."""

PERIOD = 1 << 20
"""Numbers that are drawn; larger arrays repeat them."""


@dataclass(frozen=True)
class Case:
    """A step to measure: an optimizer, and so many tensors of so many elements."""

    optimizer: str
    dtype: str
    tensors: int
    size: int

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.dtype}, {self.tensors:,} x {self.size:,}"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the optimizer, torch's and ours."""
        return OPTIMIZERS[self.optimizer]

    @property
    def torch_path(self) -> str:
        """The fastest way that torch has for this optimizer; "" for one that it does not have."""
        if self.optimizer in OPTIMIZERS.keys() - {*OF_TORCH}:
            return ""
        return "fused" if self.optimizer in FUSED else "foreach"


@dataclass(frozen=True)
class Result:
    """What was measured of a case.

    Attributes:
        seconds: the median of each contender.
        bytes: what a step must move: every array that it reads or writes, once for each.
        extra: the bytes that a step of each of ours takes beyond parameters, gradients and state.
        state: the bytes of the state.
    """

    case: Case
    seconds: dict[str, float]
    bytes: int
    extra: dict[str, int]
    state: int = 0

    @property
    def state_of_adam(self) -> float:
        """The bytes of the state over those of Adam's, which has two arrays like the parameter."""
        elements = self.case.tensors * self.case.size
        return self.state / (2 * elements * int(np_dtype(self.case.dtype).itemsize))

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Return the time of one contender over that of another, None if one was not measured."""
        return self.seconds[ours] / self.seconds[theirs] if {ours, theirs} <= self.seconds.keys() else None

    def share(self, ours: str, copy: float) -> float | None:
        """Return the bytes per second that must move over those that a copy moves, None if it was not measured."""
        return self.bytes / self.seconds[ours] / copy if ours in self.seconds else None


def cases(
    pattern: str,
    shapes: Iterable[tuple[str, int, int]],
    more: Iterable[Case] = (),
    names: Iterable[str] = tuple(OPTIMIZERS),
) -> list[Case]:
    """Return the cases of elementwise rules, all or those named, and of others that a glob describes.

    A shape is dtype, tensors, elements.
    """
    found = [*(Case(name, *shape) for shape in shapes for name in names), *more]
    chosen = [case for case in found if matches(pattern, str(case), case.optimizer)]
    if not chosen:
        raise ValueError(f"no case matches {pattern!r}: they are named like {str(found[0])!r}")
    return chosen


def drawn(seed: int, size: int, dtype: str) -> Array:
    """Draw numbers whose magnitudes lie between 1/2 and 2: neither they nor their squares' averages are subnormal."""
    rng = np.random.default_rng(seed)
    period = rng.uniform(0.5, 2, min(size, PERIOD)) * rng.choice([-1, 1], min(size, PERIOD))
    return np.resize(period.astype(np_dtype(dtype)), size)


def expected(case: Case, seeds: Iterable[tuple[int, int]]) -> list[Array]:
    """Return the outcome of two steps of the reference, from parameters and gradients that are drawn, a period of each.

    16-bit numbers are rounded as kernels round them.
    """
    pairs = [[drawn(seed, min(case.size, PERIOD), case.dtype) for seed in pair] for pair in seeds]
    parameters, grads = ([*column] for column in zip(*pairs, strict=True))
    optimizer = getattr(refoptim, case.optimizer)(parameters, **case.settings)
    with refoptim.rounding("store"):
        for _ in range(2):
            optimizer.step(grads=grads)
    return outcome(optimizer)


def outcome(optimizer: Optimizer) -> list[Array]:
    """Return each parameter, followed by its state."""
    return [x for p in optimizer.param_groups[0]["params"] for x in (p.data, *state_arrays(optimizer, p))]


def check_outcome(case: Case, step: Step, optimizer: Optimizer, wanted: Sequence[Array]) -> None:
    """Take two steps, and raise RuntimeError unless an optimizer has the outcome that is wanted then."""
    for _ in range(2):
        step()
    for found, x in zip(outcome(optimizer), wanted, strict=True):
        if not np.array_equal(found, np.resize(x, case.size)):
            raise differs(case)


def differs(case: Case) -> RuntimeError:
    """Return the error that a step is not what it is measured as."""
    return RuntimeError(f"{case}: a step of the kernels is not the reference's, so that its time would mean nothing")


def seconds_of(step: Step, n: int) -> float:
    """Take a step so many times and return the seconds that all of them took."""
    start = time.perf_counter()
    for _ in range(n):
        step()
    return time.perf_counter() - start


def in_turn(steps: Mapping[str, Step], clock: Clock, repeats: int, sets: int = 1) -> dict[str, float]:
    """Return the median seconds of each step; they take turns, in one order and then in the other.

    A step that works on several sets of arrays, one after the other, is warmed up on each.
    """
    for step in steps.values():
        clock(step, WARM_UP * sets)
    counts = {name: min(MOST, max(1, ceil(TURN / max(clock(step, 1), 1e-9)))) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            seconds[name].append(clock(steps[name], counts[name]) / counts[name])
    return {name: statistics.median(x) for name, x in seconds.items()}


def bytes_moved(optimizer: Optimizer) -> int:
    """Return the bytes that a step must move: parameters and state are read and written, gradients read."""
    return 3 * size_of(p.data for p in optimizer.param_groups[0]["params"]) + 2 * state_bytes(optimizer)


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of all arrays of the state."""
    kept = (x for p in optimizer.param_groups[0]["params"] for x in optimizer.state[p].values())
    return size_of(x for x in kept if getattr(x, "ndim", 0))


def size_of(arrays: Iterable[Any], unit: int = 1) -> int:
    """Return the bytes of arrays, those of each rounded up to a multiple of ``unit``."""
    return sum(ceil(x.nbytes / unit) * unit for x in arrays)


def state_arrays(optimizer: Optimizer, parameter: Any) -> list[Any]:
    """Return the arrays of the state of a parameter that are as large as itself."""
    return [x for x in optimizer.state[parameter].values() if getattr(x, "shape", None) == parameter.shape]


def torch_class(case: Case) -> Callable[..., Any] | None:
    """Return the optimizer to measure beside: torch's, or that of the package that owns the rule, None if not here."""
    if not find_spec("torch"):
        return None
    if case.optimizer not in OPTIMIZERS.keys() - {*OF_TORCH}:
        found: Callable[..., Any] = getattr(import_module("torch").optim, case.optimizer)
        return found
    witness = witness_of(describe.stem(getattr(refoptim, case.optimizer)))
    if witness is None or witness.of_keras or find_spec(witness.cls.partition(":")[0].partition(".")[0]) is None:
        return None
    return partial(imported(witness.cls, witness.bare), **witness.given)


def torch_step(case: Case, parameters: Sequence[Any], grads: Sequence[Any], path: str = "") -> Step:
    """Return a step of ``torch_class``, on tensors of torch's: its default path or the one that is named."""
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    chosen = {path: True} if path else {}
    made = torch_class(case)
    if made is None:
        raise RuntimeError(f"there is nothing to measure {case.optimizer} beside")
    optimizer = in_training(made(parameters, **case.settings, **chosen))
    if getattr(refoptim, case.optimizer).takes_estimates:  # the witness makes its own unless the first step has some
        witness = witness_of(describe.stem(getattr(refoptim, case.optimizer)))
        optimizer.step(**{witness.estimates: list(grads)} if witness else {})
    step: Step = optimizer.step
    return step
