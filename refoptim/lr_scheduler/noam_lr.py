"""NoamLR."""

from __future__ import annotations

from typing import Annotated

from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step.hyper import Count, Interval
from .base import LR, LastEpoch, check
from .of_step import OfStep


class NoamLR(OfStep):
    """Lets the learning rate rise on a straight line, and fall as the inverse root of the steps.

    .. code-block:: text

        k     = n + 1
        lr(n) = base_lr * (d_model ** -0.5 * min(k ** -0.5, k * num_warmup_steps ** -1.5))

    ``k`` counts the steps from 1, so that no learning rate is 0. With ``lr=1.0`` in the optimizer it is the paper's.
    The highest is reached in step ``num_warmup_steps``, and is ``base_lr / sqrt(d_model * num_warmup_steps)``.

    Source: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention is all you need",
    NeurIPS 2017, equation 3.
    """

    d_model: int
    num_warmup_steps: int

    def __init__(
        self,
        optimizer: Optimizer,
        d_model: Annotated[int, Count("the width of the model", interval=Interval("[1, inf)"))],
        num_warmup_steps: Annotated[int, Count("the steps of the warm-up", interval=Interval("[1, inf)"))],
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _rate(self, n: float, i: int) -> LR:
        k = n + 1
        height = min(power(k, -0.5), k * power(self.num_warmup_steps, -1.5))
        return self.base_lrs[i] * (power(self.d_model, -0.5) * height)
