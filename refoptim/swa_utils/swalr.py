"""SWALR: the learning rate of the time in which weights are averaged."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from ..lr_scheduler.base import LR, LastEpoch, LRScheduler, Whole, check
from ..lr_scheduler.per_group import PerGroup, Rates, spread
from ..lr_scheduler.saved import UNSIGNED, ListOf
from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step import hyper as hp
from ..step.groups import Group

STRATEGY = hp.Choice(
    "the shape of the way",
    options=("cos", "linear"),
    stem="anneal_strategy must be one of 'cos' or 'linear', instead got {value}",
)


class SWALR(LRScheduler):
    """Takes the learning rate from where it is to ``swa_lr``, and keeps it there.

    .. code-block:: text

        share(e) = min(1, e / anneal_epochs)                               linear
        share(e) = (1 - cos(pi * min(1, e / anneal_epochs))) / 2           cos
        start    = (lr - share(e - 1) * swa_lr) / (1 - share(e - 1))       or swa_lr, where the last share is 1
        lr       = share(e) * swa_lr + (1 - share(e)) * start

    ``e`` counts the calls of ``step``: 0 in the constructor, or, with ``anneal_epochs=0``, 1 from the beginning.
    ``start`` is found from the ``lr`` that the groups hold, so another scheduler may have led there before.

    Source: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
    generalization", UAI 2018.
    """

    _governs: ClassVar[tuple[str, ...]] = ("swa_lr",)
    _per_group: ClassVar[dict[str, str]] = {"_swa_lrs": "swa_lr"}
    _optional = LRScheduler._optional | {"_swa_lrs", "_anneal_strategy"}
    _legacy = LRScheduler._legacy | {"anneal_func"}
    _kept = {
        **LRScheduler._kept,
        "_swa_lrs": ListOf("", item=UNSIGNED),
        "_anneal_strategy": STRATEGY,
    }

    anneal_epochs: int

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Annotated[Rates, PerGroup("the learning rate at the end", item=hp.Real(""))],
        anneal_epochs: Annotated[
            int,
            Whole(
                "the epochs of the way",
                stem="anneal_epochs must be equal or greater than 0, got {value}",
                interval=hp.Interval("[0, inf)"),
            ),
        ] = 10,
        anneal_strategy: Annotated[str, STRATEGY] = "cos",
        last_epoch: LastEpoch = -1,
    ) -> None:
        given = check(type(self), locals())
        self.anneal_epochs = given["anneal_epochs"]
        self._anneal_strategy = given["anneal_strategy"]
        self._swa_lrs = spread("swa_lr", given["swa_lr"], optimizer)
        super().__init__(optimizer, last_epoch)

    def _prepare(self, group: Group, i: int) -> None:
        group["swa_lr"] = self._swa_lrs[i]

    def _next(self, lr: LR, i: int) -> LR:
        swa_lr = hp.number("swa_lr", self.optimizer.param_groups[i]["swa_lr"])
        count = max(self._step_count - 1, 0 if self.anneal_epochs else 1)
        before, share = self._share(count - 1), self._share(count)
        start = swa_lr if before == 1 else (lr - before * swa_lr) / (1 - before)
        return swa_lr * share + start * (1 - share)

    def _share(self, count: int) -> float:
        """Return the share of ``swa_lr`` in the learning rate."""
        t = max(0, min(1, count / max(1, self.anneal_epochs)))
        return (1 - cos(math.pi * t)) / 2 if self._anneal_strategy == "cos" else t
