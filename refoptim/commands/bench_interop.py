"""Measures refoptim's steps on tensors of torch against torch's own, in turn, with new gradients for each step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import refoptim

from ..engines import host
from .bench_cpu import tensor
from .measure import Case, Result, Step, bytes_moved, check_outcome, drawn, expected, in_turn, torch_step

WAYS = ("plain", "front")
"""Ours: the classes of ``refoptim`` made of tensors, and those of ``refoptim.interop.torch``."""


class Renewed:
    """A step before which every tensor gets a new gradient, as backward gives it one; that is not timed."""

    def __init__(self, step: Step, parameters: Sequence[Any]) -> None:
        self.step, self.parameters = step, parameters
        self.grads = [[p.grad for p in parameters], [p.grad.clone() for p in parameters]]

    def __call__(self) -> Any:
        """Take the step."""
        return self.step()

    def renew(self) -> None:
        """Give every tensor a gradient that is a new object, in other memory than the last one."""
        self.grads.reverse()
        for p, grad in zip(self.parameters, self.grads[0], strict=True):
            p.grad = grad.view(-1)


def seconds_of(step: Any, n: int) -> float:
    """Take a step so many times, with new gradients each time, and return the seconds that the steps took."""
    seconds = 0.0
    for _ in range(n):
        step.renew()
        start = time.perf_counter()
        step()
        seconds += time.perf_counter() - start
    return seconds


def check() -> None:
    """Raise RuntimeError unless torch and the kernels for this computer are there."""
    if find_spec("torch") is None:
        raise RuntimeError("torch is not installed")
    host.machine()


def run(case: Case, repeats: int) -> Result:
    """Measure a case: our two ways and torch's fastest."""
    seeds = [(i, i + case.tensors) for i in range(case.tensors)]
    wanted = expected(case, seeds)
    steps: dict[str, Step] = {}
    for way in WAYS:
        parameters = _parameters(case, seeds)
        optimizer = _optimizer(case, way, parameters)
        inner: refoptim.Optimizer = getattr(optimizer, "_inner", optimizer)
        check_outcome(case, optimizer.step, inner, wanted)
        steps[way] = Renewed(optimizer.step, parameters)
    parameters = _parameters(case, seeds)
    grads = [p.grad for p in parameters]
    steps["torch"] = Renewed(torch_step(case, parameters, grads, case.torch_path), parameters)
    return Result(case, in_turn(steps, seconds_of, repeats), bytes_moved(inner), {})


def _parameters(case: Case, seeds: Sequence[tuple[int, int]]) -> list[Any]:
    """Return tensors that have gradients."""
    parameters = []
    for i, j in seeds:
        parameters.append(tensor(drawn(i, case.size, case.dtype)).requires_grad_())
        parameters[-1].grad = tensor(drawn(j, case.size, case.dtype))
    return parameters


def _optimizer(case: Case, way: str, parameters: Sequence[Any]) -> Any:
    room: Any = refoptim if way == "plain" else import_module("refoptim.interop.torch")
    return getattr(room, case.optimizer)(parameters, **case.settings, fused=True)
