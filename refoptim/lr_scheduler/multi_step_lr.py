"""MultiStepLR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step.hyper import Hyper
from .base import EPOCHS, LR, Gamma, LastEpoch, LRScheduler, check

MANY = 1000
"""So many milestones are saved as a list; more of them, as counts."""


@dataclass(frozen=True)
class Epochs(Hyper):
    """Epochs, in any order, perhaps several times; or a dict that counts them."""

    def _resolve(self, name: str, value: Any) -> Counter[int]:
        if isinstance(value, Mapping):
            counts = {int(epoch): EPOCHS.resolve(f"{name}[{epoch!r}]", count) for epoch, count in value.items()}
            return Counter({EPOCHS.resolve(name, epoch): count for epoch, count in counts.items()})
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be an iterable of integers, got {value!r}")
        return Counter(EPOCHS.resolve(f"{name}[{i}]", epoch) for i, epoch in enumerate(value))

    def _range(self) -> str:
        return f"integers in {EPOCHS.range}"


class MultiStepLR(LRScheduler):
    """Multiplies the learning rate by ``gamma`` at each milestone, twice at one that is given twice.

    .. code-block:: text

        lr(e) = lr(e - 1) * gamma ** n             n milestones are e;
        closed form: base_lr * gamma ** m      m milestones are not after e
    """

    milestones: Counter[int]
    gamma: float

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Annotated[Iterable[int], Epochs("the epochs at which the learning rate decays")],
        gamma: Gamma = 0.1,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        count = self.milestones[self.last_epoch]
        return lr * power(self.gamma, count) if count else lr

    def _get_closed_form_lr(self) -> list[LR]:
        passed = sum(count for epoch, count in self.milestones.items() if epoch <= self.last_epoch)
        return [base_lr * power(self.gamma, passed) for base_lr in self.base_lrs]

    def _saved(self) -> dict[str, Any]:
        few = self.milestones.total() <= MANY
        return {**super()._saved(), "milestones": sorted(self.milestones.elements()) if few else {**self.milestones}}
