"""CosineRestartsWarmupLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Real
from .base import LR, LastEpoch, check
from .of_step import TrainingSteps, TrainingWarmup, WarmupSteps


class CosineRestartsWarmupLR(TrainingWarmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and fall to 0 on a cosine, several times.

    .. code-block:: text

        w, T  = num_warmup_steps, num_training_steps
        lr(n) = base_lr * n / max(1, w)                          for n < w
        q     = (n - w) / max(1, T - w)
        r     = num_cycles * q - floor(num_cycles * q)
        lr(n) = base_lr * max(0, 0.5 * (1 + cos(pi * r)))        for q < 1
        lr(n) = 0                                                after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``.

    The rule is that of ``get_cosine_with_hard_restarts_schedule_with_warmup`` in transformers.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    num_cycles: float

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_training_steps: TrainingSteps,
        num_cycles: Annotated[float, Real("how often the learning rate falls")] = 1,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _after(self, n: float, base_lr: LR) -> LR:
        q = self._way(n)
        return 0.0 if q >= 1.0 else max(0.0, 0.5 * (1.0 + cos(math.pi * (self.num_cycles * q % 1.0))))
