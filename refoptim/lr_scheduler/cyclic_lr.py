"""CyclicLR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from ..numerics.power import power
from ..optimizers.base import Optimizer
from ..step.groups import Group
from ..step.hyper import Choice, Flag, Hyper, Interval, Real
from .base import LR, LastEpoch, check
from .momentum_cycler import MomentumCycler
from .per_group import Function, PerGroup, Rates, spread
from .stage import write_lr

MODES = ("triangular", "triangular2", "exp_range")


class Mode(Hyper):
    """One of MODES, or any str beside a ``scale_fn``."""

    def _resolve(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be {self.range}, got {value!r}")
        return value

    def _range(self) -> str:
        return f"one of {', '.join(map(repr, MODES))}; any str with scale_fn"


class CyclicLR(MomentumCycler):
    """Moves the learning rate up and down between two bounds; the momentum goes the other way.

    .. code-block:: text

        cycle = floor(1 + e / (step_size_up + step_size_down))        1 in the first cycle, 2 in the second …
        h     = height in the cycle: 0 at its ends, 1 at the end of step_size_up, linear between
        lr       = base_lr + (max_lr - base_lr) * h * scale
        momentum = max_momentum - (max_momentum - base_momentum) * h * scale

        mode         scale
        triangular   1
        triangular2  1 / 2 ** (cycle - 1)
        exp_range    gamma ** e
        any, if scale_fn is given: scale_fn(cycle), or scale_fn(e) if scale_mode is "iterations"

    ``scale_fn`` must depend on its argument alone. A state dict holds None for a function and the attributes of a
    callable object.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017.
    """

    _functions = ("_scale_fn_custom",)
    _kept = {
        **MomentumCycler._kept,
        "total_size": Real("", interval=Interval("(0, inf)")),
        "step_ratio": Real("", interval=Interval("(0, 1]")),
    }

    max_lrs: list[float]
    total_size: float
    step_ratio: float
    mode: str
    gamma: float
    scale_mode: str
    _scale_fn_custom: Callable[[float], float] | None

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Annotated[Rates, PerGroup("the lower bound, at which the schedule begins", item=Real(""))],
        max_lr: Annotated[Rates, PerGroup("the upper bound", item=Real(""))],
        step_size_up: Annotated[float, Real("epochs of the way up", interval=Interval("(0, inf)"))] = 2000,
        step_size_down: Annotated[
            float | None, Real("epochs of the way down; None means as many as up", optional=True)
        ] = None,
        mode: Annotated[str, Mode("the scale of the cycles")] = "triangular",
        gamma: Annotated[float, Real("the base of the scale in the mode exp_range")] = 1.0,
        scale_fn: Annotated[
            Callable[[float], float] | None, Function("a function in place of the mode's scale", optional=True)
        ] = None,
        scale_mode: Annotated[
            str, Choice("whether scale_fn takes the cycle or the epoch", options=("cycle", "iterations"))
        ] = "cycle",
        cycle_momentum: Annotated[bool, Flag("cycle the momentum, or the first beta, too")] = True,
        base_momentum: Annotated[Rates, PerGroup("the lower bound of the momentum", item=Real(""))] = 0.8,
        max_momentum: Annotated[
            Rates, PerGroup("the upper bound of the momentum, at which it begins", item=Real(""))
        ] = 0.9,
        last_epoch: LastEpoch = -1,
    ) -> None:
        given = check(type(self), locals())
        self._given_lrs = spread("base_lr", given["base_lr"], optimizer)
        self.max_lrs = spread("max_lr", given["max_lr"], optimizer)
        up, down = float(given["step_size_up"]), given["step_size_down"]
        self.total_size = up + (up if down is None else float(down))
        self.step_ratio = up / self.total_size
        self.mode, self.gamma, self._scale_fn_custom = mode, given["gamma"], given["scale_fn"]
        self._check_mode()
        custom, by_epoch = scale_fn is not None, mode == "exp_range"
        self.scale_mode = given["scale_mode"] if custom else "iterations" if by_epoch else "cycle"
        self.cycle_momentum = given["cycle_momentum"]
        if self.cycle_momentum:
            self._check_momentum(optimizer)
            self.base_momentums = spread("base_momentum", given["base_momentum"], optimizer)
            self.max_momentums = spread("max_momentum", given["max_momentum"], optimizer)
        super().__init__(optimizer, last_epoch)

    def _check_mode(self) -> None:
        if self.mode not in MODES and self._scale_fn_custom is None:
            raise ValueError(f"mode is invalid and scale_fn is None (mode must be one of {MODES}, got {self.mode!r})")

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        super()._load_values(own, state)
        self._check_mode()

    def _prepare(self, group: Group, i: int) -> None:
        super()._prepare(group, i)
        write_lr(group, self._given_lrs[i])

    def scale_fn(self, x: float) -> float:
        """Return the scale of a cycle, or of an epoch if ``scale_mode`` is "iterations"."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular":
            return 1.0
        return power(2.0, 1 - x) if self.mode == "triangular2" else power(self.gamma, x)

    def _place(self) -> tuple[float, float]:
        """Return the height in the cycle and the scale."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        return height, self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)

    def _next(self, lr: LR, i: int) -> LR:
        height, scale = self._place()
        return self.base_lrs[i] + (self.max_lrs[i] - self.base_lrs[i]) * height * scale

    def _momentum(self, i: int) -> float:
        height, scale = self._place()
        return self.max_momentums[i] - (self.max_momentums[i] - self.base_momentums[i]) * height * scale
