"""CosineDecayRestartsLR."""

from __future__ import annotations

import math
from typing import Annotated

from ..numerics.power import cos, power
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval, Real
from .base import LR, LastEpoch, check
from .cycles import began, cycle
from .of_step import OfStep


class CosineDecayRestartsLR(OfStep):
    """Lets the learning rate fall on cosines without end, in cycles that grow in length and change in height.

    .. code-block:: text

        f     = n / first_decay_steps
        L     = t_mul ** i                                               the length of cycle i, in which f is
        q     = (f - (1 - L) / (1 - t_mul)) / L                          the part of it that has passed
        lr(n) = base_lr * ((1 - alpha) * (0.5 * m_mul ** i * (1 + cos(pi * q))) + alpha)

    The rule is that of ``CosineDecayRestarts`` in Keras, but for steps at which a cycle begins: Keras finds the cycle
    by a logarithm, which misses some of them by a rounding.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.
    """

    first_decay_steps: int
    t_mul: float
    m_mul: float
    alpha: float

    def __init__(
        self,
        optimizer: Optimizer,
        first_decay_steps: Annotated[int, Count("the steps of the first cycle", interval=Interval("[1, inf)"))],
        t_mul: Annotated[
            float, Real("the ratio of one cycle's length to the one before it", interval=Interval("[1, inf)"))
        ] = 2.0,
        m_mul: Annotated[float, Real("the ratio of one cycle's height to the one before it")] = 1.0,
        alpha: Annotated[float, Real("the lowest learning rate as a part of base_lr")] = 0.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _rate(self, n: float, i: int) -> LR:
        f = n / self.first_decay_steps
        j = cycle(f, 1.0, self.t_mul)
        q = (f - began(j, 1.0, self.t_mul)) / power(self.t_mul, j)
        height = 0.5 * power(self.m_mul, j) * (1.0 + cos(math.pi * q))
        return self.base_lrs[i] * ((1 - self.alpha) * height + self.alpha)
