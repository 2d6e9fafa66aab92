"""ReduceLROnPlateau."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, SupportsFloat

import numpy as np

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.hyper import Choice, Count, Flag, Interval, Real
from .base import EPOCH_DEPRECATED, EPOCHS, LRScheduler, check, check_lr, read_lr, write_lr
from .per_group import PerGroup, Rates, spread

Waiting = Interval("[0, inf)")


def _real(metric: Any) -> float:
    """Return a metric as a float, or raise TypeError."""
    if not hasattr(metric, "__float__"):
        raise TypeError(f"metrics must be a real number, got {metric!r}")
    return float(metric)


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the learning rate by ``factor`` when a metric has stopped improving.

    .. code-block:: text

        better, if mode is    min, rel: metric < best * (1 - threshold)    min, abs: metric < best - threshold
                              max, rel: metric > best * (1 + threshold)    max, abs: metric > best + threshold
        after more than ``patience`` epochs that were not better:  lr = max(lr * factor, min_lr)
        where that lowers lr by more than ``eps``; then ``cooldown`` epochs are not counted

    NaN is not better. A relative threshold does not suit metrics that may be negative.
    """

    _optional = LRScheduler._optional | {"verbose"}

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
        for i, group in enumerate(optimizer.param_groups):
            check_lr(i, group)
        self.optimizer = optimizer
        self._note()
        self.base_lrs, self._starts = list(self._last_lr), [[-1, lr] for lr in self._last_lr]
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
            TypeError: ``metrics`` is no number. Nothing has changed then.
            RuntimeError: a group was added to the optimizer, and ``min_lr`` was given as a list.
        """
        metric = _real(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATED, UserWarning, stacklevel=2)
        with self._trial() as trial:
            trial.last_epoch = trial.last_epoch + 1 if epoch is None else EPOCHS.resolve("epoch", epoch)
            trial._count(metric)
            if trial.num_bad_epochs > trial.patience:
                trial._reduce()
            trial._note()

    def _admit(self) -> None:
        """Groups are taken as they come."""

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
                if self.verbose:
                    print(f"Epoch {self.last_epoch:5d}: reducing learning rate of group {i} to {new:.4e}.")
        self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _check_groups(self) -> None:
        n = len(self.optimizer.param_groups)
        if n != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({n}) differs from when `ReduceLROnPlateau` was "
                    f"initialized ({len(self.min_lrs)}), usually due to a new param group being added to the "
                    f"optimizer. Please modify the `min_lrs` field to match the length of the `optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * n

    def _is_better(self, metric: float, best: float) -> bool:
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return metric < (best * (1.0 - self.threshold) if relative else best - self.threshold)
        return metric > (best * (self.threshold + 1.0) if relative else best + self.threshold)

    def lr_at(self, epoch: int, metrics: Iterable[SupportsFloat] = ()) -> list[float]:
        """Return the learning rates after ``epoch`` steps from the beginning, one per group, changing nothing.

        Args:
            epoch: an integer in [0, inf).
            metrics: the metrics of the steps; where there are none left, nothing is better any more.
        """
        trial = self._silent_copy()
        trial._set_starts(-1)
        trial._reset()
        trial._follow(EPOCHS.resolve("epoch", epoch), metrics)
        return trial._lrs()

    def preview(self, n: int, metrics: Iterable[SupportsFloat] = ()) -> Array:
        """Return the learning rates that the ``n`` coming calls of ``step`` will set, changing nothing.

        Args:
            n: an integer in [0, inf).
            metrics: the metrics of these steps; where there are none left, nothing is better any more.

        Returns:
            A float64 array of shape (n, groups).
        """
        rows = self._silent_copy()._follow(EPOCHS.resolve("n", n), metrics)
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.optimizer.param_groups))

    def _silent_copy(self) -> ReduceLROnPlateau:
        copied = self._copy()
        copied.verbose = False
        return copied

    def _follow(self, n: int, metrics: Iterable[SupportsFloat]) -> list[list[float]]:
        coming = iter(metrics)
        rows = []
        for _ in range(n):
            self.step(next(coming, math.nan))
            rows.append(self._lrs())
        return rows

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
