"""Arguments that may differ from group to group: one value for all of them, or a list with one each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from ..optimizers.base import Optimizer
from ..step.hyper import Hyper, Real, Scalar

Schedule: TypeAlias = Callable[[int], float]


ANY_NUMBER = Real("")


@dataclass(frozen=True)
class PerGroup(Hyper):
    """One value, or a list with one for each group."""

    item: Hyper = ANY_NUMBER

    def _resolve(self, name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.item.resolve(f"{name}[{i}]", x) for i, x in enumerate(value)]
        return self.item.resolve(name, value)

    def _range(self) -> str:
        return f"{self.item.range}, or a list of such, one per group"


@dataclass(frozen=True)
class Function(Hyper):
    """A function."""

    def _resolve(self, name: str, value: Any) -> Any:
        if not callable(value):
            raise TypeError(f"{name.partition('[')[0]} should be a function, but got {type(value).__name__} as {name}")
        return value

    def _range(self) -> str:
        return "a function"


Functions = Annotated[
    Schedule | list[Schedule],
    PerGroup("a function of the epoch, which gives the factor; or a list of them, one per group", item=Function("")),
]
Rates: TypeAlias = Scalar | list[Scalar]


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError if this is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        hint = " of refoptim: torch's own schedulers take it" if hasattr(optimizer, "param_groups") else ""
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer{hint}")


def spread(name: str, value: Any, optimizer: Any, stem: str = "") -> list[Any]:
    """Return an argument as a list with one value per group of the optimizer, or raise ValueError."""
    check_optimizer(optimizer)
    n = len(optimizer.param_groups)
    if not isinstance(value, list):
        return [value] * n
    if len(value) != n:
        stem = stem or f"{name} must have the same length as optimizer.param_groups. "
        raise ValueError(stem.format(n, len(value)) + f"{name} has {len(value)} values, param_groups has {n}.")
    return value
