"""Measures steps on NumPy arrays, the reference's and the kernels', against torch's, in turn and in one process."""

from __future__ import annotations

import os
import platform
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

import refoptim

from ..engines import host, threads
from ..numerics.arith import Array
from . import bench_lbfgs
from .measure import (
    OF_TORCH,
    OPTIMIZERS,
    Case,
    Result,
    Step,
    bytes_moved,
    cases,
    check_outcome,
    drawn,
    expected,
    in_turn,
    seconds_of,
    state_bytes,
    torch_class,
    torch_step,
)

ENGINES: dict[str, dict[str, Any]] = {"reference": {"fused": None}, "host": {"fused": True}}
"""Who runs our steps, and the setting that chooses it."""

CACHED = 400_000
"""Elements that lie in a cache, with their state."""

LARGE = 10_000_000
"""Elements that no cache holds."""

OF_PACKAGES = 0.5
"""What kernels are to reach of the step of the package that owns a rule which torch does not have, with ``LARGE``."""

Goals = dict[tuple[int, int], dict[str, float]]
"""Ratios to torch by tensors and elements, and by rule; under "" for all others."""

GOALS: dict[str, Goals] = {
    "reference": {
        (1, 10): {"SGD": 1.0, "Adam": 1.0},
        (100, 10): {"SGD": 1.0, "Adam": 1.0},
        (1, 60): {"LBFGS": 1.2},
    },
    "host": {
        (1, 10): {"SGD": 1.0, "Adam": 1.0},
        (100, 10): {"SGD": 1.0, "Adam": 1.0},
        (1000, 100): {"SGD": 0.45, "Adam": 0.3, "AdamW": 0.3, "Adagrad": 0.45, "": 0.1},
        (1, CACHED): {"SGD": 0.75, "Adam": 1.0, "AdamW": 1.0, "Adagrad": 1.0, "": 0.3},
        (1, LARGE): {"SGD": 0.85, "Adam": 0.9, "AdamW": 0.9},
        (1, 60): {"LBFGS": 1.0},
    },
}
"""What is to be reached with float32 on one thread: by the reference of torch's default, by kernels of its best."""

PIECE = 1 << 20
"""Bytes that a thread copies in one go."""


@contextmanager
def using(number: int) -> Iterator[int]:
    """Let refoptim and torch use a number of threads inside a ``with`` block, 0 for all; yield the number."""
    before = threads.get_num_threads()
    refoptim.set_num_threads(number)
    number = refoptim.get_num_threads()
    torch: Any = import_module("torch") if find_spec("torch") else None
    torch_before = torch.get_num_threads() if torch else 0
    try:
        if torch:
            torch.set_num_threads(number)
        yield number
    finally:
        refoptim.set_num_threads(before)
        if torch:
            torch.set_num_threads(torch_before)


def surroundings(number: int) -> dict[str, Any]:
    """Return the computer and the versions of what takes part."""
    variant = "" if host.missing() else host.machine().variant
    torch = import_module("torch").__version__ if find_spec("torch") else None
    return {
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "threads": number,
        "kernels": variant or None,
        "refoptim": refoptim.__version__,
        "NumPy": np.__version__,
        "torch": torch,
    }


def copy_speed(nbytes: int, repeats: int) -> float:
    """Return the bytes per second, read and written, of ``np.copyto`` between two arrays, with all threads."""
    source = drawn(0, nbytes // 4, "float32")
    target = np.ones_like(source)
    piece = PIECE // 4
    pieces = [(target[i : i + piece], source[i : i + piece]) for i in range(0, len(source), piece)]

    def step() -> None:
        threads.for_each(lambda: lambda pair: np.copyto(*pair), pieces)

    return 2 * int(source.nbytes) / in_turn({"copy": step}, seconds_of, repeats)["copy"]


def chosen(pattern: str, dtype: str, shapes: Iterable[tuple[int, int]]) -> list[Case]:
    """Return the cases that a glob describes: some shapes, those with goals of their own, and LBFGS."""
    small = [(1, 10), (100, 10), (1, CACHED)]
    wide = [] if dtype in ("float16", "bfloat16") else [bench_lbfgs.Evaluation("LBFGS", dtype, 1, 60)]
    return cases(pattern, [(dtype, *shape) for shape in dict.fromkeys([*shapes, *small])], wide)


def goal(case: Case, engine: str) -> float | None:
    """Return the ratio that is to be reached, None if there is none."""
    if case.optimizer in OPTIMIZERS and case.optimizer not in OF_TORCH:
        return OF_PACKAGES if engine == "host" and case.size == LARGE and case.dtype == "float32" else None
    rules = GOALS[engine].get((case.tensors, case.size), {}) if case.dtype == "float32" else {}
    return rules.get(case.optimizer, rules.get(""))


def run(case: Case, engines: list[str], repeats: int) -> Result:
    """Measure a case with the engines that are named, and with torch's default and fastest paths."""
    if isinstance(case, bench_lbfgs.Evaluation):
        return bench_lbfgs.run(case, {name: ENGINES[name] for name in engines}, repeats)
    seeds = [(i, i + case.tensors) for i in range(case.tensors)]
    data = [(drawn(i, case.size, case.dtype), drawn(j, case.size, case.dtype)) for i, j in seeds]
    ours = {name: _our_optimizer(case, data, name) for name in engines}
    if "host" in ours:
        check_outcome(case, ours["host"].step, ours["host"], expected(case, seeds))
    steps: dict[str, Step] = {name: optimizer.step for name, optimizer in ours.items()}
    if find_spec("torch") and torch_class(case):
        steps["torch"] = _torch_step(case, data)
    if case.torch_path and find_spec("torch"):
        steps[f"torch {case.torch_path}"] = _torch_step(case, data, case.torch_path)
    seconds = in_turn(steps, seconds_of, repeats)
    extra = {name: _extra_memory(optimizer.step) for name, optimizer in ours.items()}
    one = next(iter(ours.values()))
    return Result(case, seconds, bytes_moved(one), extra, state_bytes(one))


def _our_optimizer(case: Case, data: list[tuple[Array, Array]], engine: str) -> refoptim.Optimizer:
    parameters = [refoptim.Parameter(x.copy(), grad) for x, grad in data]
    optimizer: refoptim.Optimizer = getattr(refoptim, case.optimizer)(parameters, **case.settings, **ENGINES[engine])
    return optimizer


def _torch_step(case: Case, data: list[tuple[Array, Array]], path: str = "") -> Step:
    """Return torch's step on the same numbers; its default is a for-loop over tensors."""
    parameters, grads = ([tensor(x) for x in column] for column in zip(*data, strict=True))
    for parameter in parameters:
        parameter.requires_grad_()
    return torch_step(case, parameters, grads, path)


def tensor(x: Array) -> Any:
    """Copy an array to memory of torch's."""
    torch: Any = import_module("torch")
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).clone()
    return torch.from_numpy(x).clone()


def _extra_memory(step: Step) -> int:
    """Return the peak of what a step allocates, in bytes."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
