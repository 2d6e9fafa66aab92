"""ReduceLROnPlateau."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from reprlib import repr as short
from typing import Annotated, Any, ClassVar, SupportsFloat

from ..optimizers.base import Optimizer
from ..step.groups import Group
from ..step.hyper import Choice, Count, Flag, Interval, Real
from .base import EPOCH_DEPRECATION_WARNING, EPOCHS, LR, LRScheduler, check
from .measured import MeasuredScheduler
from .per_group import PerGroup, Rates, spread
from .saved import COUNT, NOT_NAN, UNSIGNED, ListOf
from .stage import read_lr, write_lr

Waiting = Interval("[0, inf)")
UNSIGNED_OR_NONE = replace(UNSIGNED, optional=True)


def real(metric: Any) -> float:
    """Return a metric as a float, or raise TypeError; an array may hold it, of any shape with one element."""
    element = metric.item() if hasattr(metric, "item") and prod(getattr(metric, "shape", ())) == 1 else metric
    if not hasattr(element, "__float__"):
        raise TypeError(f"metrics must be a real number, got {short(metric)}")
    try:
        return float(element)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"metrics must be a real number, got {short(metric)}: {error}") from error
    except OverflowError as error:
        raise ValueError(f"metrics must be a number that fits into a double, got {short(metric)}") from error


class ReduceLROnPlateau(MeasuredScheduler):
    """Multiplies the learning rate by ``factor`` when a metric has stopped improving.

    .. code-block:: text

        better, if mode is    min, rel: metric < best * (1 - threshold)    min, abs: metric < best - threshold
                              max, rel: metric > best * (1 + threshold)    max, abs: metric > best + threshold
        after more than ``patience`` epochs that were not better:  lr = max(lr * factor, min_lr)
        where that lowers lr by more than ``eps``; then ``cooldown`` epochs are not counted

    NaN is not better. A relative threshold does not suit metrics that may be negative. In a sequence it begins at its
    milestone with the base learning rates and no metric known; the metric given with that step is of the epoch before.
    """

    _per_group: ClassVar[dict[str, str]] = {"min_lrs": "min_lr"}
    _optional = LRScheduler._optional | {"verbose", "default_min_lr", "mode_worse"}
    _rates = LRScheduler._rates | {"min_lrs"}
    _kept = {
        **LRScheduler._kept,
        "best": NOT_NAN,
        "cooldown_counter": COUNT,
        "num_bad_epochs": COUNT,
        "min_lrs": ListOf("", item=UNSIGNED),
    }

    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    eps: float
    verbose: bool

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Annotated[
            str, Choice("whether less or more is better", options=("min", "max"), stem="mode {value} is unknown!")
        ] = "min",
        factor: Annotated[
            float,
            Real("the factor of a reduction", stem="Factor should be < 1.0. Got {value}", interval=Interval("[0, 1)")),
        ] = 0.1,
        patience: Annotated[int, Count("epochs without improvement that are endured", interval=Waiting)] = 10,
        threshold: Annotated[float, Real("how much better counts")] = 1e-4,
        threshold_mode: Annotated[
            str,
            Choice(
                "whether the threshold is relative to the best metric",
                options=("rel", "abs"),
                stem="threshold mode {value} is unknown!",
            ),
        ] = "rel",
        cooldown: Annotated[int, Count("epochs after a reduction that are not counted", interval=Waiting)] = 0,
        min_lr: Annotated[Rates, PerGroup("the lowest learning rate", item=Real(""))] = 0,
        eps: Annotated[float, Real("a smaller reduction is not made")] = 1e-8,
        verbose: Annotated[bool, Flag("print each reduction")] = False,
    ) -> None:
        given = check(type(self), locals())
        lowest = given.pop("min_lr")
        vars(self).update(given)
        self.min_lrs = spread("min_lr", lowest, optimizer, "expected {} min_lrs, got {}: ")
        self.default_min_lr = None if isinstance(lowest, list) else lowest
        self.optimizer = optimizer
        with self._trial() as trial:
            trial._begin(-1)

    def _begin(self, last_epoch: int) -> None:
        self.last_epoch, self.base_lrs, self._starts = last_epoch, [], []
        self._admit()
        self._initial_step()

    def _initial_step(self) -> None:
        self._reset()
        self._note()

    def _rewind(self) -> None:
        self._reset()

    def _reset(self) -> None:
        """Forget all metrics."""
        self.last_epoch = 0
        self.mode_worse = math.inf if self.mode == "min" else -math.inf
        self.best = self.mode_worse
        self.cooldown_counter = self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether epochs are not counted, after a reduction."""
        return self.cooldown_counter > 0

    def get_lr(self) -> list[Any]:
        """Not defined: what is next depends on the metric."""
        raise NotImplementedError

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take in the metric of an epoch and reduce the learning rates where it is time.

        Args:
            metrics: the metric, a real number.
            epoch: deprecated; the number of the epoch.

        Raises:
            TypeError, ValueError: ``metrics`` is no number that fits into a double. Nothing has changed then.
            RuntimeError: a group was added to the optimizer, and ``min_lr`` was given as a list.
        """
        metric = real(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        with self._trial() as trial:
            trial._admit()
            trial.last_epoch = trial.last_epoch + 1 if epoch is None else EPOCHS.resolve("epoch", epoch)
            trial._count(metric)
            if trial.num_bad_epochs > trial.patience:
                trial._reduce()
            trial._note()

    def _go(self, metric: Any) -> None:
        if metric is None:
            raise TypeError("metrics must be given where ReduceLROnPlateau steps: step(metrics)")
        self.step(metric)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin at the base learning rates, with no metric known; another scheduler says when."""
        self._admit()
        for actual, group in zip(self.optimizer.groups, self.optimizer.param_groups, strict=True):
            write_lr(group, next(self._bases(actual), read_lr(group)))
        self._initial_step()

    def _admit(self) -> None:
        """Take in groups that came later, but while some have no ``min_lr`` of their own."""
        if self.default_min_lr is not None:
            missing = len(self.optimizer.groups) - len(self.min_lrs)
            self.min_lrs = [*self.min_lrs, *[self.default_min_lr] * missing]
        if len(self.min_lrs) >= len(self.optimizer.groups):
            super()._admit()

    def _join(self, group: Group, i: int) -> None:
        held = "initial_lr" in group
        super()._join(group, i)
        if not held:
            del group["initial_lr"]

    def _start(self, group: Group, i: int) -> LR:
        return read_lr(group)

    def _count(self, metric: float) -> None:
        """Count the epochs without improvement."""
        if self._is_better(metric, self.best):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0

    def _reduce(self) -> None:
        """Reduce the learning rates."""
        self._check_groups()
        for i, group in enumerate(self.optimizer.param_groups):
            old = float(read_lr(group))
            new = max(old * self.factor, self.min_lrs[i])
            if old - new > self.eps:
                write_lr(group, new)
                if self.verbose and not self.optimizer.silent:
                    print(f"Epoch {self.last_epoch:5d}: reducing learning rate of group {i} to {new:.4e}.")
        self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _check_groups(self) -> None:
        n = len(self.optimizer.param_groups)
        if n != len(self._groups):
            raise RuntimeError(
                f"The number of param groups in the `optimizer` ({n}) differs from when `ReduceLROnPlateau` was "
                f"initialized ({len(self._groups)}), usually due to a new param group being added to the "
                f"optimizer. Please modify the `min_lrs` field to match the length of the `optimizer` param groups."
            )

    def _is_better(self, metric: float, best: float) -> bool:
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return metric < (best * (1.0 - self.threshold) if relative else best - self.threshold)
        return metric > (best * (self.threshold + 1.0) if relative else best + self.threshold)

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        modern = {**state, "verbose": bool(state.get("verbose", self.verbose))}
        lowest = modern.pop("default_min_lr", self.default_min_lr)
        super()._load_values(own, modern)
        self.default_min_lr = UNSIGNED_OR_NONE.resolve("default_min_lr", lowest)
        self.mode_worse = math.inf if self.mode == "min" else -math.inf

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
