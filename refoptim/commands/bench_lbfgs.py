"""Measures evaluations of LBFGS with a long history on a short vector: the reference, the kernels, and torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

import refoptim

from ..conformance.gradients import np_dtype
from ..numerics.arith import Array
from .measure import WARM_UP, Case, Result, Step, differs, in_turn, seconds_of

EVALS, HISTORY = 20, 100
"""Evaluations of a step, and pairs in the history: full after the steps that are not timed."""


@dataclass(frozen=True)
class Evaluation(Case):
    """An evaluation by an optimizer that calls a closure, and what it decides upon it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the optimizer, torch's and ours: nothing ends a step early."""
        return {"lr": 1e-4, "max_iter": EVALS, "history_size": HISTORY, "tolerance_grad": 0, "tolerance_change": 0}

    @property
    def torch_path(self) -> str:
        """Torch has its default way only."""
        return ""


def run(case: Case, engines: dict[str, dict[str, Any]], repeats: int) -> Result:
    """Measure an evaluation with engines, given with the settings that choose them, and with torch's."""
    ours = {name: _ours(case, chosen) for name, chosen in engines.items()}
    if "host" in ours:
        _check(case, engines["host"])
    steps = {name: step for name, (step, _) in ours.items()}
    if find_spec("torch"):
        steps["torch"] = _torch(case)
    seconds = in_turn(steps, lambda step, n: seconds_of(step, n) / EVALS, repeats)
    return Result(case, seconds, 0, {})


def problem(case: Case) -> tuple[Array, Array, Callable[[], float]]:
    """Return parameters, their gradients and a closure: minus a sum of logarithms, which falls for ever."""
    x, weights = np.ones(case.size, np_dtype(case.dtype)), np.linspace(0.5, 2, case.size, dtype=np_dtype(case.dtype))
    g = np.zeros_like(x)

    def closure() -> float:
        np.divide(-weights, x, out=g)
        return -float(weights @ np.log(x))

    return x, g, closure


def _ours(case: Case, chosen: dict[str, Any]) -> tuple[Step, Array]:
    x, g, closure = problem(case)
    optimizer = getattr(refoptim, case.optimizer)([refoptim.Parameter(x, g)], **case.settings, **chosen)
    return lambda: optimizer.step(closure), x


def _torch(case: Case) -> Step:
    torch: Any = import_module("torch")
    x, g, closure = problem(case)
    p = torch.from_numpy(x).requires_grad_()
    p.grad = torch.from_numpy(g)
    optimizer = getattr(torch.optim, case.optimizer)([p], **case.settings)
    return lambda: optimizer.step(lambda: torch.tensor(closure()))


def _check(case: Case, chosen: dict[str, Any]) -> None:
    """Raise RuntimeError unless steps of kernels, with a full history, are the reference's."""
    ends = []
    for settings in ({"fused": None}, chosen):
        step, x = _ours(case, settings)
        for _ in range(WARM_UP):
            step()
        ends.append(x.tobytes())
    if ends[0] != ends[1]:
        raise differs(case)
