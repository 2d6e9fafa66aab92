"""CosineAnnealingWarmRestarts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval, Real
from .base import LR, LastEpoch, LowestRate, LRScheduler, Whole, check

Epoch = Real("", stem="Expected non-negative epoch, but got {value}")


class CosineAnnealingWarmRestarts(LRScheduler):
    """Lets the learning rate fall from ``base_lr`` to ``eta_min`` on a cosine, and begin anew, in ever longer cycles.

    .. code-block:: text

        lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2

    ``T_cur`` counts the epochs since the last restart; ``T_i``, the length of the cycle, is ``T_0`` at first and is
    multiplied by ``T_mult`` at each restart. ``step(epoch)`` goes to an epoch at once, which may be a fraction.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    _recursive = False
    _takes_epochs = True
    _kept = {
        **LRScheduler._kept,
        "T_cur": Real("", interval=Interval("[-1, inf)")),
        "T_i": Count("", interval=Interval("[1, inf)")),
    }

    T_0: int
    T_mult: int
    eta_min: float
    T_cur: float
    T_i: int

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: Annotated[
            int,
            Whole(
                "epochs of the first cycle",
                stem="Expected positive integer T_0, but got {value}",
                interval=Interval("[1, inf)"),
            ),
        ],
        T_mult: Annotated[
            int,
            Whole(
                "the ratio of one cycle's length to the one before it",
                stem="Expected integer T_mult >= 1, but got {value}",
                interval=Interval("[1, inf)"),
            ),
        ] = 1,
        eta_min: LowestRate = 0.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        self.T_cur, self.T_i = -1, self.T_0
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        height = 1 + cos(math.pi * self.T_cur / self.T_i)
        return self.eta_min + (self.base_lrs[i] - self.eta_min) * height / 2

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch, or to the one given, which may be a fraction, and set its learning rates.

        Raises:
            ValueError: ``epoch`` is negative. Nothing has changed then.
        """
        super().step(epoch)  # type: ignore[arg-type]

    def lr_at(self, epoch: float) -> list[float]:
        """Return the learning rates of an epoch, which may be a fraction, one per group, changing nothing."""
        trial = self._silent_copy()
        trial._restart()
        trial._update_lr(self._check_epoch(epoch))
        return trial._lrs()

    def _check_epoch(self, epoch: Any) -> float:
        x: float = Epoch.resolve("epoch", epoch)
        return x

    def _update_lr(self, epoch: float | None = None) -> None:
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur, self.T_i = self.T_cur % self.T_i, self.T_i * self.T_mult
        else:
            self._locate(epoch)
        super()._update_lr(math.floor(epoch))

    def _locate(self, epoch: float) -> None:
        """Find the cycle of an epoch, by whole numbers: a logarithm would miss some of the restarts."""
        self.T_cur, self.T_i = epoch, self.T_0
        if self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        start = 0
        while self.T_cur >= self.T_i:
            start, self.T_i = start + self.T_i, self.T_i * self.T_mult
            self.T_cur = epoch - start

    def _initial_step(self) -> None:
        self.T_cur, self.T_i = -1, self.T_0
        super()._initial_step()

    def _jump(self, epoch: int) -> None:
        super()._jump(epoch)
        self._locate(epoch - 1)

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        if self.T_cur > self.T_i:
            raise ValueError(f"loaded state dict has T_cur={self.T_cur} and T_i={self.T_i}")
