"""ExponentialLR."""

from __future__ import annotations

from ..numerics.power import power
from ..optimizers.base import Optimizer
from .base import LR, Gamma, LastEpoch, LRScheduler, check


class ExponentialLR(LRScheduler):
    """Multiplies the learning rate by ``gamma`` every epoch.

    .. code-block:: text

        lr(0) = base_lr
        lr(e) = lr(e - 1) * gamma;         closed form: base_lr * gamma ** e
    """

    gamma: float

    def __init__(self, optimizer: Optimizer, gamma: Gamma, last_epoch: LastEpoch = -1) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        return lr if self._is_initial else lr * self.gamma

    def _get_closed_form_lr(self) -> list[LR]:
        return [base_lr * power(self.gamma, self.last_epoch) for base_lr in self.base_lrs]
