"""The wrappers of timm.

Source: https://github.com/huggingface/pytorch-image-models, timm/optim, tried beside timm itself.
"""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, axpy, sub, widen
from ..transforms import lookahead

__all__ = ["Lookahead"]


class Lookahead(lookahead.Lookahead):
    """Lookahead as timm has it: the slow copies are made by the first k-th step, which then moves nothing.

    .. code-block:: text

        step of the optimizer                             each step
        slow = p                                          in the first k-th one
        slow = slow + alpha * (p - slow), p = slow        in each k-th one

    ``count`` begins at ``-k``. timm leaves out a parameter that has no gradient in a k-th step; here it is drawn back.

    Args:
        optimizer: any but a Sharded one.
        alpha: how far the slow copies follow, in [0, 1].
        k: the steps between, 1 or more.
    """

    def __init__(self, optimizer: Any, alpha: float = 0.5, k: int = 6) -> None:
        super().__init__(optimizer, alpha, k)

    def _delay(self, k: int) -> int:
        return k

    def _between(self, fast: Array, slow: Array, alpha: float) -> Array:
        x, y = widen(fast), widen(slow)
        return axpy(y, sub(x, y), x.dtype.type(alpha))
