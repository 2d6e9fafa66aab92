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
    "ConstantWarmupLR": lambda o, rate: lrs.ConstantWarmupLR(o, round(8 / rate)),
    "LinearWarmupLR": lambda o, rate: lrs.LinearWarmupLR(o, 2, round(8 / rate)),
    "CosineWarmupLR": lambda o, rate: lrs.CosineWarmupLR(o, 2, 9, min_lr_rate=rate / 10),
    "CosineWarmupRateLR": lambda o, rate: lrs.CosineWarmupRateLR(o, 3, 9, min_lr_rate=0.1, warmup_lr_rate=rate / 10),
    "CosineRestartsWarmupLR": lambda o, rate: lrs.CosineRestartsWarmupLR(o, 2, 9, rate),
    "PolynomialWarmupLR": lambda o, rate: lrs.PolynomialWarmupLR(o, 2, 9, 1e-7, rate),
    "InverseSqrtLR": lambda o, rate: lrs.InverseSqrtLR(o, 2, round(8 / rate)),
    "WarmupStableDecayLR": lambda o, rate: lrs.WarmupStableDecayLR(o, 2, 1, 3, min_lr_ratio=rate / 10),
    "NoamLR": lambda o, rate: lrs.NoamLR(o, 8, round(8 / rate)),
    "WarmupCosineDecayLR": lambda o, rate: lrs.WarmupCosineDecayLR(o, 0.01, rate, 2, 9),
    "PiecewiseInterpolateLR": lambda o, rate: lrs.PiecewiseInterpolateLR(o, "cosine", rate, {2: 0.5, 5: 0.1}),
    "CosineCyclesLR": lambda o, rate: lrs.CosineCyclesLR(o, 3, 0.001, 2.0, rate, 2, warmup_t=2, warmup_prefix=True),
    "CosineDecayRestartsLR": lambda o, rate: lrs.CosineDecayRestartsLR(o, 3, 2.0, rate),
    "SequentialLR": lambda o, rate: lrs.SequentialLR(o, [lrs.StepLR(o, 1, rate), lrs.OneCycleLR(o, rate, 9)], [2]),
    "ChainedScheduler": lambda o, rate: lrs.ChainedScheduler([lrs.StepLR(o, 1, rate), lrs.LambdaLR(o, Decay(rate))]),
    "warm-up and plateau": warm_up,
}


def step(scheduler: Any) -> None:
    """Make a step, with a metric that gets no better where one is taken."""
    scheduler.step(*([1.0] if any(hasattr(x, "patience") for x in (scheduler, *scheduler._schedulers)) else []))
