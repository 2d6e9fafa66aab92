"""InverseSqrtLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval
from .base import LR, LastEpoch, check
from .of_step import Warmup, WarmupSteps

TIMESCALE = 10_000
"""The time scale where there is no warm-up to say it."""


class InverseSqrtLR(Warmup):
    """Lets the learning rate rise from 0 to ``base_lr`` on a straight line, and fall as the inverse root of the steps.

    .. code-block:: text

        w, s  = num_warmup_steps, timescale or num_warmup_steps or 10000
        lr(n) = base_lr * n / max(1, w)                  for n < w
        lr(n) = base_lr * 1 / sqrt((n + (s - w)) / s)    after it

    ``n`` is 0 in the first step, whose learning rate is therefore 0 unless ``num_warmup_steps=0``.

    The rule is that of ``get_inverse_sqrt_schedule`` in transformers.

    Source: Zhai, Kolesnikov, Houlsby, Beyer, "Scaling vision transformers", CVPR 2022, section 3.3.
    """

    timescale: int | None

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        timescale: Annotated[
            int | None,
            Count("the steps in which it falls by sqrt(2)", interval=Interval("[1, inf)"), optional=True),
        ] = None,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _after(self, n: float, base_lr: LR) -> LR:
        scale = self.timescale or self.num_warmup_steps or TIMESCALE
        return 1.0 / math.sqrt((n + (scale - self.num_warmup_steps)) / scale)
