"""An interrupt at any line of the package leaves groups and schedulers all as they were, or all changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import lr_scheduler as lrs
from refoptim.swa_utils import SWALR

PACKAGE = str(Path(refoptim.__file__).parent)
STRIDE = 7
"""Every seventh line is tried; the first of them differs from scheduler to scheduler."""


class Decay:
    """A function of the epoch whose attribute a state dict holds."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, epoch: int) -> float:
        return self.rate**epoch


def warm_up(o: Any, rate: float) -> Any:
    return lrs.SequentialLR(o, [lrs.LinearLR(o, rate, 1.0, 2), lrs.ReduceLROnPlateau(o, patience=0, factor=0.5)], [2])


MAKE: dict[str, Callable[[Any, float], Any]] = {
    "LambdaLR": lambda o, rate: lrs.LambdaLR(o, [Decay(rate), Decay(rate / 2)]),
    "MultiplicativeLR": lambda o, rate: lrs.MultiplicativeLR(o, Decay(rate)),
    "StepLR": lambda o, rate: lrs.StepLR(o, 2, rate),
    "MultiStepLR": lambda o, rate: lrs.MultiStepLR(o, [1, 3], rate),
    "ConstantLR": lambda o, rate: lrs.ConstantLR(o, rate, 3),
    "LinearLR": lambda o, rate: lrs.LinearLR(o, rate),
    "ExponentialLR": lambda o, rate: lrs.ExponentialLR(o, rate),
    "PolynomialLR": lambda o, rate: lrs.PolynomialLR(o, 9, rate),
    "CosineAnnealingLR": lambda o, rate: lrs.CosineAnnealingLR(o, 9, rate / 100),
    "CosineAnnealingWarmRestarts": lambda o, rate: lrs.CosineAnnealingWarmRestarts(o, 4, 2, rate / 100),
    "CyclicLR": lambda o, rate: lrs.CyclicLR(o, 0.01, rate, 4, scale_fn=Decay(rate)),
    "OneCycleLR": lambda o, rate: lrs.OneCycleLR(o, rate, 20),
    "ReduceLROnPlateau": lambda o, rate: lrs.ReduceLROnPlateau(o, factor=rate, patience=0),
    "SWALR": lambda o, rate: SWALR(o, [rate, rate / 2], 4),
    "SequentialLR": lambda o, rate: lrs.SequentialLR(o, [lrs.StepLR(o, 1, rate), lrs.OneCycleLR(o, rate, 9)], [2]),
    "ChainedScheduler": lambda o, rate: lrs.ChainedScheduler([lrs.StepLR(o, 1, rate), lrs.LambdaLR(o, Decay(rate))]),
    "warm-up and plateau": warm_up,
}


def optimizer() -> Any:
    """An SGD, one of whose learning rates an array holds."""
    groups = [{"params": [np.zeros(1)], "lr": np.array(0.5)}, {"params": [np.zeros(1)], "lr": 0.25}]
    made: Any = refoptim.SGD(groups, momentum=0.9)
    made._opt_called = True
    return made


def step(scheduler: Any) -> None:
    scheduler.step(*([1.0] if any(hasattr(x, "patience") for x in (scheduler, *scheduler._schedulers)) else []))


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


class Fault(BaseException):
    """What an interrupt raises."""


class Tracer:
    """Counts the lines of the package that run, and raises at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                raise Fault
        return self

    def run(self, action: Callable[[], Any]) -> bool:
        """Tell whether the action was interrupted."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            action()
        except Fault:
            return True
        finally:
            sys.settrace(before)
        return False


def tries(first: int, build: Callable[[], Any], act: Callable[[Any], Any]) -> Iterator[Any]:
    """Interrupt ``act`` at ever later lines, until it is done before; yield what it was done to."""
    for at in count(1 + first, STRIDE):
        subject = build()
        if not Tracer(at).run(partial(act, subject)):
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
