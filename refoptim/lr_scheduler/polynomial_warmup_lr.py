"""PolynomialWarmupLR."""

from __future__ import annotations

from typing import Annotated

from ..numerics.power import power as power_of
from ..optimizers.base import Optimizer
from ..step.hyper import Real
from .base import LR, LastEpoch, LowestRate, check
from .of_step import TrainingSteps, TrainingWarmup, WarmupSteps


class PolynomialWarmupLR(TrainingWarmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and fall to ``lr_end`` as a power.

    .. code-block:: text

        w, T  = num_warmup_steps, num_training_steps
        lr(n) = base_lr * n / max(1, w)                      for n < w
        d     = (base_lr - lr_end) * (1 - (n - w) / max(1, T - w)) ** power + lr_end
        lr(n) = base_lr * (d / base_lr)                      for w <= n <= T
        lr(n) = base_lr * (lr_end / base_lr)                 after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``. Each group ends at
    ``lr_end`` from its own ``base_lr``, which must be larger.

    The rule is that of ``get_polynomial_decay_schedule_with_warmup`` in transformers, which takes the ``lr`` of the
    optimizer as the base of all groups, and divides by zero at ``T`` if that is ``w``.
    """

    lr_end: float
    power: float

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_training_steps: TrainingSteps,
        lr_end: LowestRate = 1e-7,
        power: Annotated[float, Real("the power of the polynomial")] = 1.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _check(self) -> None:
        for base_lr in self.base_lrs:
            if not base_lr > self.lr_end:
                raise ValueError(f"lr_end ({self.lr_end}) must be smaller than initial lr ({float(base_lr)})")

    def _after(self, n: float, base_lr: LR) -> LR:
        if n > self.num_training_steps:
            return self.lr_end / base_lr
        left = power_of(1 - self._way(n), self.power)
        return ((base_lr - self.lr_end) * left + self.lr_end) / base_lr
