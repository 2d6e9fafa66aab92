"""PolynomialLR."""

from __future__ import annotations

from typing import Annotated

from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step.hyper import Real
from .base import LR, Iterations, LastEpoch, LRScheduler, check


class PolynomialLR(LRScheduler):
    """Lets the learning rate fall to zero as a power of the epochs that remain.

    .. code-block:: text

        lr(0) = base_lr
        lr(e) = lr(e - 1) * ((1 - e / total_iters) / (1 - (e - 1) / total_iters)) ** power    for e <= total_iters
        lr(e) = lr(e - 1)                                                                     after it;
        closed form: base_lr * (1 - min(total_iters, e) / total_iters) ** power

    With ``total_iters=0`` nothing ever decays.
    """

    total_iters: int
    power: float

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: Iterations = 5,
        power: Annotated[float, Real("the power of the polynomial")] = 1.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        e, total = self.last_epoch, self.total_iters
        if self._is_initial or e > total:
            return lr
        return lr * power((1.0 - e / total) / (1.0 - (e - 1) / total), self.power)

    def _get_closed_form_lr(self) -> list[LR]:
        if not self.total_iters:
            return list(self.base_lrs)
        passed = min(self.total_iters, self.last_epoch)
        return [base_lr * power(1.0 - passed / self.total_iters, self.power) for base_lr in self.base_lrs]
