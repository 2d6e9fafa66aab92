"""What SequentialLR and ChainedScheduler share: they are made of other schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .base import LRScheduler
from .reduce_lr_on_plateau import ReduceLROnPlateau


class Composite(LRScheduler):
    """Base of the schedulers made of schedulers."""

    _schedulers: list[LRScheduler]

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch and set its learning rates; to be called after ``optimizer.step()``.

        Raises:
            ValueError: a schedule has no learning rate there. Nothing has changed then.
        """
        super().step()

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
    found = [id(x) for scheduler in schedulers for x in _all(scheduler)]
    if len(set(found)) < len(found):
        raise ValueError(f"{name} expects different schedulers, but one of them is given twice")
    return list(schedulers)


def _all(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    yield scheduler
    for member in scheduler._schedulers:
        yield from _all(member)


def _check_member(name: str, i: int, scheduler: Any, optimizer: Any) -> None:
    if not isinstance(scheduler, LRScheduler):
        got = type(scheduler).__name__
        raise TypeError(
            f"{name} at index {i} should have `optimizer` as its attribute, as an LRScheduler has: got {got}"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be specified "
            f"when calling `step`, but got one at index {i} in the given schedulers sequence."
        )
    if scheduler.optimizer is not (optimizer or scheduler.optimizer):
        raise ValueError(
            f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
            f"{type(scheduler).__name__} at index {i} with another one than {type(optimizer).__name__}."
        )
