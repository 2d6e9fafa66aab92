"""ChainedScheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..optimizers.base import Optimizer
from .base import LRScheduler
from .composite import Composite, members, takes_metrics
from .stage import write_lr


class ChainedScheduler(Composite):
    """Steps several schedulers at once, one after the other, so that those that multiply multiply together.

    .. code-block:: text

        lr(e) = what the members make, one after another, of the last lr

    Members may be sequences and chains themselves, or a ReduceLROnPlateau: ``step`` then takes the metric of the epoch.
    If all members were constructed with ``last_epoch=N``, the chain
    continues where an uninterrupted chain would after its epoch N.

    Args:
        schedulers: the members, in the order in which they step.
        optimizer: theirs; None takes it from the first.
    """

    _optional = Composite._optional | {"last_epoch"}

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._schedulers = members(type(self).__name__, schedulers, optimizer, " to be chained")
        optimizer = optimizer or self._schedulers[0].optimizer
        members(type(self).__name__, schedulers, optimizer, "")
        super().__init__(optimizer)

    def _begin(self, last_epoch: int) -> None:
        """Take the members where they are; put them and the groups together where all were constructed to continue."""
        if takes_metrics(self) and any(scheduler._resumed for scheduler in self._schedulers):
            raise ValueError(
                "a chain with a ReduceLROnPlateau cannot be continued by the last_epoch of its members: "
                "begin with last_epoch=-1 and load its state dict"
            )
        self.last_epoch, self.base_lrs, self._starts = -1, [], []
        self._admit()
        epoch = self._schedulers[0].last_epoch
        if any(scheduler.last_epoch for scheduler in self._schedulers):
            past = self._copy()
            past._starts = past._schedulers[0]._starts
            past._set_starts(-1)
            past._initial_step()
            self._starts = past._starts
        self.last_epoch, self._step_count = epoch, epoch + 1
        self._resumed = all(scheduler._resumed for scheduler in self._schedulers)
        if self._resumed:
            self._replay(epoch)
            self._resumed = True
        self._note()

    def _restart(self) -> None:
        starts = self._starts
        self._initial_step()
        self._starts = starts
        self._set_starts(-1)
        self._note()

    def _initial_step(self) -> None:
        for scheduler in self._schedulers:
            scheduler._initial_step()
        self.last_epoch, self._step_count = 0, 1
        self._note()
        self._starts = [[-1, lr] for lr in self._last_lr]

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is None:
            self._advance(math.nan)
        else:
            self._admit()
            for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                write_lr(group, base_lr)
            self._initial_step()

    def _advance(self, metric: Any) -> None:
        self._admit()
        for scheduler in self._schedulers:
            scheduler._go(metric)
        self.last_epoch += 1
        self._note()

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        if "last_epoch" not in state:
            self.last_epoch = self._schedulers[0].last_epoch
