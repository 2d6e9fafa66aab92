"""Numbers kept in 8 bits: blocks of consecutive elements, each with a scale, and a table of 256 numbers.

An element is ``scale * table[code]``, in float32. ``kernels/harness/coded.cuh`` is the twin of this file.

Source: Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit optimizers via block-wise quantization", ICLR 2022; codes and
scales are those of torchao.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from .arith import Array, DType, absolute, div, maximum, mul, sub

CODE: DType = np.dtype(np.uint8)
"""The dtype of codes."""

SINGLE: DType = np.dtype(np.float32)
"""The dtype of scales and tables, and of all that is computed with them."""

PARTS = ("scale", "qmap")
"""What is kept beside the codes of an array ``x``: ``x_scale``, a number for each block, and ``x_qmap``, the table."""

FLOOR = 1e-12
"""The least scale that a block gets."""

TENS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""The powers of ten that a table spans."""


def parts_of(name: str) -> tuple[str, str]:
    """Return the names of what is kept beside the codes of an array."""
    scale, table = (f"{name}_{part}" for part in PARTS)
    return scale, table


class Code(NamedTuple):
    """How an array is kept: the table that it begins with, and the number of elements of a block."""

    table: Array
    block: int


@cache
def table(signed: bool) -> Array:
    """Return the 256 numbers of a code, sorted: between 0 and 1, or between -1 and 1 if it is signed.

    Seven times more and more numbers of one power of ten, the middles of equal parts of [0.1, 1]; 0 and 1 besides.
    Every operation is one of float32, rounded.
    """
    above = [SINGLE.type(ten) * _middles(1 << (i + (not signed))) for i, ten in enumerate(TENS)]
    values = [*above, *(-x for x in above if signed), np.array([0, 1], SINGLE)]
    return np.sort(np.concatenate(values))


def _middles(n: int) -> Array:
    """Return the middles of n equal parts of [0.1, 1], whose ends are counted from the nearer end of the interval."""
    first, last = SINGLE.type(0.1), SINGLE.type(1)
    step, i = (last - first) / SINGLE.type(n), np.arange(n + 1)
    ends = np.where(i < (n + 1) // 2, first + step * i.astype(SINGLE), last - step * (n - i).astype(SINGLE))
    return (ends[:-1] + ends[1:]) / SINGLE.type(2)


def decoded(codes: Array, scale: Array, table: Array) -> Array:
    """Return the numbers of codes of shape (blocks, elements); ``scale`` has one for each block."""
    return mul(table[codes], scale[:, None])


def encoded(x: Array, table: Array, floor: float = FLOOR) -> tuple[Array, Array]:
    """Return the codes and the scales of float32 numbers of shape (blocks, elements).

    The scale is the largest magnitude of a block, at least ``floor``. The code is that of the nearest number of the
    table, of two as near the larger one; that of NaN is 0.
    """
    scale = maximum(absolute(x).max(axis=1), SINGLE.type(floor))
    y = div(x, scale[:, None])
    code = below(y, table)
    up = np.minimum(code, CODE.type(254)) + CODE.type(1)
    gap = sub(table[up], table[code])
    return np.where(sub(y, table[code]) >= mul(gap, SINGLE.type(0.5)), up, code), scale


def below(y: Array, table: Array) -> Array:
    """Return the code of the last number of the table that is not above ``y``; 0 where there is none, and for NaN."""
    code = np.zeros_like(y, CODE)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        up = code + CODE.type(bit)
        code = np.where(y >= table[up], up, code)
    return code
