"""The wrappers of torch-optimizer.

Source: https://github.com/jettify/pytorch-optimizer, tried beside torch-optimizer itself.
"""

from __future__ import annotations

from ..numerics.arith import Array, axpy, mul, widen
from ..transforms import lookahead

__all__ = ["Lookahead"]


class Lookahead(lookahead.Lookahead):
    """Lookahead as torch-optimizer has it: the slow copies are made by the first step, and k steps are counted from it.

    .. code-block:: text

        step of the optimizer                             each step
        slow = p                                          in the first one
        p = alpha * p + (1 - alpha) * slow, slow = p      in steps 1, k + 1, 2 * k + 1 …

    ``count`` begins at -1. Arguments are those of ``refoptim.Lookahead``; torch-optimizer pulls no momentum back.
    """

    def _delay(self, k: int) -> int:
        return 1

    def _between(self, fast: Array, slow: Array, alpha: float) -> Array:
        x, y = widen(fast), widen(slow)
        return axpy(mul(x, x.dtype.type(alpha)), y, x.dtype.type(1 - alpha))
