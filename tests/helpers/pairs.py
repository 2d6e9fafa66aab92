"""Two optimizers side by side, one with kernels and one without."""

from __future__ import annotations

from typing import Any

import numpy as np

import refoptim
from refoptim import Optimizer


def pair(name: str, params: list[Any], **more: Any) -> tuple[Optimizer, Optimizer]:
    """Return two optimizers of copies of the same arrays, one fused; copies keep the layout."""
    cls, others = getattr(refoptim, name), copies(params)
    return cls(params, fused=True, **more), cls(others, **more)


def copies(params: list[Any]) -> list[Any]:
    return [copy_of(x) for x in params]


def copy_of(x: Any) -> Any:
    """Copy an array with its order in memory; gaps between its numbers are closed."""
    return np.array(x, order="K", subok=True)


def step(one: Optimizer, other: Optimizer, grads: list[Any], **more: Any) -> None:
    """Take a step with both; the reference rounds 16-bit numbers as kernels do."""
    one.step(grads=grads, **more)
    with refoptim.rounding("store"):
        other.step(grads=grads, **more)
