"""The one table of what instructions compute: pure functions of numbers, one or many at once.

Arithmetic is NumPy's, which is IEEE 754's, rounded to nearest even. What is not in the table is not executed: products
contracted with sums, flushes to zero, approximations and other roundings are left out on purpose, and so are additions
and products without ``.rn``, which a compiler may contract.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .text import SIZES

DTYPES = {type_: np.dtype(f"u{size}") for type_, size in SIZES.items()}
DTYPES |= {type_: np.dtype(f"i{SIZES[type_]}") for type_ in ("s8", "s16", "s32", "s64")}
DTYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype(bool)}
"""The numbers of each type; those that NumPy has not are bits."""

FLOATS = ("f32", "f64")
SIGNED, UNSIGNED = ("s16", "s32", "s64"), ("u16", "u32", "u64")
BITS = ("b16", "b32", "b64")

WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


class Operation(NamedTuple):
    """An instruction that computes: the types it takes, the type it gives, and how."""

    takes: tuple[str, ...]
    gives: str
    compute: Callable[..., Any]


TABLE: dict[str, Operation] = {}
"""Every instruction that computes, by its full name."""


def define(name: str, takes: tuple[str, ...], gives: str, compute: Callable[..., Any]) -> None:
    assert name not in TABLE, name
    TABLE[name] = Operation(takes, gives, compute)


def define_each(name: str, types: tuple[str, ...], count: int, compute: Callable[..., Any]) -> None:
    """Define an instruction for numbers of each type, of which it takes ``count`` and gives one."""
    for type_ in types:
        define(f"{name}.{type_}", (type_,) * count, type_, compute)


# -------------------------------------------------------------------------------------------------- arithmetic


def reciprocal(x: Any) -> Any:
    return x.dtype.type(1) / x


def least(x: Any, y: Any) -> Any:
    """Return the smaller number; NaN counts as none, and -0 is less than +0."""
    first = (x < y) | ((x == y) & np.signbit(x)) | np.isnan(y)
    return np.where(first, x, y)


def greatest(x: Any, y: Any) -> Any:
    """Return the larger number; NaN counts as none, and -0 is less than +0."""
    first = (x > y) | ((x == y) & ~np.signbit(x)) | np.isnan(y)
    return np.where(first, x, y)


def negated(x: Any) -> Any:
    """Turn the sign round, of zeros and NaN too."""
    return (_bits(x) ^ _sign(x)).view(x.dtype)


def magnitude(x: Any) -> Any:
    """Take the sign away, of zeros and NaN too."""
    return (_bits(x) & ~_sign(x)).view(x.dtype)


def _bits(x: Any) -> Any:
    return x.view(f"u{x.itemsize}")


def _sign(x: Any) -> Any:
    return _bits(x).dtype.type(1 << (8 * x.itemsize - 1))


for _name, _compute in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}.items():
    define_each(f"{_name}.rn", FLOATS, 2, _compute)
define_each("sqrt.rn", FLOATS, 1, np.sqrt)
define_each("rcp.rn", FLOATS, 1, reciprocal)
define_each("min", FLOATS, 2, least)
define_each("max", FLOATS, 2, greatest)
define_each("neg", FLOATS, 1, negated)
define_each("abs", FLOATS, 1, magnitude)


# ---------------------------------------------------------------------------------------------------- integers


def quotient(x: Any, y: Any) -> Any:
    """Divide towards zero; what a division by zero gives is not defined, and is all ones here."""
    divisor = np.where(y == 0, 1, y).astype(x.dtype)
    down = x // divisor
    towards_zero = down + ((down * divisor != x) & ((x < 0) != (divisor < 0))).astype(x.dtype)
    return np.where(y == 0, ~x.dtype.type(0), towards_zero)


def remainder(x: Any, y: Any) -> Any:
    return x - quotient(x, y) * y


def wide_product(dtype: Any, x: Any, y: Any) -> Any:
    return x.astype(dtype) * y.astype(dtype)


def product_and_sum(x: Any, y: Any, z: Any) -> Any:
    return x * y + z


def wide_product_and_sum(dtype: Any, x: Any, y: Any, z: Any) -> Any:
    return wide_product(dtype, x, y) + z


def shifted_left(x: Any, count: Any) -> Any:
    """Shift; by the width or more gives zero."""
    return x << np.minimum(count, 8 * x.itemsize).astype(x.dtype)


def shifted_right(x: Any, count: Any) -> Any:
    """Shift; by the width or more gives zero, or the sign of a number that has one."""
    return x >> np.minimum(count, 8 * x.itemsize).astype(x.dtype)


def permuted(x: Any, y: Any, selector: Any) -> Any:
    """Choose four of the eight bytes of two numbers, or copies of their signs."""
    both = x.astype(np.uint64) | y.astype(np.uint64) << np.uint64(32)
    found = np.zeros(np.broadcast(both, selector).shape, np.uint64)
    for k in range(4):
        chosen = (selector.astype(np.uint64) >> np.uint64(4 * k)) & np.uint64(15)
        byte = (both >> (np.uint64(8) * (chosen & np.uint64(7)))) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        found |= np.where(chosen & np.uint64(8), sign, byte) << np.uint64(8 * k)
    return found.astype(np.uint32)


def chosen(x: Any, y: Any, first: Any) -> Any:
    return np.where(first, x, y)


def same(x: Any) -> Any:
    return x


define_each("add", SIGNED + UNSIGNED, 2, np.add)
define_each("sub", SIGNED + UNSIGNED, 2, np.subtract)
define_each("mul.lo", SIGNED + UNSIGNED, 2, np.multiply)
define_each("mad.lo", SIGNED + UNSIGNED, 3, product_and_sum)
define_each("div", SIGNED + UNSIGNED, 2, quotient)
define_each("rem", SIGNED + UNSIGNED, 2, remainder)
define_each("min", SIGNED + UNSIGNED, 2, np.minimum)
define_each("max", SIGNED + UNSIGNED, 2, np.maximum)
define_each("neg", SIGNED, 1, np.negative)
define_each("abs", SIGNED, 1, np.abs)
define_each("and", (*BITS, "pred"), 2, np.bitwise_and)
define_each("or", (*BITS, "pred"), 2, np.bitwise_or)
define_each("xor", (*BITS, "pred"), 2, np.bitwise_xor)
define_each("not", (*BITS, "pred"), 1, np.invert)
define_each("mov", (*SIGNED, *UNSIGNED, *BITS, *FLOATS, "pred"), 1, same)
define("prmt.b32", ("u32", "u32", "u32"), "u32", permuted)
for _type, _wide in WIDER.items():
    define(f"mul.wide.{_type}", (_type, _type), _wide, partial(wide_product, DTYPES[_wide]))
    define(f"mad.wide.{_type}", (_type, _type, _wide), _wide, partial(wide_product_and_sum, DTYPES[_wide]))
for _type in BITS:
    define(f"shl.{_type}", (_type, "u32"), _type, shifted_left)
for _type in (*BITS, *SIGNED, *UNSIGNED):
    define(f"shr.{_type}", (_type, "u32"), _type, shifted_right)
for _type in (*BITS, *SIGNED, *UNSIGNED, *FLOATS):
    define(f"selp.{_type}", (_type, _type, "pred"), _type, chosen)


# ------------------------------------------------------------------------------------------------- comparisons

COMPARISONS = dict(eq=np.equal, ne=np.not_equal, lt=np.less, le=np.less_equal, gt=np.greater, ge=np.greater_equal)


def unordered(x: Any, y: Any) -> Any:
    return np.isnan(x) | np.isnan(y)


def ordered(x: Any, y: Any) -> Any:
    return ~unordered(x, y)


def ordered_and(compare: Any, x: Any, y: Any) -> Any:
    return compare(x, y) & ordered(x, y)


def unordered_or(compare: Any, x: Any, y: Any) -> Any:
    return compare(x, y) | unordered(x, y)


for _type in FLOATS:
    define(f"setp.num.{_type}", (_type, _type), "pred", ordered)
    define(f"setp.nan.{_type}", (_type, _type), "pred", unordered)
    for _name, _compute in COMPARISONS.items():
        define(f"setp.{_name}.{_type}", (_type, _type), "pred", partial(ordered_and, _compute))
        define(f"setp.{_name}u.{_type}", (_type, _type), "pred", partial(unordered_or, _compute))
for _type in SIGNED + UNSIGNED:
    for _name, _compute in COMPARISONS.items():
        define(f"setp.{_name}.{_type}", (_type, _type), "pred", _compute)
for _type in UNSIGNED:
    for _name, _other in {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.items():
        define(f"setp.{_name}.{_type}", (_type, _type), "pred", COMPARISONS[_other])
for _type in BITS:
    define(f"setp.eq.{_type}", (_type, _type), "pred", np.equal)
    define(f"setp.ne.{_type}", (_type, _type), "pred", np.not_equal)


# ------------------------------------------------------------------------------------------------- conversions

INTEGERS = tuple(f"{kind}{8 * size}" for kind in "us" for size in (1, 2, 4, 8))


def converted(dtype: Any, x: Any) -> Any:
    """Keep the lowest bits of an integer, or extend it; round a number to nearest even."""
    return x.astype(dtype)


def truncated(dtype: Any, x: Any) -> Any:
    """Cut a number to an integer; what is too large becomes the largest, and NaN zero or, where 64 bits are in play,
    the integer of which only the highest bit is set."""
    limits = np.iinfo(dtype)
    above, below = x >= float(limits.max), x < float(limits.min)
    inside = np.where(above | below | np.isnan(x), 0, x)
    wide = x.dtype.itemsize == 8 or limits.bits == 64
    of_nan = dtype.type(1 << (limits.bits - 1) if limits.min == 0 else limits.min) if wide else dtype.type(0)
    found = np.where(above, limits.max, np.where(below, limits.min, inside.astype(dtype))).astype(dtype)
    return np.where(np.isnan(x), of_nan, found)


def from_bfloat16(x: Any) -> Any:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(x: Any) -> Any:
    """Round to the nearest bfloat16: half the last place is added, less one where the last place is even."""
    bits = x.view(np.uint32)
    up = np.where((bits >> np.uint32(16)) & np.uint32(1), np.uint32(0x8000), np.uint32(0x7FFF))
    return np.where(np.isnan(x), np.uint16(0x7FFF), ((bits + up) >> np.uint32(16)).astype(np.uint16))


def to_float16(x: Any) -> Any:
    return x.astype(np.float16).view(np.uint16)


def two(convert: Callable[[Any], Any], high: Any, low: Any) -> Any:
    """Convert two numbers to 16 bits each; the second is in the lower ones."""
    return convert(high).astype(np.uint32) << np.uint32(16) | convert(low).astype(np.uint32)


for _from in INTEGERS:
    for _to in INTEGERS:
        define(f"cvt.{_to}.{_from}", (_from,), _to, partial(converted, DTYPES[_to]))
    for _to in FLOATS:
        define(f"cvt.rn.{_to}.{_from}", (_from,), _to, partial(converted, DTYPES[_to]))
for _from in FLOATS:
    for _to in INTEGERS:
        define(f"cvt.rzi.{_to}.{_from}", (_from,), _to, partial(truncated, DTYPES[_to]))
for _to, _from in (("f32", "f16"), ("f64", "f32")):
    define(f"cvt.{_to}.{_from}", (_from,), _to, partial(converted, DTYPES[_to]))
for _to, _from in (("f32", "f64"), ("f16", "f32")):
    define(f"cvt.rn.{_to}.{_from}", (_from,), _to, partial(converted, DTYPES[_to]))
define("cvt.f32.bf16", ("bf16",), "f32", from_bfloat16)
define("cvt.rn.bf16.f32", ("f32",), "bf16", to_bfloat16)
define("cvt.rn.bf16x2.f32", ("f32", "f32"), "bf16x2", partial(two, to_bfloat16))
define("cvt.rn.f16x2.f32", ("f32", "f32"), "f16x2", partial(two, to_float16))
