"""ConstantWarmupLR."""

from __future__ import annotations

from ..optimizers.base import Optimizer
from .base import LR, LastEpoch, check
from .of_step import Warmup, WarmupSteps


class ConstantWarmupLR(Warmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and stay there.

    .. code-block:: text

        lr(n) = base_lr * n / max(1, num_warmup_steps)    for n < num_warmup_steps
        lr(n) = base_lr                                   after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``.

    The rule is that of ``get_constant_schedule_with_warmup`` in transformers.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: WarmupSteps, last_epoch: LastEpoch = -1) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _after(self, n: float, base_lr: LR) -> LR:
        return 1.0
