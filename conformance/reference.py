"""refoptim itself as an implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import refoptim
from refoptim.numerics.arith import Array

from .trajectory import State


class Reference:
    """refoptim's optimizers on NumPy arrays."""

    is_cautious = True

    def rule(self, optimizer: str) -> Any:
        """Return the class of an optimizer."""
        return getattr(refoptim, optimizer)

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        self._arrays = [np.array(p) for p in parameters]
        self._build: Callable[[], Any] = partial(self.rule(optimizer), self._arrays, **hyper)
        self._optimizer = self._build()

    def set(self, hyper: Mapping[str, Any]) -> None:
        self._optimizer.param_groups[0].update(hyper)

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        self._optimizer.step(grads=grads, estimates=estimates)

    def resume(self) -> None:
        saved = self._optimizer.state_dict()
        self._optimizer = self._build()
        self._optimizer.load_state_dict(saved)

    def parameters(self) -> list[Array]:
        return self._arrays

    def state(self) -> list[State]:
        state = self._optimizer.state
        return [dict(state.get(p, {})) for p in self._optimizer.param_groups[0]["params"]]
