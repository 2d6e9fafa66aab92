"""Every scheduler, with a rate that tells two of them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refoptim import lr_scheduler as lrs
from refoptim.swa_utils import SWALR


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


def step(scheduler: Any) -> None:
    """Make a step, with a metric that gets no better where one is taken."""
    scheduler.step(*([1.0] if any(hasattr(x, "patience") for x in (scheduler, *scheduler._schedulers)) else []))
