"""Quotients by a scalar, which are made of multiplications on AVX2 and AVX-512: those of the divider, to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from helpers.libraries import REGISTERS, ROW, built_for
from helpers.rooms import assert_equal_bits

PROGRAM = """
#include "host/cuda.h"
#include "harness/arith.cuh"
template <class X, class T> static void run(long long n, T* x, const T* c) {
    for (long long i = 0; i < n; i++) {
        X pack;
        memcpy(&pack, x, sizeof pack);
        pack = refoptim::div(pack, c[i]);
        memcpy(x, &pack, sizeof pack);
        x += sizeof pack / sizeof(T);
    }
}
VISIBLE void float32(long long n, float* x, const float* c) { run<refoptim::Floats>(n, x, c); }
VISIBLE void float64(long long n, double* x, const double* c) { run<refoptim::Doubles>(n, x, c); }
"""

Quotients = Callable[[Any, Any], Any]

PRECISION = {"float32": 24, "float64": 53}

LIMITS = {"float32": (-90, 38), "float64": (-700, 324)}
"""Powers of two between which a magnitude is no matter for the divider."""


@pytest.fixture(scope="module", params=["avx2", "avx512"])
def quotients(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quotients:
    """Build the function that divides each row by a number."""
    library = built_for(request.param, PROGRAM, tmp_path_factory.mktemp("quotients"))

    def run(x: Any, c: Any) -> Any:
        x, c = np.array(x, order="C"), np.repeat(c, ROW // REGISTERS[request.param])
        function = getattr(library, x.dtype.name)
        function(ctypes.c_longlong(len(c)), *(ctypes.c_void_p(a.ctypes.data) for a in (x, c)))
        return x

    return run


def assert_divided(quotients: Quotients, x: Any, c: Any) -> None:
    """Fail unless the rows of ``x`` are divided by the numbers of ``c`` as NumPy divides them."""
    with np.errstate(all="ignore"):
        assert_equal_bits(quotients(x, c), x / c[:, None])


def near_middles(p: int, c: int) -> Iterator[int]:
    """Yield integers x of ``p`` bits for which x / c is as near to a middle between two numbers as can be.

    The middle is m of ``p + 1`` bits, times a power of two: x * 2**k - m * c = t for a small t, where x < c (k = p + 1)
    or not (k = p).
    """
    for k in (p, p + 1):
        inverse = pow(c, -1, 1 << k)
        for t in (*range(-9, 0), *range(1, 10)):
            for m in range(-t * inverse % (1 << k), 1 << p + 1, 1 << k):
                x, rest = divmod(m * c + t, 1 << k)
                if m >> p == 1 and m % 2 and rest == 0 and x.bit_length() == p:
                    yield x


@pytest.mark.parametrize("dtype", PRECISION)
def test_what_is_nearly_half_way_is_rounded_to_its_side(quotients: Quotients, dtype: str) -> None:
    p, rng = PRECISION[dtype], np.random.default_rng(0)
    least = 1 << p - 1
    drawn = (least + int(x) * 2 + 1 for x in rng.integers(0, least // 2, 3000))
    ends = (y for n in range(1, 400, 2) for y in (least + n, 2 * least - n))
    found = [(x, c) for c in (*ends, *drawn) for x in near_middles(p, c)]
    assert len(found) > 10_000
    numerators, c = (np.array(column, dtype) for column in zip(*found, strict=True))
    x = np.repeat(numerators[:, None], ROW // c.itemsize, 1) * np.resize(np.array([1, -1], dtype), ROW // c.itemsize)
    assert_divided(quotients, np.ldexp(x, -2 * p), np.ldexp(c, -p))


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("largest", [1, 22, 90], ids="divisors up to 2**{}".format)
def test_numbers_of_all_magnitudes(quotients: Quotients, largest: int, dtype: str) -> None:
    """Those of a row are of about the same."""
    rng, info, n, width = np.random.default_rng(1), np.finfo(dtype), 40_000, ROW // np.dtype(dtype).itemsize
    c = np.ldexp(rng.choice([-1, 1], n) * rng.uniform(1, 2, n), rng.integers(-largest, largest, n)).astype(dtype)
    exponents = rng.integers(info.minexp - info.nmant, info.maxexp, (n, 1)) - rng.integers(0, 3, (n, width))
    assert_divided(quotients, np.ldexp(rng.uniform(1, 2, (n, width)), exponents).astype(dtype), c)


@pytest.mark.parametrize("dtype", PRECISION)
def test_numbers_that_need_the_divider(quotients: Quotients, dtype: str) -> None:
    info = np.finfo(dtype)
    ends = [np.ldexp(info.dtype.type(1), e) for e in (*LIMITS[dtype], -20, 20)]
    ends = [y for x in ends for y in (np.nextafter(x, 0), x, np.nextafter(x, info.max))]
    special = [0.0, info.smallest_subnormal, info.smallest_normal, info.max, np.inf, np.nan, 1, *ends]
    numbers = np.array([y for x in special for y in (x, -x)], dtype)
    for c in numbers:
        for x in numbers:
            row = np.full((1, ROW // numbers.itemsize), 3, dtype)
            row[0, 5] = x
            assert_divided(quotients, row, np.array([c]))
