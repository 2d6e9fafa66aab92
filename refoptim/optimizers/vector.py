"""Vectors, and the numbers read from them: what optimizers need that see all parameters as one vector of reals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from ..engines.twins import twinned
from ..numerics import arith, tree
from ..numerics.arith import Array, arithmetic, axpy
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


def dots(vectors: Sequence[Array]) -> Callable[[Array, Array], Number]:
    """Return what computes many dot products of vectors like the given ones: ``dot``, or a shorter way to the same."""
    x = vectors[0]
    short = tree.is_whole() and x.ndim == 1 and x.size <= tree.CHUNK and x.dtype == arithmetic(x.dtype)
    forms = {
        *zip(map(type, vectors), map(attrgetter("shape"), vectors), map(attrgetter("dtype"), vectors), strict=True)
    }
    return tree.Dots(x.size, x.dtype) if short and forms == {(np.ndarray, x.shape, x.dtype)} else dot


@twinned
def sum_absolute(x: Array) -> Number:
    """The sum of the absolute values."""
    return _number(tree.total(arith.absolute, x))


@twinned
def largest(*vectors: Array) -> list[Number]:
    """The largest absolute value of each vector; 0 if it is empty, NaN if it holds one."""
    on_host = (x if isinstance(x, np.ndarray) else moved(x, HOST) for x in vectors)
    found = np.array([[np.maximum(x.max(initial=0), -x.min(initial=0)) for x in on_host]])
    return [*tree.joined(found).max(axis=0)]


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
    ends, end = None, 0
    if len(arrays) > 1 and d.size <= tree.CHUNK:  # at once, which takes less time than one by one
        ends = axpy(gathered(arrays) if origin is None else origin, d, t)
    for x in arrays:
        begin, end = end, end + x.size
        if ends is None:
            source = x if origin is None else origin[begin:end].reshape(x.shape)
            x[...] = axpy(source, d[begin:end].reshape(x.shape), t)
        else:
            x[...] = ends[begin:end].reshape(x.shape)


def gathered(arrays: Sequence[Array]) -> Array:
    """Copy arrays into one vector."""
    return np.concatenate([x.reshape(-1) for x in arrays])
