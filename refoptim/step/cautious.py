"""The flag ``cautious``: a step goes nowhere against the gradient, and the further elsewhere.

.. code-block:: text

    agree = u * g > 0
    u     = u * (agree / max(count(agree) / size, 1 / 1000))

``u`` is the direction before the learning rate, ``g`` the gradient after maximize and coupled decay; the count is over
a whole parameter. State is never masked. A rule writes ``masked(s, u, g)`` where its direction is known; that is ``u``
itself unless the record has a ``caution``: what divides the mask, or what takes note of it when elements are counted.

Source: Liang, Chen, Liu, Liu, "Cautious optimizers: improving training with one line of code", 2024, arXiv 2411.16085.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, div, mul, where, widen

LEAST = 1 / 1000
"""The least share of elements by which the others are scaled up."""


def masked(s: Any, u: Array, g: Array) -> Array:
    """Leave out of a direction what does not agree with the gradient, and scale the rest up, in a cautious step."""
    if not s.caution:
        return u
    agree = mul(u, g) > 0
    if callable(s.caution):
        s.caution(agree)
        return u
    return mul(u, div(where(agree, u.dtype.type(1), np.zeros_like(u)), s.caution))


def agreement(half: Callable[..., Any], s: Any, p: Array, g: Array, *state: Array) -> float:
    """Return the share of the elements whose direction agrees with the gradient, at least LEAST.

    ``half`` is a part of a rule that masks a direction; ``state`` holds None for what it is to make.
    """
    counts: list[int] = []
    counting = SimpleNamespace(**{**vars(s), "caution": lambda agree: counts.append(int(np.count_nonzero(agree)))})
    for block in tree.blocks(p.shape):
        half(counting, *(x if x is None else widen(tree.take(x, block)) for x in (p, g, *state)))
    size: int = p.size
    return max(float(sum(counts)) / max(1, size), LEAST)
