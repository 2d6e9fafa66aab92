"""StepLR."""

from __future__ import annotations

from typing import Annotated

from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval
from .base import LR, Gamma, LastEpoch, LRScheduler, check


class StepLR(LRScheduler):
    """Multiplies the learning rate by ``gamma`` every ``step_size`` epochs.

    .. code-block:: text

        lr(e) = lr(e - 1) * gamma      if e > 0 and step_size divides e
        lr(e) = lr(e - 1)              else;         closed form: base_lr * gamma ** (e // step_size)
    """

    step_size: int
    gamma: float

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: Annotated[int, Count("epochs between two decays", interval=Interval("[1, inf)"))],
        gamma: Gamma = 0.1,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        return lr * self.gamma if self.last_epoch and self.last_epoch % self.step_size == 0 else lr

    def _get_closed_form_lr(self) -> list[LR]:
        return [base_lr * power(self.gamma, self.last_epoch // self.step_size) for base_lr in self.base_lrs]
