"""Vectors, and the numbers read from them: what optimizers need that see all parameters as one vector of reals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..engines.twins import twinned
from ..numerics import arith, tree
from ..numerics.arith import Array, axpy
from ..numerics.array_types import HOST, moved

Number: TypeAlias = Any
"""A Python number, or a NumPy scalar of the parameters' dtype."""


def _number(x: Any) -> Number:
    """Return a number as a NumPy scalar, read from its device if it lies on one."""
    return x if isinstance(x, np.generic) else x.dtype.type(x.item())


@twinned
def dot(x: Array, y: Array) -> Number:
    """The sum of x * y."""
    return _number(tree.dot(x, y))


@twinned
def sum_absolute(x: Array) -> Number:
    """The sum of the absolute values."""
    return _number(tree.total(arith.absolute, x))


@twinned
def largest(*vectors: Array) -> list[Number]:
    """The largest absolute value of each vector; 0 if it is empty, NaN if it holds one."""
    on_host = (x if isinstance(x, np.ndarray) else moved(x, HOST) for x in vectors)
    return [np.maximum(x.max(initial=0), -x.min(initial=0)) for x in on_host]


@twinned
def negated(x: Array) -> Array:
    """-x"""
    return arith.neg(x)


@twinned
def downhill(g: Array) -> tuple[Array, Number]:
    """Return the direction of steepest descent, -g, and the slope along it."""
    d = arith.neg(g)
    return d, dot(g, d)


@twinned
def move(arrays: Sequence[Array], d: Array, t: Number, origin: Array | None) -> None:
    """Put arrays ``t`` times ``d`` away from ``origin``, or from where they are; the vectors are as long as all."""
    end = 0
    for x in arrays:
        begin, end = end, end + x.size
        source = x if origin is None else origin[begin:end].reshape(x.shape)
        x[...] = axpy(source, d[begin:end].reshape(x.shape), t)
