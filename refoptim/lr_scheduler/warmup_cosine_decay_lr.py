"""WarmupCosineDecayLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos, power
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval, Real
from .base import LR, LastEpoch, check
from .of_step import OfStep


class WarmupCosineDecayLR(OfStep):
    """Sets a learning rate that rises to ``peak_value`` on a straight line, and falls to ``end_value`` on a cosine.

    .. code-block:: text

        w     = warmup_steps
        a     = end_value / peak_value                                                 0 if peak_value is 0
        lr(n) = (init_value - peak_value) * (1 - n / w) + peak_value                   for n < w
        x     = min(n - w, decay_steps - w)
        F     = 0.5 * (1 + cos(pi * x / (decay_steps - w)))
        lr(n) = peak_value * ((1 - a) * F ** exponent + a)                             after it

    The values are learning rates, the same for all groups, whatever ``lr`` they had. ``decay_steps`` counts the steps
    of the warm-up too.

    The rule is that of ``warmup_cosine_decay_schedule`` in optax. Keras' ``CosineDecay`` with ``warmup_target`` does
    not count the warm-up: there ``decay_steps`` is ours less ``warmup_steps``.
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float
    exponent: float

    def __init__(
        self,
        optimizer: Optimizer,
        init_value: Annotated[float, Real("the first learning rate")],
        peak_value: Annotated[float, Real("the learning rate at the end of the warm-up")],
        warmup_steps: Annotated[int, Count("the steps of the warm-up", interval=Interval("[0, inf)"))],
        decay_steps: Annotated[int, Count("the steps of warm-up and decay", interval=Interval("[1, inf)"))],
        end_value: Annotated[float, Real("the last learning rate")] = 0.0,
        exponent: Annotated[float, Real("the power of the cosine")] = 1.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _check(self) -> None:
        if self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps counts the warm-up and must be larger than warmup_steps, got {self.decay_steps} and "
                f"{self.warmup_steps}"
            )

    def _rate(self, n: float, i: int) -> LR:
        w, peak = self.warmup_steps, self.peak_value
        if n < w:
            return (self.init_value - peak) * (1 - n / w) + peak
        steps = self.decay_steps - w
        low = self.end_value / peak if peak else 0.0
        height = 0.5 * (1 + cos(math.pi * min(n - w, steps) / steps))
        return peak * ((1 - low) * power(height, self.exponent) + low)
