"""The words every update rule is written in.

Each elementary operation is one IEEE-754 operation rounded to nearest even. Nothing is contracted into a fused
multiply-add, reassociated or approximated, so a rule written in these words has one result, on every machine::

    add(x, c) = x + c        sub(x, y) = x - y       mul(x, c) = x * c        div(x, c) = x / c
    neg(x)    = -x           sqrt(x)                 absolute(x) = |x|        reciprocal(x, c) = (1 / x) * c
    rsqrt(x)  = 1 / sqrt(x)
    maximum(x, y)            minimum(x, y)           sign(x)                  where(condition, c, x)
    axpy(x, y, c)       = x + c * y
    addcmul(x, y, z, c) = x + (c * y) * z
    addcdiv(x, y, z, c) = x + (c * y) / z
    lerp(x, y, c)       = x + c * (y - x)  if |c| < 1/2  else  y - (y - x) * (1 - c)

``x y z`` are arrays, ``c`` is a scalar of the arithmetic type (or an array, where the formula allows one). Words are
pure: they return new arrays and write to none they were given, so any array that understands NumPy's functions passes
through them. ``kernels/harness/arith.cuh`` is the twin of this file.

Storage and arithmetic: float64 computes in float64; float32, float16 and bfloat16 compute in float32. A word applied to
a 16-bit array rounds its result to that storage (the rounding ``each``); an engine that widens arrays before a rule and
narrows them after it gets the rounding ``store`` from the same words. Complex arrays are pairs of reals (``as_reals``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""An array: NumPy's, or any type that understands NumPy's functions and operators."""

DType: TypeAlias = "np.dtype[Any]"

FLOATS = ("float16", "bfloat16", "float32", "float64")
COMPLEX: dict[str, DType] = {"complex64": np.dtype("float32"), "complex128": np.dtype("float64")}


class Undecided(TypeError):
    """A choice depends on a number whose value is not known."""


@cache
def storage(dtype: DType) -> DType:
    """Return the real storage type of ``dtype`` (a complex number is a pair of it), or raise TypeError."""
    if dtype.name in COMPLEX and dtype.isnative:
        return COMPLEX[dtype.name]
    if dtype.name in FLOATS and dtype.isnative:
        return dtype
    allowed = ", ".join((*FLOATS, *COMPLEX))
    raise TypeError(f"dtype {dtype.str if not dtype.isnative else dtype} is not supported: choose one of {allowed}")


@cache
def name_of(dtype: DType) -> str:
    """Return the name of ``dtype``, which NumPy puts together anew each time."""
    name: str = dtype.name
    return name


@cache
def arithmetic(dtype: DType) -> DType:
    """Return the type that arrays of ``dtype`` compute in: float64, or float32 for everything narrower."""
    return np.dtype("float64" if storage(dtype).itemsize == 8 else "float32")


def epsilon(dtype: DType) -> float:
    """Return the machine epsilon of a real storage type: the gap between 1 and the next number."""
    return 2.0 ** -{"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}[dtype.name]


def as_reals(x: Array) -> Array:
    """View a complex array as reals, shape ``(..., 2)``; return a real array as it is."""
    return x[..., None].view(COMPLEX[x.dtype.name]) if x.dtype.kind == "c" else x


def from_reals(x: Array, dtype: DType) -> Array:
    """Undo ``as_reals``: view pairs of reals as the complex ``dtype``; return a real array as it is."""
    return x.view(dtype)[..., 0] if dtype.kind == "c" else x


def is_narrow(x: Array) -> bool:
    """Tell whether ``x`` is stored in 16 bits."""
    return getattr(getattr(x, "dtype", None), "itemsize", 0) == 2


def widen(x: Array) -> Array:
    """Return ``x`` in its arithmetic type (exact)."""
    return x.astype(np.float32) if is_narrow(x) else x


def round_to(x: Array, like: Array) -> Array:
    """Round ``x`` to the storage type of ``like`` if that is a 16-bit type."""
    return x.astype(like.dtype) if like.dtype.itemsize == 2 else x


def to_bfloat16(x: Array) -> Array:
    """Round float32 to the nearest bfloat16 (ties to even), the result still held in float32."""
    bits = x.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


def word(exact: Callable[..., Array]) -> Callable[..., Array]:
    """Make a word of a formula: on 16-bit storage, widen its operands and round its result once."""

    @wraps(exact)
    def rounded(x: Array, *operands: Array) -> Array:
        if x.dtype.itemsize != 2:
            return exact(x, *operands)
        return round_to(exact(widen(x), *(widen(y) for y in operands)), x)

    return rounded


_PLAIN = {np.ndarray, np.float16, np.float32, np.float64}
"""Types of which NumPy's functions make arrays of its own."""


def _into(ufunc: np.ufunc, x: Array, y: Array, spare: Array) -> Array:
    """Apply ``ufunc``, into ``spare`` where all are NumPy's own arrays: a word may reuse what it made itself."""
    if type(spare) is np.ndarray and type(x) in _PLAIN and type(y) in _PLAIN:
        return ufunc(x, y, spare)
    return ufunc(x, y)


@word
def mul(x: Array, c: Array) -> Array:
    """X * c"""
    return x * c


@word
def div(x: Array, c: Array) -> Array:
    """X / c"""
    return x / c


@word
def sub(x: Array, y: Array) -> Array:
    """X - y"""
    return x - y


@word
def neg(x: Array) -> Array:
    """-x"""
    return -x


@word
def sqrt(x: Array) -> Array:
    """The correctly rounded square root."""
    return np.sqrt(x)


@word
def absolute(x: Array) -> Array:
    """|x|"""
    return np.abs(x)


@word
def sign(x: Array) -> Array:
    """1, -1, or +0 for both zeros and for NaN."""
    return np.subtract(x > 0, x < 0, dtype=x.dtype)


@word
def maximum(x: Array, y: Array) -> Array:
    """The larger of the two, ``x`` where they compare equal; NaN if either is NaN."""
    return np.where((x >= y) | (x != x), x, y)


@word
def minimum(x: Array, y: Array) -> Array:
    """The smaller of the two, ``x`` where they compare equal; NaN if either is NaN."""
    return np.where((x <= y) | (x != x), x, y)


def rsqrt(x: Array) -> Array:
    """1 / sqrt(x), two roundings"""
    return _inverse(sqrt(x))


def where(condition: Array, c: Array, x: Array) -> Array:
    """Put ``c``, rounded to the storage of ``x``, where the condition holds, and leave ``x`` elsewhere."""
    return np.where(condition, round_to(c, x), x)


@word
def _inverse(x: Array) -> Array:
    return 1 / x


def reciprocal(x: Array, c: Array) -> Array:
    """(1 / x) * c"""
    return mul(_inverse(x), c)


def add(x: Array, c: Array) -> Array:
    """X + c, with a scalar rounded first to the storage of ``x``"""
    return _sum(x, round_to(c, x))


@word
def _sum(x: Array, y: Array) -> Array:
    return x + y


def axpy(x: Array, y: Array, c: Array) -> Array:
    """X + c * y, with ``c`` rounded first to the storage of ``x``"""
    if x.dtype.itemsize == 2:
        return _sum(x, mul(y, round_to(c, x)))
    scaled = y * c
    return _into(np.add, x, scaled, scaled)


@word
def addcmul(x: Array, y: Array, z: Array, c: Array) -> Array:
    """X + (c * y) * z"""
    scaled = y * c
    product = _into(np.multiply, scaled, z, scaled)
    return _into(np.add, x, product, product)


@word
def addcdiv(x: Array, y: Array, z: Array, c: Array) -> Array:
    """X + (c * y) / z"""
    scaled = y * c
    quotient = _into(np.divide, scaled, z, scaled)
    return _into(np.add, x, quotient, quotient)


@word
def lerp(x: Array, y: Array, c: Array) -> Array:
    """X + c * (y - x) if |c| < 1/2, else y - (y - x) * (1 - c)"""
    gap = y - x
    try:
        near = abs(c) < 0.5
    except Undecided:
        return np.where(abs(c.foreign) < 0.5, x + gap * c, y - gap * (1 - c))
    if near:
        scaled = _into(np.multiply, gap, c, gap)
        return _into(np.add, x, scaled, scaled)
    scaled = _into(np.multiply, gap, 1 - c, gap)
    return _into(np.subtract, y, scaled, scaled)
