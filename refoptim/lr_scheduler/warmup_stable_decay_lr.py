"""WarmupStableDecayLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Choice, Count, Interval, Real
from .base import LR, LastEpoch, check
from .of_step import Cycles, Warmup, WarmupSteps

SHAPES = ("linear", "cosine", "1-sqrt")


class WarmupStableDecayLR(Warmup):
    """Lets the learning rate rise to ``base_lr``, stay there, and fall again: WSD, a trapezoid if both are linear.

    .. code-block:: text

        w, S, D = num_warmup_steps, num_stable_steps, num_decay_steps
        q       = n / max(1, w)                                                for n < w
        lr(n)   = base_lr * max(0, U(q) * (1 - min_lr_ratio) + min_lr_ratio)
        lr(n)   = base_lr                                                      for w <= n < w + S
        q       = (n - w - S) / max(1, D)                                      for w + S <= n < w + S + D
        lr(n)   = base_lr * max(0, V(q) * (1 - min_lr_ratio) + min_lr_ratio)
        lr(n)   = base_lr * min_lr_ratio                                       after it

        U(q) = q        or 0.5 * (1 - cos(pi * q))                     or 1 - sqrt(1 - q)
        V(q) = 1 - q    or 0.5 * (1 + cos(pi * num_cycles * 2 * q))    or 1 - sqrt(q)

    ``n`` is 0 in the first step.

    The rule is that of ``get_wsd_schedule`` in transformers.

    Source: Hu, Tu, Han and others, "MiniCPM: unveiling the potential of small language models with scalable training
    strategies", 2024, section 4.2.
    """

    num_stable_steps: int
    num_decay_steps: int
    warmup_type: str
    decay_type: str
    min_lr_ratio: float
    num_cycles: float

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: WarmupSteps,
        num_stable_steps: Annotated[int, Count("the steps at base_lr", interval=Interval("[0, inf)"))],
        num_decay_steps: Annotated[int, Count("the steps of the decay", interval=Interval("[0, inf)"))],
        warmup_type: Annotated[
            str, Choice("the shape of the warm-up", options=SHAPES, stem="Unknown warmup type: {value}")
        ] = "linear",
        decay_type: Annotated[
            str, Choice("the shape of the decay", options=SHAPES, stem="Unknown decay type: {value}")
        ] = "cosine",
        min_lr_ratio: Annotated[float, Real("the lowest learning rate as a part of base_lr")] = 0.0,
        num_cycles: Cycles = 0.5,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _rise(self, n: float) -> float:
        q = super()._rise(n)
        if self.warmup_type == "linear":
            return self._above(q)
        return self._above(1.0 - math.sqrt(1.0 - q) if self.warmup_type == "1-sqrt" else 0.5 * (1.0 - cos(math.pi * q)))

    def _above(self, height: float) -> float:
        return max(0.0, height * (1.0 - self.min_lr_ratio) + self.min_lr_ratio)

    def _after(self, n: float, base_lr: LR) -> LR:
        passed = n - self.num_warmup_steps - self.num_stable_steps
        if passed < 0:
            return 1.0
        ended = passed >= self.num_decay_steps
        return self.min_lr_ratio if ended else self._above(self._fall(passed / max(1, self.num_decay_steps)))

    def _fall(self, q: float) -> float:
        if self.decay_type == "linear":
            return 1.0 - q
        if self.decay_type == "1-sqrt":
            return 1.0 - math.sqrt(q)
        return 0.5 * (1.0 + cos(math.pi * self.num_cycles * 2.0 * q))
