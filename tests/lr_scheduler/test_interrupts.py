"""An interrupt at any line of the package leaves groups and schedulers all as they were, or all changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.faults import Interrupt, Lines, raised, traced
from helpers.schedulers import MAKE, Decay, step
from refoptim import lr_scheduler as lrs

STRIDE = 7
"""Every seventh line is tried; the first of them differs from scheduler to scheduler."""


def optimizer() -> Any:
    """An SGD, one of whose learning rates an array holds."""
    groups = [{"params": [np.zeros(1)], "lr": np.array(0.5)}, {"params": [np.zeros(1)], "lr": 0.25}]
    made: Any = refoptim.SGD(groups, momentum=0.9)
    made._opt_called = True
    return made


def moved(name: str, rate: float, steps: int) -> Any:
    scheduler = MAKE[name](optimizer(), rate)
    for _ in range(steps):
        step(scheduler)
    return scheduler


def held(optimizer: Any) -> Any:
    return [
        {key: np.array(x).tolist() for key, x in group.items() if key != "params"} for group in optimizer.param_groups
    ]


def state(scheduler: Any) -> Any:
    """Everything that a scheduler and its optimizer hold."""
    return held(scheduler.optimizer), scheduler.state_dict()


def interrupted(at: int, action: Callable[[], Any]) -> bool:
    """Tell whether an action was interrupted before a line of the package."""
    try:
        with traced(Lines(raised, at)):
            action()
    except Interrupt:
        return True
    return False


def tries(first: int, build: Callable[[], Any], act: Callable[[Any], Any]) -> Iterator[Any]:
    """Interrupt ``act`` at ever later lines, until it is done before; yield what it was done to."""
    for at in count(1 + first, STRIDE):
        subject = build()
        if not interrupted(at, partial(act, subject)):
            return
        yield subject


def check_every(build: Callable[[], Any], act: Callable[[Any], Any], see: Callable[[Any], Any], first: int) -> int:
    """Interrupt ``act`` again and again; what is seen is what was before, or what is after. Count the tries."""
    subject = build()
    old = see(subject)
    act(subject)
    new = see(subject)
    assert old != new
    seen = [see(subject) for subject in tries(first, build, act)]
    assert all(x in (old, new) for x in seen)
    return len(seen)


@pytest.mark.parametrize("name", MAKE)
def test_steps(name: str) -> None:
    first = list(MAKE).index(name) % STRIDE
    for steps in (0, 2):
        assert check_every(partial(moved, name, 0.5, steps), step, state, first) > 5


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", MAKE)
def test_loading(name: str) -> None:
    saved = moved(name, 0.75, 3).state_dict()
    load = lambda scheduler: scheduler.load_state_dict(saved)  # noqa: E731
    assert check_every(partial(moved, name, 0.5, 1), load, state, list(MAKE).index(name) % STRIDE) > 10


@pytest.mark.parametrize("name", MAKE)
def test_constructors(name: str) -> None:
    """A member changes the groups before the composite does, so there are more than two states of groups."""
    whole = optimizer()
    own, real = [], refoptim.lr_scheduler.base.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refoptim.lr_scheduler.base, "make", lambda changes: (real(changes), own.append(held(whole))))
        states = [held(whole)]
        MAKE[name](whole, 0.5)
    first = list(MAKE).index(name) % STRIDE
    seen = [held(subject) for subject in tries(first, optimizer, lambda subject: MAKE[name](subject, 0.5))]
    assert all(x in [*states, *own] for x in seen)
    assert len(seen) > 10 and own


def test_a_group_that_joins_and_one_that_left() -> None:
    def build() -> Any:
        scheduler = lrs.LambdaLR(optimizer(), Decay(0.5))
        scheduler.optimizer.param_groups.pop(0)
        scheduler.optimizer.add_param_group({"params": [np.zeros(1)], "lr": np.array(4.0)})
        return scheduler

    def see(scheduler: Any) -> Any:
        return held(scheduler.optimizer), scheduler.base_lrs, len(scheduler._groups)

    assert check_every(build, step, see, 0) > 10


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    made = optimizer()
    made._opt_called = False
    scheduler = lrs.StepLR(made, 1)
    before = state(scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"before `optimizer.step\(\)`"):
            scheduler.step()
    assert state(scheduler) == before


def test_an_undo_is_made_for_all_members_or_none() -> None:
    def build() -> Any:
        return moved("SequentialLR", 0.5, 1)

    def see(scheduler: Any) -> Any:
        return [x.last_epoch for x in scheduler._schedulers]

    subject = build()
    epochs = see(subject)
    subject.recursive_undo()
    assert see(subject) == [epoch - 1 for epoch in epochs]
    assert check_every(build, lambda scheduler: scheduler.recursive_undo(), see, 0) > 0
