"""ConstantLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..optimizers.base import Optimizer
from ..step.hyper import Interval, Real
from .base import LR, Iterations, LastEpoch, LRScheduler, check


class ConstantLR(LRScheduler):
    """Multiplies the learning rate by ``factor`` until epoch ``total_iters``.

    .. code-block:: text

        lr(0)           = base_lr * factor
        lr(total_iters) = lr(total_iters - 1) * (1 / factor)
        lr(e)           = lr(e - 1)                                    else;
        closed form: base_lr * (factor if e < total_iters else 1)

    Where the formula divides by zero or overflows: with ``factor=0``, or one whose inverse is infinite, the learning
    rate returns to ``base_lr``, and with ``total_iters=0`` it never leaves it.
    """

    factor: float
    total_iters: int

    def __init__(
        self,
        optimizer: Optimizer,
        factor: Annotated[
            float,
            Real(
                "the factor of the first epochs",
                stem="Constant multiplicative factor expected to be between 0 and 1. Got {value}",
                interval=Interval("[0, 1]"),
            ),
        ] = 1.0 / 3,
        total_iters: Iterations = 5,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        if not self.total_iters or self.last_epoch not in (0, self.total_iters):
            return lr
        if self.last_epoch == 0:
            return lr * self.factor
        inverse = 1.0 / self.factor if self.factor else math.inf
        return lr * inverse if inverse < math.inf else self.base_lrs[i]

    def _get_closed_form_lr(self) -> list[LR]:
        over = self.last_epoch >= self.total_iters
        return [base_lr * (self.factor + over * (1 - self.factor)) for base_lr in self.base_lrs]
