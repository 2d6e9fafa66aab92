"""PiecewiseInterpolateLR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Annotated, Any

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.hyper import Choice, Count, Hyper, Interval, Real
from .base import LR, LastEpoch, check
from .of_step import OfStep

BOUNDARY = Count("", interval=Interval("[0, inf)"))
SCALE = Real("")


@dataclass(frozen=True)
class Scales(Hyper):
    """A dict from steps to factors, or a list of such pairs; it becomes a list in the order of the steps."""

    def _resolve(self, name: str, value: Any) -> list[list[float]]:
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        is_pairs = isinstance(pairs, (list, tuple)) and all(isinstance(x, (list, tuple)) and len(x) == 2 for x in pairs)
        if not is_pairs:
            raise TypeError(f"{name} must be {self.range}, got {value!r}")
        checked = [[BOUNDARY.resolve(f"boundary of {name}", x), SCALE.resolve(f"scale of {name}", y)] for x, y in pairs]
        if len({x for x, _ in checked}) < len(checked):
            raise ValueError(f"{name} has a boundary twice: {value!r}")
        return sorted(checked)

    def _range(self) -> str:
        return "a dict from steps to factors, both in [0, inf), or a list of such pairs"


class PiecewiseInterpolateLR(OfStep):
    """Sets a learning rate that goes from value to value, on straight lines or on cosines.

    .. code-block:: text

        b, v  = the last boundary with b <= n, and the value there    (0 and init_value before the first)
        c     = the boundary that follows
        u     = v * scale                                             the scale of that boundary
        q     = (n - b) / (c - b)
        lr(n) = (u - v) * q + v                                       linear
        lr(n) = u + (v - u) / 2 * (cos(pi * q) + 1)                   cosine
        lr(n) = v                                                     after the last boundary

    The values are learning rates, the same for all groups, whatever ``lr`` they had. Each scale multiplies what the
    scales before it made. Without ``boundaries_and_scales`` the learning rate is ``init_value``.

    The rule is that of ``piecewise_interpolate_schedule`` in optax.
    """

    interpolate_type: str
    init_value: float
    boundaries_and_scales: list[list[float]] | None

    def __init__(
        self,
        optimizer: Optimizer,
        interpolate_type: Annotated[str, Choice("the shape of the ways", options=("linear", "cosine"))],
        init_value: Annotated[float, Real("the first learning rate")],
        boundaries_and_scales: Annotated[
            Mapping[int, float] | Sequence[Sequence[float]] | None,
            Scales("the steps at which a value is reached, and the factor that each is of the one before", True),
        ] = None,
        last_epoch: LastEpoch = -1,
    ) -> None:
        vars(self).update(check(type(self), locals()))
        super().__init__(optimizer, last_epoch)

    def _rate(self, n: float, i: int) -> LR:
        pairs = self.boundaries_and_scales or []
        bounds = [0, *(x for x, _ in pairs)]
        values = list(accumulate((self.init_value, *(scale for _, scale in pairs)), mul))
        j = max(sum(x <= n for x in bounds) - 1, 0)
        if j == len(pairs):
            return values[j]
        return self._between(values[j], values[j + 1], (n - bounds[j]) / (bounds[j + 1] - bounds[j]))

    def _between(self, start: float, end: float, q: float) -> float:
        if self.interpolate_type == "linear":
            return (end - start) * q + start
        return end + (start - end) / 2.0 * (cos(math.pi * q) + 1)
