"""CosineAnnealingLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval
from .base import LR, LastEpoch, LowestRate, LRScheduler, check


class CosineAnnealingLR(LRScheduler):
    """Swings the learning rate between ``base_lr`` and ``eta_min`` on a cosine of half-period ``T_max``.

    .. code-block:: text

        lr(0) = base_lr
        lr(e) = (1 + cos(pi * e / T_max)) / (1 + cos(pi * (e - 1) / T_max)) * (lr(e - 1) - eta_min) + eta_min
        lr(e) = lr(e - 1) + (base_lr - eta_min) * (1 - cos(pi / T_max)) / 2       one epoch after each minimum;
        closed form: eta_min + (base_lr - eta_min) * (1 + cos(pi * e / T_max)) / 2

    The minimum is at ``T_max``; after it the learning rate rises again.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    T_max: int
    eta_min: float

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: Annotated[int, Count("epochs from the maximum to the minimum", interval=Interval("[1, inf)"))],
        eta_min: LowestRate = 0.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        if self._is_initial:
            return lr
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            return lr + (self.base_lrs[i] - self.eta_min) * (1 - cos(math.pi / self.T_max)) / 2
        height, before = self._height(self.last_epoch), self._height(self.last_epoch - 1)
        return (height / before if before else 0.0) * (lr - self.eta_min) + self.eta_min

    def _height(self, epoch: int) -> float:
        return 1 + cos(math.pi * epoch / self.T_max)

    def _get_closed_form_lr(self) -> list[LR]:
        height = self._height(self.last_epoch)
        return [self.eta_min + (base_lr - self.eta_min) * height / 2 for base_lr in self.base_lrs]
