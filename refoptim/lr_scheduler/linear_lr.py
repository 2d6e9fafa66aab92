"""LinearLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..optimizers.base import Optimizer
from ..step.hyper import Interval, Real
from .base import LR, Iterations, LastEpoch, LRScheduler, check


class LinearLR(LRScheduler):
    """Multiplies the learning rate by a factor that goes linearly from one value to another.

    .. code-block:: text

        lr(0) = base_lr * start_factor
        lr(e) = lr(e - 1) * (1 + slope / (total_iters * start_factor + (e - 1) * slope))    for e <= total_iters
        lr(e) = lr(e - 1)                                                                   after it
        where slope = end_factor - start_factor;
        closed form: base_lr * (start_factor + slope * min(total_iters, e) / total_iters)

    Where the formula overflows, the closed form is taken. With ``total_iters=0`` the factor is ``end_factor`` from the
    beginning.
    """

    start_factor: float
    end_factor: float
    total_iters: int

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: Annotated[
            float,
            Real(
                "the factor at epoch 0",
                stem="Starting multiplicative factor expected to be greater than 0 and less or equal to 1. Got {value}",
                interval=Interval("(0, 1]"),
            ),
        ] = 1.0 / 3,
        end_factor: Annotated[
            float,
            Real(
                "the factor from epoch total_iters on",
                stem="Ending multiplicative factor expected to be between 0 and 1. Got {value}",
                interval=Interval("[0, 1]"),
            ),
        ] = 1.0,
        total_iters: Iterations = 5,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        if self.last_epoch == 0:
            return lr * (self.start_factor if self.total_iters else self.end_factor)
        if self.last_epoch > self.total_iters:
            return lr
        slope = self.end_factor - self.start_factor
        ratio = 1.0 + slope / (self.total_iters * self.start_factor + (self.last_epoch - 1) * slope)
        return lr * ratio if ratio < math.inf else self._get_closed_form_lr()[i]

    def _get_closed_form_lr(self) -> list[LR]:
        if not self.total_iters:
            return [base_lr * self.end_factor for base_lr in self.base_lrs]
        slope, passed = self.end_factor - self.start_factor, min(self.total_iters, self.last_epoch)
        return [base_lr * (self.start_factor + slope * passed / self.total_iters) for base_lr in self.base_lrs]
