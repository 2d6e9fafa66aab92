"""Scaled losses: what divides the gradients of a step, and what skips it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numerics.array_types import at, on_gpu, place
from . import hyper as hp


class Scaling:
    """What a step is told about the loss whose gradients it gets.

    Args:
        grad_scale: the factor by which the loss was multiplied, None for 1.
        found_inf: True, or other than 0 (or None), if some gradient overflowed; the step is skipped then.

    Either may be an array of one element. A float32 array on a GPU is read there, by the kernels, if they can do so;
    so is a boolean ``found_inf``.

    Raises:
        TypeError, ValueError: an argument is no real number, or the factor is not in (0, inf) in float32, or an array
            on a GPU is not one of those above.
    """

    def __init__(self, grad_scale: Any = None, found_inf: Any = None) -> None:
        if on_gpu(found_inf) and found_inf.dtype == bool:
            with at(place(found_inf)):
                found_inf = found_inf.astype(np.float32)
        self.grad_scale, self.found_inf = grad_scale, found_inf
        for name, x in (("grad_scale", grad_scale), ("found_inf", found_inf)):
            if on_gpu(x) and (x.size != 1 or x.dtype != np.float32):
                raise TypeError(f"{name} on a GPU must be a float32 array of one element, got {x.shape} of {x.dtype}")
        if not on_gpu(grad_scale):
            self.scale()
        if not on_gpu(found_inf):
            self.skips()

    def scale(self) -> float | None:
        """Return the factor, rounded to float32, as a Python number; None if there is none."""
        return None if self.grad_scale is None else _scale(self.grad_scale)

    def skips(self) -> bool:
        """Tell whether the step is skipped."""
        return self.found_inf is not None and _is_set(self.found_inf)


UNSCALED = Scaling()
"""What a step is told that is told nothing."""


def _is_set(found_inf: Any) -> bool:
    """Tell whether a number is not 0, or a flag set, held by an array perhaps."""
    x = found_inf
    if math.prod(getattr(x, "shape", (0,))) == 1 and not isinstance(x, np.ma.MaskedArray):
        x = x.item()
    return x if isinstance(x, bool) else hp.number("found_inf", found_inf) != 0


def _scale(grad_scale: Any) -> float:
    with np.errstate(all="ignore"):
        x = float(np.float32(hp.number("grad_scale", grad_scale)))
    if not 0 < x < math.inf:
        raise ValueError(f"grad_scale must be in (0, inf) as a float32 number, got {grad_scale!r}")
    return x
