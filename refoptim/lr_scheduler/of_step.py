"""Bases of schedules that are a function of the step alone, most of them with a warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from ..step.groups import Group
from ..step.hyper import Count, Interval, Real
from .base import LR, LRScheduler

WarmupSteps = Annotated[int, Count("the steps of the warm-up", interval=Interval("[0, inf)"))]
TrainingSteps = Annotated[int, Count("the steps of the whole run, warm-up included", interval=Interval("[0, inf)"))]
Cycles = Annotated[float, Real("how many cosines there are, of which 0.5 falls once")]


class OfStep(LRScheduler):
    """A schedule whose closed form is its definition: ``_rate`` is the learning rate after ``n`` calls of ``step``."""

    _recursive = False
    _takes_epochs = True

    def _rate(self, n: float, i: int) -> LR:
        """Return the learning rate of group ``i`` after ``n`` steps; ``n`` may be a fraction."""
        raise NotImplementedError

    def _check(self) -> None:
        """Raise ValueError unless the arguments fit together, and to the base learning rates."""

    def _next(self, lr: LR, i: int) -> LR:
        return self._rate(self.last_epoch, i)

    def _join(self, group: Group, i: int) -> None:
        super()._join(group, i)
        self._check()

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        super()._load_values(own, state)
        self._check()


class Warmup(OfStep):
    """A factor of ``base_lr`` that rises from 0 to 1 in ``num_warmup_steps`` steps, and what follows."""

    num_warmup_steps: int

    def _rate(self, n: float, i: int) -> LR:
        base_lr = self.base_lrs[i]
        return base_lr * (self._rise(n) if n < self.num_warmup_steps else self._after(n, base_lr))

    def _rise(self, n: float) -> float:
        """Return the factor during the warm-up."""
        return n / max(1, self.num_warmup_steps)

    def _after(self, n: float, base_lr: LR) -> LR:
        """Return the factor after the warm-up."""
        raise NotImplementedError


class TrainingWarmup(Warmup):
    """A warm-up, and a decay until ``num_training_steps``."""

    num_training_steps: int

    def _way(self, n: float) -> float:
        """Return the part of the decay that has passed, above 1 after its end."""
        return (n - self.num_warmup_steps) / max(1, self.num_training_steps - self.num_warmup_steps)
