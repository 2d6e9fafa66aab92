"""Instructions against exact rational arithmetic, whole numbers of Python's, and what PTX's definition says."""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from helpers.exact import FORMATS
from ptx.faults import MemoryFault, NotKnown
from ptx.instructions import DTYPES, TABLE
from ptx.snippets import computed, kernel, own

pytestmark = pytest.mark.ptx

EXACT = {"f32": FORMATS["float32"], "f64": FORMATS["float64"], "f16": FORMATS["float16"], "bf16": FORMATS["bfloat16"]}

INF, NAN = math.inf, math.nan


def values(type_: str, draws: int = 40) -> list[float]:
    """Return numbers at which arithmetic goes wrong first, and others of every size."""
    dtype = DTYPES[type_]
    info = np.finfo(dtype)
    near = [1.0, 1 + float(info.eps), 1 - float(info.epsneg), 3.0, 1 / 3, 0.1]
    ends = [
        float(info.max),
        float(info.smallest_normal),
        float(info.smallest_subnormal),
        5 * float(info.smallest_subnormal),
    ]
    bits = np.random.default_rng(1).integers(0, 1 << 63, draws, np.uint64, endpoint=True) * np.uint64(2)
    drawn = (bits >> np.uint64(64 - 8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype).tolist()
    return [0.0, -0.0, INF, -INF, NAN, *near, *ends, *(-x for x in ends), *drawn]


def rounded(type_: str, xs: list[float]) -> list[float]:
    with np.errstate(over="ignore", invalid="ignore"):
        return [float(x) for x in np.array(xs, DTYPES[type_])]


def assert_equal(found: Any, expected: list[Any]) -> None:
    """Fail unless all bits are equal, but for those of NaN."""
    wanted = np.array(expected, found.dtype)
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
        return
    bits = f"u{found.dtype.itemsize}"
    assert (np.isnan(found) == np.isnan(wanted)).all()
    np.testing.assert_array_equal(
        np.where(np.isnan(found), 0, found.view(bits)), np.where(np.isnan(wanted), 0, wanted.view(bits))
    )


# -------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("type_", ["f32", "f64"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_arithmetic_is_rounded_once(name: str, type_: str) -> None:
    pairs = list(itertools.product(rounded(type_, values(type_, 20)), repeat=2))[: 32 * 32]
    expected = [getattr(EXACT[type_], name)(x, y) for x, y in pairs]
    assert_equal(computed(f"{name}.rn.{type_}", [type_] * 2, type_, *zip(*pairs, strict=True)), expected)


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_roots_and_reciprocals_are_rounded_once(type_: str) -> None:
    xs = rounded(type_, values(type_, 300))
    assert_equal(computed(f"sqrt.rn.{type_}", [type_], type_, xs), [EXACT[type_].sqrt(x) for x in xs])
    assert_equal(computed(f"rcp.rn.{type_}", [type_], type_, xs), [EXACT[type_].div(1.0, x) for x in xs])


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_subnormal_numbers_are_kept(type_: str) -> None:
    tiny = float(np.finfo(DTYPES[type_]).smallest_subnormal)
    assert computed(f"add.rn.{type_}", [type_] * 2, type_, [tiny], [2 * tiny]).tolist() == [3 * tiny]
    assert computed(f"mul.rn.{type_}", [type_] * 2, type_, [4 * tiny], [0.5]).tolist() == [2 * tiny]


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_the_least_and_the_greatest_leave_nan_out(type_: str) -> None:
    x, y = [1.0, NAN, 2.0, NAN, -0.0, 0.0, INF], [2.0, 1.0, NAN, NAN, 0.0, -0.0, -INF]
    assert_equal(computed(f"min.{type_}", [type_] * 2, type_, x, y), [1.0, 1.0, 2.0, NAN, -0.0, -0.0, -INF])
    assert_equal(computed(f"max.{type_}", [type_] * 2, type_, x, y), [2.0, 1.0, 2.0, NAN, 0.0, 0.0, INF])


@pytest.mark.parametrize(("type_", "bits"), [("f32", "u4"), ("f64", "u8")])
def test_signs_are_turned_and_taken_away(type_: str, bits: str) -> None:
    """Those of zeros and of NaN too."""
    x = np.array([0.0, -0.0, 1.5, -1.5, INF, NAN, -NAN], DTYPES[type_])
    sign = 1 << (8 * x.itemsize - 1)
    expected = [int(b) ^ sign for b in x.view(bits)]
    assert computed(f"neg.{type_}", [type_], type_, x).view(bits).tolist() == expected
    assert computed(f"abs.{type_}", [type_], type_, x).view(bits).tolist() == [b & (sign - 1) for b in expected]


# ---------------------------------------------------------------------------------------------------- integers

INTEGERS = ["s16", "u16", "s32", "u32", "s64", "u64"]


def whole(type_: str) -> list[int]:
    """Return whole numbers around 0 and at both ends."""
    info = np.iinfo(DTYPES[type_])
    around = [0, 1, 2, 3, 7, 100, int(info.max), int(info.max) - 1, int(info.max) // 3]
    return around + ([-1, -2, -7, -100, int(info.min), int(info.min) + 1] if info.min else [])


def wrapped(x: int, type_: str) -> int:
    """Keep the lowest bits of a number."""
    info = np.iinfo(DTYPES[type_])
    return (x - int(info.min)) % (1 << info.bits) + int(info.min)


def towards_zero(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


@pytest.mark.parametrize("type_", INTEGERS)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", operator.add),
        ("sub", operator.sub),
        ("mul.lo", operator.mul),
        ("min", min),
        ("max", max),
        ("div", towards_zero),
        ("rem", lambda x, y: x - towards_zero(x, y) * y),
    ],
)
def test_whole_numbers_wrap(name: str, function: Callable[[int, int], int], type_: str) -> None:
    pairs = [(x, y) for x, y in itertools.product(whole(type_), repeat=2) if y or name not in ("div", "rem")]
    expected = [wrapped(function(x, y), type_) for x, y in pairs]
    assert_equal(computed(f"{name}.{type_}", [type_] * 2, type_, *zip(*pairs, strict=True)), expected)


@pytest.mark.parametrize("type_", ["s16", "s32", "s64"])
def test_whole_numbers_have_signs(type_: str) -> None:
    xs = whole(type_)
    assert_equal(computed(f"neg.{type_}", [type_], type_, xs), [wrapped(-x, type_) for x in xs])
    assert_equal(computed(f"abs.{type_}", [type_], type_, xs), [wrapped(abs(x), type_) for x in xs])


@pytest.mark.parametrize(("type_", "wide"), [("s16", "s32"), ("u16", "u32"), ("s32", "s64"), ("u32", "u64")])
def test_wide_products(type_: str, wide: str) -> None:
    pairs = list(itertools.product(whole(type_), repeat=2))
    x, y = zip(*pairs, strict=True)
    assert_equal(computed(f"mul.wide.{type_}", [type_] * 2, wide, x, y), [a * b for a, b in pairs])
    found = computed(f"mad.wide.{type_}", [type_, type_, wide], wide, x, y, [5] * len(x))
    assert_equal(found, [wrapped(a * b + 5, wide) for a, b in pairs])


@pytest.mark.parametrize("type_", INTEGERS)
def test_products_and_sums(type_: str) -> None:
    pairs = list(itertools.product(whole(type_), repeat=2))
    found = computed(f"mad.lo.{type_}", [type_] * 3, type_, *zip(*pairs, strict=True), [3] * len(pairs))
    assert_equal(found, [wrapped(a * b + 3, type_) for a, b in pairs])


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_by_the_width_and_more(bits: int) -> None:
    counts = [0, 1, bits - 1, bits, bits + 1, 2 * bits, 255, 1 << 31]
    x = (1 << bits) - 3
    left = computed(f"shl.b{bits}", [f"b{bits}", "u32"], f"b{bits}", [x] * len(counts), counts)
    assert_equal(left, [(x << min(n, 99)) % (1 << bits) for n in counts])
    for type_ in (f"u{bits}", f"b{bits}"):
        right = computed(f"shr.{type_}", [type_, "u32"], type_, [x] * len(counts), counts)
        assert_equal(right, [x >> min(n, 99) for n in counts])
    signed = computed(f"shr.s{bits}", [f"s{bits}", "u32"], f"s{bits}", [-9] * len(counts), counts)
    assert_equal(signed, [-9 >> min(n, 99) for n in counts])


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits: int) -> None:
    x, y, type_ = 0b1100, (1 << bits) - 0b0110, f"b{bits}"
    for name, expected in {"and": x & y, "or": x | y, "xor": x ^ y}.items():
        assert computed(f"{name}.{type_}", [type_] * 2, type_, [x], [y]).tolist() == [expected]
    assert computed(f"not.{type_}", [type_], type_, [x]).tolist() == [(1 << bits) - 1 - x]


def test_logic_of_predicates() -> None:
    assert computed("mov.pred", ["pred"], "pred", [0, 1]).tolist() == [0, 1]
    x, y = [0, 0, 1, 1], [0, 1, 0, 1]
    for name, expected in {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}.items():
        assert computed(f"{name}.pred", ["pred"] * 2, "pred", x, y).tolist() == expected
    assert computed("not.pred", ["pred"], "pred", [0, 1]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [(0x3210, 0x44332211), (0x7654, 0x88776655), (0x5410, 0x66552211), (0x0123, 0x11223344), (0xF8F8, 0xFF00FF00)],
)
def test_bytes_are_permuted(selector: int, expected: int) -> None:
    found = computed("prmt.b32", ["b32"] * 3, "b32", [0x44332211], [0x88776655], [selector])
    assert found.tolist() == [expected]


# ------------------------------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_comparisons_of_numbers_and_nan(type_: str) -> None:
    """Of 1 with 2, 2 with 2, 3 with 2, -0 with 0, and with NaN on either side; as ``…u`` NaN makes them true."""
    x, y = [1.0, 2.0, 3.0, -0.0, NAN, 2.0], [2.0, 2.0, 2.0, 0.0, 2.0, NAN]
    facts = {"eq": [0, 1, 0, 1], "ne": [1, 0, 1, 0], "lt": [1, 0, 0, 0], "le": [1, 1, 0, 1]}
    facts |= {"gt": [0, 0, 1, 0], "ge": [0, 1, 1, 1]}
    for name, expected in facts.items():
        assert computed(f"setp.{name}.{type_}", [type_] * 2, "pred", x, y).tolist() == [*expected, 0, 0]
        assert computed(f"setp.{name}u.{type_}", [type_] * 2, "pred", x, y).tolist() == [*expected, 1, 1]
    assert computed(f"setp.num.{type_}", [type_] * 2, "pred", x, y).tolist() == [1, 1, 1, 1, 0, 0]
    assert computed(f"setp.nan.{type_}", [type_] * 2, "pred", x, y).tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("type_", INTEGERS)
def test_comparisons_of_whole_numbers(type_: str) -> None:
    pairs = list(itertools.product(whole(type_), repeat=2))
    x, y = zip(*pairs, strict=True)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        expected = [getattr(operator, name)(a, b) for a, b in pairs]
        assert_equal(computed(f"setp.{name}.{type_}", [type_] * 2, "pred", x, y), expected)


@pytest.mark.parametrize("type_", ["u16", "u32", "u64"])
def test_other_names_of_comparisons(type_: str) -> None:
    for name, expected in {"lo": [1, 0, 0], "ls": [1, 1, 0], "hi": [0, 0, 1], "hs": [0, 1, 1]}.items():
        assert computed(f"setp.{name}.{type_}", [type_] * 2, "pred", [1, 2, 3], [2, 2, 2]).tolist() == expected


@pytest.mark.parametrize("type_", ["b16", "b32", "b64"])
def test_comparisons_of_bits(type_: str) -> None:
    assert computed(f"setp.eq.{type_}", [type_] * 2, "pred", [5, 6], [5, 5]).tolist() == [1, 0]
    assert computed(f"setp.ne.{type_}", [type_] * 2, "pred", [5, 6], [5, 5]).tolist() == [0, 1]


@pytest.mark.parametrize("type_", ["b16", "b32", "b64", *INTEGERS, "f32", "f64"])
def test_selection_and_moves(type_: str) -> None:
    assert computed(f"mov.{type_}", [type_], type_, [1, 2]).tolist() == [1, 2]
    assert computed(f"selp.{type_}", [type_, type_, "pred"], type_, [1, 2], [3, 4], [1, 0]).tolist() == [1, 4]


# ------------------------------------------------------------------------------------------------- conversions

NARROW = {"f16": "<e", "f32": "<f", "f64": "<d"}


def test_every_float16_and_bfloat16_is_widened() -> None:
    for first in range(0, 1 << 16, 1024):
        bits = list(range(first, first + 1024))
        expected = [struct.unpack("<e", struct.pack("<H", b))[0] for b in bits]
        assert_equal(computed("cvt.f32.f16", ["b16"], "f32", bits), expected)
        expected = [struct.unpack("<f", struct.pack("<I", b << 16))[0] for b in bits]
        assert_equal(computed("cvt.f32.bf16", ["b16"], "f32", bits), expected)


def middles(type_: str) -> list[float]:
    """Return float32 numbers at and beside the middle of two neighbours of a narrower format, at every exponent."""
    form = EXACT[type_]
    found = [float(form.largest), 2.0 ** (form.largest + 1)]
    for exponent in range(form.smallest - form.precision - 1, form.largest + 1):
        for places in (1, 3, 5, (1 << form.precision) + 1, (2 << form.precision) - 1):
            middle = np.float32(Fraction(places, 1 << form.precision) * Fraction(2) ** exponent)
            found += [float(np.nextafter(middle, np.float32(to))) for to in (-INF, middle, INF)]
    return found


def bits_of(type_: str, x: float) -> int:
    """Return the bits of a number that a narrow format holds."""
    if type_ == "f16":
        return int(struct.unpack("<H", struct.pack("<e", x))[0])
    return int(struct.unpack("<I", struct.pack("<f", x))[0]) >> 16


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_narrow_numbers_are_rounded_to_nearest_even(type_: str) -> None:
    xs = rounded("f32", [*middles(type_), *values("f32", 300)])
    xs += [-x for x in xs]
    for first in range(0, len(xs), 1024):
        some = [x for x in xs[first : first + 1024] if x == x]
        expected = [bits_of(type_, narrowed(type_, x)) for x in some]
        assert computed(f"cvt.rn.{type_}.f32", ["f32"], "b16", some).tolist() == expected
        pairs = [(a << 16) | b for a, b in zip(expected, expected[::-1], strict=True)]
        assert computed(f"cvt.rn.{type_}x2.f32", ["f32", "f32"], "b32", some, some[::-1]).tolist() == pairs
    (nan,) = computed(f"cvt.rn.{type_}.f32", ["f32"], "b16", [NAN]).tolist()
    assert nan & 0x7FFF > bits_of(type_, INF)


def narrowed(type_: str, x: float) -> float:
    """Round a number to a format, exactly."""
    return x if math.isinf(x) else EXACT[type_].round(Fraction(x), math.copysign(1.0, x))


def test_double_precision_is_rounded_and_single_widened() -> None:
    xs = [*values("f64", 300), 1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-52, 1 + 3 * 2.0**-24, 2.0**-150, 3 * 2.0**-150]
    assert_equal(computed("cvt.rn.f32.f64", ["f64"], "f32", xs), [x if x != x else narrowed("f32", x) for x in xs])
    xs = rounded("f32", xs)
    assert_equal(computed("cvt.f64.f32", ["f32"], "f64", xs), xs)


@pytest.mark.parametrize("to", ["f32", "f64"])
@pytest.mark.parametrize("type_", ["s8", "u8", *INTEGERS])
def test_whole_numbers_are_rounded(type_: str, to: str) -> None:
    info = np.iinfo(DTYPES[type_])
    xs = [x for x in (*whole(type_), *((1 << k) + d for k in range(60) for d in (-1, 1, 3))) if x <= info.max]
    expected = [EXACT[to].round(Fraction(x)) for x in xs]
    assert_equal(computed(f"cvt.rn.{to}.{type_}", [type_], to, xs), expected)


@pytest.mark.parametrize("type_", ["f32", "f64"])
@pytest.mark.parametrize("to", ["s8", "u8", *INTEGERS])
def test_numbers_are_cut_to_whole_ones(to: str, type_: str) -> None:
    """What is too large becomes the largest; NaN zero, or the highest bit alone where 64 bits are in play."""
    info = np.iinfo(DTYPES[to])
    xs = [
        x
        for x in rounded(type_, [*values(type_), 2.5, -2.5, 1e9, -1e9, 127.9, 255.9, 2.0**31, 2.0**63, 2.0**64])
        if x == x
    ]
    expected = [
        int(info.max if x > 0 else info.min) if math.isinf(x) else max(min(int(x), int(info.max)), int(info.min))
        for x in xs
    ]
    assert_equal(computed(f"cvt.rzi.{to}.{type_}", [type_], to, xs), expected)
    high = 0 if type_ == "f32" and info.bits < 64 else wrapped(1 << (info.bits - 1), to)
    assert computed(f"cvt.rzi.{to}.{type_}", [type_], to, [NAN]).tolist() == [high]


@pytest.mark.parametrize("type_", ["s8", "u8", *INTEGERS])
@pytest.mark.parametrize("to", ["s8", "u8", *INTEGERS])
def test_whole_numbers_are_cut_and_extended(to: str, type_: str) -> None:
    xs = whole(type_)
    assert_equal(computed(f"cvt.{to}.{type_}", [type_], to, xs), [wrapped(x, to) for x in xs])


def test_a_narrow_result_is_extended_to_its_register() -> None:
    """By its sign, if it has one."""
    found = np.zeros(4, np.uint32)
    body = "mov.u32 %r1, 0xFFFFFFFE; cvt.s8.s32 %r2, %r1; cvt.u8.u32 %r3, %r1;\n"
    body += "cvt.s16.s32 %r4, %r1; cvt.u16.u32 %r5, %r1;\n"
    kernel(body + "st.global.v4.u32 [%a0], {%r2, %r3, %r4, %r5};").launch("test", 1, 1, found)
    assert found.tolist() == [0xFFFFFFFE, 0xFE, 0xFFFFFFFE, 0xFFFE]


def test_numbers_are_put_together_and_taken_apart() -> None:
    """The lowest part stands first."""
    found = np.zeros(4, np.uint32)
    body = "mov.u32 %r1, 0x22221111; mov.b32 {%h1, %h2}, %r1; mov.b32 %r2, {%h2, %h1}; mov.b64 %d1, {%r1, %r2};\n"
    body += "mov.b64 {%r3, _}, %d1; shr.u64 %d2, %d1, 32; cvt.u32.u64 %r4, %d2;"
    kernel(body + "st.global.v4.u32 [%a0], {%r1, %r2, %r3, %r4};").launch("test", 1, 1, found)
    assert found.tolist() == [0x22221111, 0x11112222, 0x22221111, 0x11112222]


def test_constants() -> None:
    found = np.zeros(4, np.uint64)
    body = (
        "mov.f64 %d1, 0dBFF0000000000000; mov.u64 %d2, -1; mov.f32 %r1, 0f3F800000; add.rn.f32 %r1, %r1, 0F40000000;\n"
    )
    body += "cvt.u64.u32 %d3, %r1; mov.u64 %d4, 0x10;"
    kernel(body + "st.global.v2.u64 [%a0], {%d1, %d2}; st.global.v2.u64 [%a0+16], {%d3, %d4};").launch(
        "test", 1, 1, found
    )
    assert found.tolist() == [0xBFF0000000000000, (1 << 64) - 1, 0x40400000, 16]


@pytest.mark.parametrize("chosen", [1, 2])
def test_arguments_are_read_where_a_register_points(chosen: int) -> None:
    found = np.zeros(1, np.uint64)
    body = f"mov.pred %p1, {chosen % 2}; mov.b64 %d1, test_1; mov.b64 %d2, test_2; selp.b64 %d3, %d1, %d2, %p1;\n"
    body += "ld.param.u64 %d4, [%d3]; ld.param.u32 %r1, [%d3+4]; cvt.u64.u32 %d5, %r1; add.s64 %d4, %d4, %d5;"
    values = np.uint64((5 << 32) + 7), np.uint64((11 << 32) + 13)
    kernel(body + "st.global.u64 [%a0], %d4;", 3).launch("test", 1, 1, found, *values)
    whole = int(values[chosen - 1])
    assert found.tolist() == [whole + (whole >> 32)]


def test_an_address_beyond_the_arguments_is_refused() -> None:
    with pytest.raises(MemoryFault, match="outside of the arguments"):
        kernel("mov.b64 %d1, test_0; ld.param.u64 %d2, [%d1+8];").launch("test", 1, 1, np.zeros(1, np.uint64))


def test_constant_predicates() -> None:
    """What is not 0 is true."""
    found = np.zeros(3, np.uint32)
    body = "".join(f"mov.pred %p1, {x}; selp.u32 %r{i}, 5, 6, %p1;\n" for i, x in enumerate((0, 1, -1), 1))
    body += "".join(f"st.global.u32 [%a0+{4 * i}], %r{i + 1};\n" for i in range(3))
    kernel(body).launch("test", 1, 1, found)
    assert found.tolist() == [6, 5, 5]


# ------------------------------------------------------------------------------------------------ what is refused

REFUSED = [
    *("fma.rn.f32 %r1, %r1, %r1, %r1", "fma.rn.f64 %d1, %d1, %d1, %d1", "mad.rn.f32 %r1, %r1, %r1, %r1"),
    *("add.f32 %r1, %r1, %r1", "sub.f64 %d1, %d1, %d1", "mul.f32 %r1, %r1, %r1", "mul.f64 %d1, %d1, %d1"),
    *("add.rn.ftz.f32 %r1, %r1, %r1", "mul.ftz.f32 %r1, %r1, %r1", "div.rn.ftz.f32 %r1, %r1, %r1"),
    *("add.rz.f32 %r1, %r1, %r1", "mul.rm.f64 %d1, %d1, %d1", "div.rp.f64 %d1, %d1, %d1", "sqrt.rz.f32 %r1, %r1"),
    *("div.approx.f32 %r1, %r1, %r1", "div.full.f32 %r1, %r1, %r1", "sqrt.approx.f32 %r1, %r1"),
    *("rcp.approx.f32 %r1, %r1", "rcp.approx.ftz.f64 %d1, %d1", "rsqrt.approx.f32 %r1, %r1", "ex2.approx.f32 %r1, %r1"),
    *("lg2.approx.f32 %r1, %r1", "sin.approx.f32 %r1, %r1", "cos.approx.f32 %r1, %r1", "tanh.approx.f32 %r1, %r1"),
    *("add.rn.sat.f32 %r1, %r1, %r1", "cvt.sat.f32.f32 %r1, %r1", "cvt.rz.f16.f32 %h1, %r1", "cvt.f32.f64 %r1, %d1"),
    *("cvt.rn.ftz.f32.f64 %r1, %d1", "cvt.ftz.f64.f32 %d1, %r1", "cvt.f16.f32 %h1, %r1", "cvt.f32.s32 %r1, %r1"),
    *("min.ftz.f32 %r1, %r1, %r1", "setp.lt.ftz.f32 %p1, %r1, %r1", "abs.ftz.f32 %r1, %r1", "neg.ftz.f32 %r1, %r1"),
    *("atom.global.add.f32 %r1, [%a0], %r1", "red.global.add.f32 [%a0], %r1", "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1"),
    *("ld.volatile.global.u32 %r1, [%a0]", "ld.global.nc.f32 %r1, [%a0]", "ld.global.v3.u32 {%r1, %r1, %r1}, [%a0]"),
    *("bar.sync 1", "bar.sync 0, 32", "bar.arrive 0, 32", "bar.warp.sync -1", "vote.sync.any.pred %p1, %p1, -1"),
    *(
        "add.s32 %r1, %r1",
        "mov.u32 %r1, %laneid",
        "mov.u32 %r1, %h1",
        "mov.f32 %d1, 0f00000000",
        "add.s32 %r1, %p1, %r1",
    ),
    *("mov.u32 %q1, 1", "mov.f32 %r1, 0d3FF0000000000000", "brx.idx %r1, table", "trap", "mov.u32 %r1, nowhere"),
]


@pytest.mark.parametrize("instruction", REFUSED)
def test_what_the_contract_forbids_is_not_executed(instruction: str) -> None:
    """Not even read: that no thread would come to it does not help."""
    module = kernel(f"bra $END;\n{instruction};\n$END:\n")
    with pytest.raises(NotKnown):
        module.launch("test", 1, 1, np.zeros(8))


def test_the_same_instruction_is_executed_if_it_is_allowed() -> None:
    found = np.array([1.5], np.float32)
    kernel(own(4) + "ld.global.f32 %r1, [%a8]; mul.rn.f32 %r1, %r1, %r1; st.global.f32 [%a8], %r1;").launch(
        "test", 1, 1, found
    )
    assert found.tolist() == [2.25]


def test_no_instruction_of_the_table_is_forbidden() -> None:
    words = {word for name in TABLE for word in name.split(".")}
    assert not words & {"fma", "ftz", "approx", "full", "sat", "rz", "rm", "rp", "rna", "atom", "red", "shfl"}
    rounding = {"add", "sub", "mul", "div", "sqrt", "rcp"}
    numbers = [name for name in TABLE if name.split(".")[0] in rounding and name.endswith(("f32", "f64"))]
    assert numbers
    assert all(".rn." in name for name in numbers)
