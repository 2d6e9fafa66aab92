"""What CyclicLR and OneCycleLR share: the momentum of an optimizer goes down as the learning rate goes up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..step.groups import Group
from .base import LR, LRScheduler
from .saved import UNSIGNED, ListOf

MOMENTA = ("base_momentums", "max_momentums")


class MomentumCycler(LRScheduler):
    """Base of the schedulers that set ``momentum``, or the first of ``betas``, and bring their own ``base_lrs``."""

    _recursive = False
    _governs: ClassVar[tuple[str, ...]] = ("momentum", "betas", "base_momentum", "max_momentum")
    _per_group = {
        "_given_lrs": "base_lr",
        "max_lrs": "max_lr",
        "base_momentums": "base_momentum",
        "max_momentums": "max_momentum",
    }
    _optional = LRScheduler._optional | {*MOMENTA, "use_beta1"}
    _kept = {
        **LRScheduler._kept,
        **{name: ListOf("", item=UNSIGNED) for name in ("max_lrs", *MOMENTA)},
    }

    max_lrs: list[float]
    cycle_momentum: bool
    use_beta1: bool
    base_momentums: list[float]
    max_momentums: list[float]
    _given_lrs: list[float]

    def _momentum(self, i: int) -> float:
        """Return the momentum of group ``i`` at ``last_epoch``."""
        raise NotImplementedError

    def _check_momentum(self, optimizer: Any) -> None:
        """Raise ValueError if the optimizer has no momentum to cycle, and note where it has it."""
        if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
            raise ValueError(
                f"optimizer must support momentum or beta1 with `cycle_momentum` option enabled: "
                f"{type(optimizer).__name__} has neither, set cycle_momentum=False"
            )
        self.use_beta1 = "betas" in optimizer.defaults

    def _prepare(self, group: Group, i: int) -> None:
        if self.cycle_momentum:
            group["max_momentum"], group["base_momentum"] = self.max_momentums[i], self.base_momentums[i]

    def _base(self, group: Group, i: int) -> LR:
        return self._given_lrs[i]

    def _start(self, group: Group, i: int) -> LR:
        return self._given_lrs[i]

    def _set_lrs(self, values: Sequence[LR]) -> None:
        super()._set_lrs(values)
        self._set_momenta()

    def _set_momenta(self) -> None:
        if self.cycle_momentum:
            for i, group in enumerate(self.optimizer.param_groups):
                if self.use_beta1:
                    group["betas"] = (self._momentum(i), *group["betas"][1:])
                else:
                    group["momentum"] = self._momentum(i)

    def _rewind(self) -> None:
        moved = self.last_epoch > 0
        super()._rewind()
        if moved:
            self._admit()
            self.last_epoch = 0
            self._set_momenta()
            self.last_epoch = -1

    def _saved(self) -> dict[str, Any]:
        return {name: x for name, x in super()._saved().items() if name != "_given_lrs"}

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        cycled = state.get("cycle_momentum", self.cycle_momentum) is True
        if cycled and not self.cycle_momentum:
            self._check_momentum(self.optimizer)
            self.base_momentums = self.max_momentums = [0.0] * len(self.base_lrs)
            own = {**own, **{name: getattr(self, name) for name in (*MOMENTA, "use_beta1")}}
            lacking = [name for name in MOMENTA if name not in state and not self._reads_groups(state)]
            if lacking:
                raise ValueError(f"loaded state dict is not one of {type(self).__name__}: it lacks {lacking[0]!r}")
        super()._load_values(own, state)
        self._given_lrs = list(self.base_lrs)
        if cycled:
            self._check_momentum(self.optimizer)

    def _reads_groups(self, state: Mapping[str, Any]) -> bool:
        """Tell whether the groups hold what the state dict lacks."""
        return False
