"""What ReduceLROnPlateau and the schedulers made of schedulers share: what is next may depend on metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsFloat

from ..numerics.arith import Array
from .base import LRScheduler


class MeasuredScheduler(LRScheduler):
    """Base of the schedulers that take metrics, or whose members may."""

    def lr_at(self, epoch: int, metrics: Iterable[SupportsFloat] = ()) -> list[float]:
        """Return the learning rates after ``epoch`` steps from the beginning, one per group, changing nothing.

        Args:
            epoch: an integer in [0, inf).
            metrics: the metrics of the steps; where there are none left, nothing is better any more.
        """
        return self._lr_at(epoch, metrics)

    def preview(self, n: int, metrics: Iterable[SupportsFloat] = ()) -> Array:
        """Return the learning rates that the ``n`` coming calls of ``step`` will set, changing nothing.

        Args:
            n: an integer in [0, inf).
            metrics: the metrics of these steps; where there are none left, nothing is better any more.

        Returns:
            A float64 array of shape (n, groups).
        """
        return self._preview(n, metrics)
