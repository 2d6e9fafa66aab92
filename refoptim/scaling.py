"""Scaled losses: what divides the gradients of a step, and what skips it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import hyper as hp


class Scaling:
    """What a step is told about the loss whose gradients it gets.

    Args:
        grad_scale: the factor by which the loss was multiplied, None for 1.
        found_inf: other than 0 (or None) if some gradient overflowed; the step is skipped then.

    Attributes:
        scale: the factor, rounded to float32, as a Python number; None if there is none.
        skips: whether the step is skipped.
        given: whether any of this was said.

    Raises:
        TypeError, ValueError: an argument is no real number, or the factor is not in (0, inf) in float32.
    """

    def __init__(self, grad_scale: Any = None, found_inf: Any = None) -> None:
        self.given = grad_scale is not None or found_inf is not None
        self.scale = None if grad_scale is None else _scale(grad_scale)
        self.skips = found_inf is not None and _is_set(found_inf)


def _is_set(found_inf: Any) -> bool:
    if isinstance(found_inf, (bool, np.bool_)):
        return bool(found_inf)
    return hp.number("found_inf", found_inf) != 0


def _scale(grad_scale: Any) -> float:
    with np.errstate(all="ignore"):
        x = float(np.float32(hp.number("grad_scale", grad_scale)))
    if not 0 < x < math.inf:
        raise ValueError(f"grad_scale must be in (0, inf) as a float32 number, got {grad_scale!r}")
    return x
