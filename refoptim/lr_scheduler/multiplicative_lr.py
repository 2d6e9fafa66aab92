"""MultiplicativeLR."""

from __future__ import annotations

from ..optimizers.base import Optimizer
from .base import LR, LastEpoch, LRScheduler, check
from .per_group import Functions, Schedule, spread


class MultiplicativeLR(LRScheduler):
    """Multiplies the learning rate by a function of the epoch.

    .. code-block:: text

        lr(0) = base_lr
        lr(e) = lr(e - 1) * lr_lambda(e)

    ``lr_lambda`` is called with the epoch, and must depend on nothing else. A state dict holds None for a function and
    the attributes of a callable object.
    """

    _functions = ("lr_lambdas",)
    _per_group = {"lr_lambdas": "lr_lambda"}

    lr_lambdas: list[Schedule]

    def __init__(self, optimizer: Optimizer, lr_lambda: Functions, last_epoch: LastEpoch = -1) -> None:
        functions = check(type(self), locals())["lr_lambda"]
        self.lr_lambdas = spread("lr_lambda", functions, optimizer, "Expected {} lr_lambdas, but got {}: ")
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        return lr if self._is_initial else lr * self.lr_lambdas[i](self.last_epoch)
