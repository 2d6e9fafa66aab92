"""SequentialLR."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from operator import setitem
from typing import Annotated, Any

from ..optimizers.base import Optimizer
from ..step.changes import make
from ..step.groups import Group
from ..step.hyper import Hyper
from .base import EPOCHS, LR, LastEpoch, LRScheduler
from .composite import Composite, all_of, members, takes_metrics


class Milestones(Hyper):
    """Epochs in increasing order."""

    def _resolve(self, name: str, value: Any) -> list[int]:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list of integers, got {value!r}")
        epochs = [EPOCHS.resolve(f"{name}[{i}]", epoch) for i, epoch in enumerate(value)]
        if epochs != sorted(epochs):
            raise ValueError(f"{name} must be in increasing order, got {value}")
        return epochs

    def _range(self) -> str:
        return f"integers in {EPOCHS.range}, in increasing order"


MILESTONES = Milestones("the epochs at which one scheduler gives way to the next")


class SequentialLR(Composite):
    """Runs schedulers one after another; each begins anew at its milestone.

    .. code-block:: text

        schedulers[0] from epoch 0
        schedulers[1] from epoch milestones[0]
        schedulers[2] from epoch milestones[1] …

    At a milestone the next scheduler sets its learning rate of epoch 0, by its closed form where there is one. Members
    may be sequences and chains themselves. Whatever the members did before, the sequence begins at the ``base_lrs`` of
    the first.

    A ReduceLROnPlateau may be a member: ``step`` then takes the metric of the epoch. It begins with the base learning
    rates, as the other members do; the metrics that come after its milestone count.

    Args:
        schedulers: the members, in their order.
    """

    _milestones: list[int]

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Annotated[Sequence[int], MILESTONES],
        last_epoch: LastEpoch = -1,
    ) -> None:
        self._schedulers = members(type(self).__name__, schedulers, optimizer, "")
        self._milestones = MILESTONES.resolve("milestones", milestones)
        self._check_milestones()
        super().__init__(optimizer, last_epoch)

    def _begin(self, last_epoch: int) -> None:
        passed = self._schedulers[: bisect_right(self._milestones, last_epoch) + 1]
        if last_epoch >= 0 and any(map(takes_metrics, passed)):
            raise ValueError(
                f"a sequence cannot be continued by last_epoch={last_epoch} past the metrics of a ReduceLROnPlateau: "
                f"begin with last_epoch=-1 and load its state dict"
            )
        super()._begin(last_epoch)

    def _check_milestones(self) -> None:
        MILESTONES.resolve("milestones", self._milestones)
        if len(self._milestones) != len(self._schedulers) - 1:
            raise ValueError(
                f"Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(self._schedulers)} and the number of milestones "
                f"to be equal to {len(self._milestones)}"
            )

    @property
    def _active(self) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, self.last_epoch)]

    def _base(self, group: Group, i: int) -> LR:
        first = self._schedulers[bisect_right(self._milestones, 0)]
        return next(first._bases(self.optimizer.groups[i]), super()._base(group, i))

    def _start(self, group: Group, i: int) -> LR:
        return self._base(group, i) if self.last_epoch < 0 else super()._start(group, i)

    def _initial_step(self) -> None:
        self._rewind()
        self.last_epoch = 0
        self._active._initial_step()
        self._note()

    def _update_lr(self, epoch: int | None = None) -> None:
        self._admit()
        self.last_epoch = self.last_epoch + 1 if epoch is None else 0
        self._move(epoch is not None, math.nan)

    def _advance(self, metric: Any) -> None:
        self._admit()
        self.last_epoch += 1
        self._move(False, metric)

    def _move(self, anew: bool, metric: Any) -> None:
        """Let the member of this epoch begin, or make its next step."""
        if anew or self.last_epoch in self._milestones:
            self._active._update_lr(0)
        else:
            self._active._go(metric)
        self._note()

    def recursive_undo(self, sched: LRScheduler | None = None) -> None:
        """Count the members that are no composites one epoch back, as torch's constructor does; ours has no need of it.

        Args:
            sched: whose members; None means those of this scheduler.
        """
        plain = [x for x in all_of(sched or self) if not x._schedulers]
        make([partial(setitem, vars(x), "last_epoch", x.last_epoch - 1) for x in plain])

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self._check_milestones()
