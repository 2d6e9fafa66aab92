"""What SequentialLR and ChainedScheduler share: they are made of other schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, SupportsFloat

from .base import LRScheduler
from .measured import MeasuredScheduler
from .reduce_lr_on_plateau import ReduceLROnPlateau, real


class Composite(MeasuredScheduler):
    """Base of the schedulers made of schedulers."""

    _rates = LRScheduler._rates | {"_schedulers"}

    _schedulers: list[LRScheduler]

    def step(self, metrics: SupportsFloat | None = None) -> None:
        """Go to the next epoch and set its learning rates; to be called after ``optimizer.step()``.

        Args:
            metrics: the metric of the epoch, for a member that is a ReduceLROnPlateau; the others do not look at it.

        Raises:
            TypeError: ``metrics`` is no number, is missing where a ReduceLROnPlateau steps, or no member is one.
            ValueError: a schedule has no learning rate there.
                Nothing has changed then, in each case.
        """
        if metrics is not None and not takes_metrics(self):
            raise TypeError(f"step takes no metrics: this {type(self).__name__} has no ReduceLROnPlateau as a member")
        metric = None if metrics is None else real(metrics)
        self._check_order()
        with self._trial() as trial:
            trial._go(metric)

    def _go(self, metric: Any) -> None:
        self._step_count += 1
        self._resumed = False
        self._advance(metric)

    def _advance(self, metric: Any) -> None:
        """Go to the next epoch."""
        raise NotImplementedError

    def _rewind(self) -> None:
        super()._rewind()
        for scheduler in self._schedulers:
            scheduler._rewind()


def members(name: str, schedulers: Any, optimizer: Any, none: str) -> list[LRScheduler]:
    """Return the schedulers of a composite as a list, or raise TypeError or ValueError."""
    if not isinstance(schedulers, Sequence):
        raise TypeError(f"{name} expects a list of schedulers, got {type(schedulers).__name__}")
    if not schedulers:
        raise ValueError(f"{name} expects at least one scheduler{none}, but got no scheduler.")
    for i, scheduler in enumerate(schedulers):
        _check_member(name, i, scheduler, optimizer)
    found = [id(x) for scheduler in schedulers for x in all_of(scheduler)]
    if len(set(found)) < len(found):
        raise ValueError(f"{name} expects different schedulers, but one of them is given twice")
    return list(schedulers)


def all_of(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """Yield a scheduler and those it is made of, at any depth."""
    yield scheduler
    for member in scheduler._schedulers:
        yield from all_of(member)


def takes_metrics(scheduler: LRScheduler) -> bool:
    """Tell whether a scheduler is, or is made of, a ReduceLROnPlateau."""
    return any(isinstance(x, ReduceLROnPlateau) for x in all_of(scheduler))


def _check_member(name: str, i: int, scheduler: Any, optimizer: Any) -> None:
    if not isinstance(scheduler, LRScheduler):
        got = type(scheduler).__name__
        raise TypeError(
            f"{name} at index {i} should have `optimizer` as its attribute, as an LRScheduler has: got {got}"
        )
    if scheduler.optimizer is not (optimizer or scheduler.optimizer):
        raise ValueError(
            f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
            f"{type(scheduler).__name__} at index {i} with another one than {type(optimizer).__name__}."
        )
