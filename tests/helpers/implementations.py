"""Implementations for the conformance suite: one that is right, and some that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from refoptim.conformance import cases, run
from refoptim.conformance.adapters import Adapter
from refoptim.conformance.reference import Reference
from refoptim.conformance.run import Result


class Plain(Adapter):
    """Gradient descent in one expression, written for these tests: no state, no momentum."""

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self.h = hyper
        self.p = [p.copy() for p in parameters]

    def why_not(self, case: cases.Case, dtype: str) -> str | None:
        known = case.id == "sgd-plain" and dtype == "float64"
        return None if known else "plain descent in float64 alone"

    def step(self, grads: Any) -> None:
        h = self.h
        self.p = [p + -h["lr"] * (g + h["weight_decay"] * p) for p, g in zip(self.p, grads, strict=True)]

    def parameters(self) -> Any:
        return self.p


class Late(Plain):
    """Wrong by one number in the last element from step 7 on."""

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        super().make(optimizer, hyper, parameters)
        self.steps = 0

    def step(self, grads: Any) -> None:
        super().step(grads)
        self.steps += 1

    def parameters(self) -> Any:
        p, matrix, number = self.p
        moved = matrix.copy()
        moved[2, 3] = np.nextafter(moved[2, 3], np.inf) if self.steps >= 7 else moved[2, 3]
        return [p, moved, number]


class Loses(Reference):
    """refoptim that forgets to say a part of its state."""

    def state(self) -> Any:
        return [{k: x for k, x in s.items() if k != "exp_avg_sq"} for s in super().state()]


def named(cls: type) -> str:
    """Return what names an implementation on the command line."""
    return f"{cls.__module__}:{cls.__name__}"


class Prints(Plain):
    """Plain descent that talks."""

    def step(self, grads: Any) -> None:
        print("a step")
        super().step(grads)


CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}


def results(name: str, pattern: str = "", dtypes: tuple[str, ...] = ()) -> list[Result]:
    return [result for job in run.jobs(name, pattern, dtypes) for result in run.perform(job)]
