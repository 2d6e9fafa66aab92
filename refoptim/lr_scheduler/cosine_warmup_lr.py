"""CosineWarmupLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Real
from .base import LR, LastEpoch, check
from .of_step import Cycles, TrainingSteps, TrainingWarmup, WarmupSteps

Lowest = Annotated[float | None, Real("the lowest learning rate", optional=True)]
LowestRate = Annotated[float | None, Real("the same as a part of base_lr", optional=True)]


class CosineWarmupLR(TrainingWarmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and fall on a cosine to 0, or to a minimum.

    .. code-block:: text

        w, T  = num_warmup_steps, num_training_steps
        m     = min_lr / base_lr                                         with min_lr
        m     = min_lr_rate                                              with min_lr_rate
        m     = 0                                                        else
        lr(n) = base_lr * n / max(1, w)                                  for n < w
        F     = 0.5 * (1 + cos(pi * num_cycles * 2 * (n - w) / max(1, T - w)))
        lr(n) = base_lr * max(0, F * (1 - m) + m)                        after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``. The cosine is not
    held: after ``num_training_steps`` the learning rate rises again.

    The rule is that of ``get_cosine_schedule_with_warmup`` in transformers, and with a minimum that of
    ``get_cosine_with_min_lr_schedule_with_warmup``, which divides ``min_lr`` by the ``lr`` of the optimizer where this
    divides by that of the group.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    num_cycles: float
    min_lr: float | None
    min_lr_rate: float | None

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_training_steps: TrainingSteps,
        num_cycles: Cycles = 0.5,
        min_lr: Lowest = None,
        min_lr_rate: LowestRate = None,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _check(self) -> None:
        if self.min_lr is not None and self.min_lr_rate is not None:
            raise ValueError("Only one of min_lr or min_lr_rate should be set")
        if self.min_lr is not None and not all(base_lr > 0 for base_lr in self.base_lrs):
            raise ValueError(f"min_lr needs an initial lr above 0 in every group, got {[*map(float, self.base_lrs)]}")

    def _after(self, n: float, base_lr: LR) -> LR:
        low = (self.min_lr_rate or 0.0) if self.min_lr is None else self.min_lr / base_lr
        height = 0.5 * (1.0 + cos(math.pi * self.num_cycles * 2.0 * self._way(n)))
        return max(0.0, height * (1 - low) + low)
