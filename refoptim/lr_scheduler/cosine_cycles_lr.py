"""CosineCyclesLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos, power
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Flag, Interval, Real
from .base import LR, LastEpoch, LowestRate, check
from .cycles import began, cycle
from .of_step import OfStep


class CosineCyclesLR(OfStep):
    """Lets the learning rate fall on cosines, in cycles that grow in length and lose in height, after a warm-up.

    .. code-block:: text

        lr(n) = warmup_lr_init + n * ((base_lr - warmup_lr_init) / warmup_t)       for n < warmup_t
        t     = n - warmup_t                                                       with warmup_prefix
        t     = n                                                                  without it
        T     = t_initial * cycle_mul ** i                                         the steps of cycle i, in which t is
        c     = t - t_initial * (1 - cycle_mul ** i) / (1 - cycle_mul)             those of it that have passed
        high  = base_lr * cycle_decay ** i
        F     = 1 + cos(pi * c ** k_decay / T ** k_decay)
        lr(n) = lr_min + 0.5 * (high - lr_min) * F                                 for i < cycle_limit
        lr(n) = lr_min                                                             after it

    With ``warmup_prefix=False`` the cosine has been going on during the warm-up and is entered at its step
    ``warmup_t``: the learning rate jumps there.

    The rule is that of ``CosineLRScheduler`` in timm, but for ``lr_scale``, and for steps at which a cycle begins: timm
    finds the cycle by a logarithm, which misses some of them by a rounding.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5; Zhang
    and Li, "k-decay: a new method for learning rate schedule", 2020.
    """

    t_initial: int
    lr_min: float
    cycle_mul: float
    cycle_decay: float
    cycle_limit: int
    k_decay: float
    warmup_t: int
    warmup_lr_init: float
    warmup_prefix: bool

    def __init__(
        self,
        optimizer: Optimizer,
        t_initial: Annotated[int, Count("the steps of the first cycle", interval=Interval("[1, inf)"))],
        lr_min: LowestRate = 0.0,
        cycle_mul: Annotated[
            float, Real("the ratio of one cycle's length to the one before it", interval=Interval("[1, inf)"))
        ] = 1.0,
        cycle_decay: Annotated[float, Real("the ratio of one cycle's height to the one before it")] = 1.0,
        cycle_limit: Annotated[int, Count("how many cycles there are", interval=Interval("[0, inf)"))] = 1,
        k_decay: Annotated[float, Real("the power of the way along a cosine")] = 1.0,
        warmup_t: Annotated[int, Count("the steps of the warm-up", interval=Interval("[0, inf)"))] = 0,
        warmup_lr_init: Annotated[float, Real("the first learning rate of the warm-up")] = 0.0,
        warmup_prefix: Annotated[bool, Flag("begin the cycles after the warm-up")] = False,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _rate(self, n: float, i: int) -> LR:
        base_lr, low = self.base_lrs[i], self.warmup_lr_init
        if n < self.warmup_t:
            return low + n * ((base_lr - low) / self.warmup_t)
        t = n - self.warmup_t if self.warmup_prefix else n
        j = cycle(t, self.t_initial, self.cycle_mul)
        if j >= self.cycle_limit:
            return self.lr_min
        high = base_lr * power(self.cycle_decay, j)
        return self.lr_min + 0.5 * (high - self.lr_min) * (1 + cos(self._angle(t, j)))

    def _angle(self, t: float, j: int) -> float:
        passed, length = t - began(j, self.t_initial, self.cycle_mul), power(self.cycle_mul, j) * self.t_initial
        whole = power(length, self.k_decay)
        if whole == math.inf:
            raise OverflowError(f"cycle {j} has {length} steps, and k_decay is {self.k_decay}")
        return math.pi * power(passed, self.k_decay) / whole
