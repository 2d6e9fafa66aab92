"""LinearWarmupLR."""

from __future__ import annotations

from ..optimizers.base import Optimizer
from .base import LR, LastEpoch, check
from .of_step import TrainingSteps, TrainingWarmup, WarmupSteps


class LinearWarmupLR(TrainingWarmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and fall to 0 on another.

    .. code-block:: text

        w, T  = num_warmup_steps, num_training_steps
        lr(n) = base_lr * n / max(1, w)                      for n < w
        lr(n) = base_lr * max(0, (T - n) / max(1, T - w))    after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``.

    The rule is that of ``get_linear_schedule_with_warmup`` in transformers.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_training_steps: TrainingSteps,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _after(self, n: float, base_lr: LR) -> LR:
        w, total = self.num_warmup_steps, self.num_training_steps
        return max(0.0, (total - n) / max(1, total - w))
