"""Measures steps against torch's, in turn and in the same process."""

from __future__ import annotations

import importlib
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import refoptim

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A step to measure: an optimizer, its settings, and how many tensors of how many float32 elements."""

    name: str
    optimizer: str
    settings: dict[str, Any]
    tensors: int
    size: int


@dataclass(frozen=True)
class Result:
    """Median seconds of a step, ours and torch's (None where torch is not installed), and our extra memory in bytes."""

    case: Case
    ours: float
    torch: float | None
    extra_memory: int

    @property
    def ratio(self) -> float | None:
        """Our time over torch's."""
        return None if self.torch is None else self.ours / self.torch


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
    "ASGD": {},
}


def cases(size: int, tensors: int, small: int) -> list[Case]:
    """Return one large tensor and many small ones for each elementwise optimizer."""
    large = [Case(f"{name}, 1 x {size:,}", name, settings, 1, size) for name, settings in OPTIMIZERS.items()]
    many = [
        Case(f"{name}, {tensors:,} x {small:,}", name, settings, tensors, small)
        for name, settings in OPTIMIZERS.items()
    ]
    return large + many


def run(case: Case, threads: int, repeats: int) -> Result:
    """Time a case: our step and torch's take turns, after one step each to warm up."""
    refoptim.set_num_threads(threads)
    arrays = [np.zeros(case.size, np.float32) for _ in range(case.tensors)]
    ours = _our_step(case, arrays)
    steps = [step for step in (ours, _torch_step(case, threads)) if step is not None]
    times = [statistics.median(column) for column in zip(*_rounds(steps, repeats), strict=True)]
    return Result(case, times[0], times[1] if len(times) > 1 else None, _extra_memory(ours))


def _rounds(steps: list[Step], repeats: int) -> Iterator[list[float]]:
    for step in steps:
        step()
    for _ in range(repeats):
        yield [_seconds(step) for step in steps]


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _gradients(case: Case) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(case.size, dtype=np.float32) for _ in range(case.tensors))


def _our_step(case: Case, arrays: list[Any]) -> Step:
    parameters = [refoptim.Parameter(x, grad) for x, grad in zip(arrays, _gradients(case), strict=True)]
    foreach = True if case.tensors > 1 else None
    optimizer: refoptim.Optimizer = getattr(refoptim, case.optimizer)(parameters, foreach=foreach, **case.settings)
    return optimizer.step


def _torch_step(case: Case, threads: int) -> Step | None:
    """Return torch's default step, its for-loop over tensors."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(threads)
    parameters = [torch.zeros(case.size, requires_grad=True) for _ in range(case.tensors)]
    for parameter, grad in zip(parameters, _gradients(case), strict=True):
        parameter.grad = torch.from_numpy(grad)
    step: Step = getattr(torch.optim, case.optimizer)(parameters, **case.settings).step
    return step


def _extra_memory(step: Step) -> int:
    """Return the peak of what a step allocates, in bytes."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
