"""CosineWarmupRateLR."""

from __future__ import annotations

from typing import Annotated

from ..optimizers.base import Optimizer
from ..step.hyper import Real
from .base import LastEpoch, check
from .cosine_warmup_lr import CosineWarmupLR, Lowest, LowestRate
from .of_step import Cycles, TrainingSteps, WarmupSteps


class CosineWarmupRateLR(CosineWarmupLR):
    """Lets the learning rate rise to ``base_lr`` from above 0, and fall on a cosine to 0, or to a minimum.

    .. code-block:: text

        w, T  = num_warmup_steps, num_training_steps
        r     = warmup_lr_rate
        m     = min_lr / base_lr                                         with min_lr
        m     = min_lr_rate                                              with min_lr_rate
        m     = 0                                                        else
        lr(n) = base_lr * (n + 1) / max(1, w)                            for n < w, without a warmup_lr_rate
        lr(n) = base_lr * (r + (1 - r) * n / max(1, w - 1))              for n < w, with one
        F     = 0.5 * (1 + cos(pi * num_cycles * 2 * (n + 1 - w) / max(1, T - w)))
        lr(n) = base_lr * max(0, F * (1 - m) + m)                        after it

    ``n`` is 0 in the first step. The last step of the warm-up has ``base_lr``, and the minimum comes a step before
    ``num_training_steps``: without a ``warmup_lr_rate`` this is ``CosineWarmupLR`` one step ahead. The cosine is not
    held either.

    The rule is that of ``get_cosine_with_min_lr_schedule_with_warmup_lr_rate`` in transformers, which wants one of
    ``min_lr`` and ``min_lr_rate``, and divides ``min_lr`` by the ``lr`` of the optimizer where this divides by that of
    the group.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    warmup_lr_rate: float | None

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_training_steps: TrainingSteps,
        num_cycles: Cycles = 0.5,
        min_lr: Lowest = None,
        min_lr_rate: LowestRate = None,
        warmup_lr_rate: Annotated[
            float | None, Real("the first learning rate as a part of base_lr", optional=True)
        ] = None,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), {"warmup_lr_rate": warmup_lr_rate}))
        super().__init__(optimizer, num_warmup_steps, num_training_steps, num_cycles, min_lr, min_lr_rate, last_epoch)

    def _rise(self, n: float) -> float:
        if self.warmup_lr_rate is None:
            return super()._rise(n + 1.0)
        return self.warmup_lr_rate + (1.0 - self.warmup_lr_rate) * n / max(1, self.num_warmup_steps - 1)

    def _way(self, n: float) -> float:
        return super()._way(n + 1.0)
