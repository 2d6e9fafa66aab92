"""Steps that repeat the last one, beside steps that are planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers.rooms import assert_equal_runs
from refoptim import Optimizer


class Runs:
    """Two equal runs, of which one plans every step."""

    def __init__(self, make_one: Callable[[], Optimizer], plans: list[Any]) -> None:
        self.one, self.planned, self.plans = make_one(), make_one(), plans

    def step(self, grads: Any, **more: Any) -> int:
        """Step both, and return how often the first has made a plan."""
        self.planned._repeat = None
        self.planned.step(grads=grads, **more)
        self.plans.clear()
        self.one.step(grads=grads, **more)
        return len(self.plans)

    def both(self, change: Callable[[Any], None]) -> None:
        """Change both."""
        change(self.one)
        change(self.planned)

    def check(self) -> None:
        assert_equal_runs(self.one, self.planned)
