"""What packs of numbers have in a form of their own: means by a weight, and numbers of 16 bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.kernels import dtype_of
from helpers.libraries import REGISTERS, ROW, built_for
from helpers.rooms import assert_equal_bits
from refoptim.numerics.arith import round_to, widen

PROGRAM = """
#include "host/cuda.h"
#include "host/packed_storage.h"
#include "harness/arith.cuh"
using namespace refoptim;
template <class X, class T> static void run(long long n, T* x, const T* y, const T* c) {
    for (long long i = 0; i < n; i++) {
        X packs[2];
        memcpy(packs, x, sizeof *packs), memcpy(packs + 1, y, sizeof *packs);
        *packs = lerp(packs[0], packs[1], c[i]);
        memcpy(x, packs, sizeof *packs);
        x += sizeof *packs / sizeof(T), y += sizeof *packs / sizeof(T);
    }
}
VISIBLE void float32(long long n, float* x, const float* y, const float* c) { run<Floats>(n, x, y, c); }
VISIBLE void float64(long long n, double* x, const double* y, const double* c) { run<Doubles>(n, x, y, c); }

template <class From, class To> static void convert(long long n, const From* from, To* to) {
    for (long long i = 0; i < n; i += LANES<float>) {
        Vector<From, LANES<float>> before;
        Vector<To, LANES<float>> after;
        memcpy(&before, from + i, sizeof before);
        Floats x;
        read(x, before, 0);
        write(after, 0, x);
        memcpy(to + i, &after, sizeof after);
    }
}
VISIBLE void from_float16(long long n, const float16* x, float* y) { convert(n, x, y); }
VISIBLE void from_bfloat16(long long n, const bfloat16* x, float* y) { convert(n, x, y); }
VISIBLE void to_float16(long long n, const float* x, float16* y) { convert(n, x, y); }
VISIBLE void to_bfloat16(long long n, const float* x, bfloat16* y) { convert(n, x, y); }

#if defined(TWO_REGISTERS)
VISIBLE void from_two_bfloat16(long long n, const bfloat16* x, float* y) {
    for (long long i = 0; i < n; i++) {
        TwoRegisters both = load<TWO_REGISTERS, false>(x, i / TWO_REGISTERS);
        Floats numbers;
        read(numbers, both, i % 2 * LANES<float>);
        y[i] = numbers[i % TWO_REGISTERS / 2];
    }
}
VISIBLE void to_two_bfloat16(long long n, const float* x, bfloat16* y) {
    for (long long i = 0; i < n; i += TWO_REGISTERS) {
        TwoRegisters both;
        for (int odd = 0; odd < 2; odd++) {
            Floats numbers;
            for (int k = 0; k < LANES<float>; k++)
                numbers[k] = x[i + 2 * k + odd];
            write(both, odd * LANES<float>, numbers);
        }
        store(y, i / TWO_REGISTERS, both);
    }
}
#else
VISIBLE void from_two_bfloat16(long long n, const bfloat16* x, float* y) { convert(n, x, y); }
VISIBLE void to_two_bfloat16(long long n, const float* x, bfloat16* y) { convert(n, x, y); }
#endif
"""

NARROW = {"float16": "float16", "bfloat16": "bfloat16", "two_bfloat16": "bfloat16"}
"""What numbers are stored in, by the end of the names of the functions for it."""

Lerp = Callable[[Any, Any, Any], Any]


@pytest.fixture(scope="module", params=REGISTERS)
def packs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """Build the library for a variant, and say how many packs make a row."""
    library = built_for(request.param, PROGRAM, tmp_path_factory.mktemp("packs"))
    return library, ROW // REGISTERS[request.param]


@pytest.fixture(scope="module")
def lerp(packs: tuple[Any, int]) -> Lerp:
    """Return the function that goes from each row to another by a weight."""
    library, many = packs

    def run(x: Any, y: Any, c: Any) -> Any:
        x, c = np.array(x, order="C"), np.repeat(c, many)
        addresses = [ctypes.c_void_p(a.ctypes.data) for a in (x, np.ascontiguousarray(y), c)]
        getattr(library, x.dtype.name)(ctypes.c_longlong(len(c)), *addresses)
        return x

    return run


def assert_between(lerp: Lerp, x: Any, y: Any, c: Any) -> None:
    """Fail unless rows are what torch makes: which end it starts at depends on the weight. No NaN is like another."""
    with np.errstate(all="ignore"):
        gap, weights = y - x, c[:, None]
        expected = np.where(np.abs(weights) < 0.5, x + weights * gap, y - gap * (1 - weights))
        got = lerp(x, y, c)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert_equal_bits(got[~np.isnan(got)], expected[~np.isnan(expected)])


def weights(dtype: str) -> Any:
    """Return weights on both sides of those at which another end is the start, and others."""
    half, one = np.array([0.5, 1], dtype)
    near = [np.nextafter(x, y) for x in (half, one) for y in (0, x, 2)]
    info = np.finfo(dtype)
    drawn = np.random.default_rng(0).uniform(-1.5, 1.5, 200)
    edges = [0.0, info.smallest_subnormal, info.tiny, info.eps, 1e-3, 0.1, 0.9, 2, info.max, np.inf, np.nan]
    return np.array([sign * x for x in (*near, *edges, *drawn) for sign in (1, -1)], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_means(lerp: Lerp, dtype: str) -> None:
    c, rng = np.repeat(weights(dtype), 50), np.random.default_rng(1)
    shape = len(c), ROW // np.dtype(dtype).itemsize
    x, y = (np.ldexp(rng.standard_normal(shape), rng.integers(-20, 20, shape)).astype(dtype) for _ in range(2))
    assert_between(lerp, x, y, c)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_that_are_special(lerp: Lerp, dtype: str) -> None:
    info = np.finfo(dtype)
    special = [0.0, info.smallest_subnormal, info.tiny, 1, info.max, np.inf, np.nan]
    ends = np.array([sign * x for x in special for sign in (1, -1)], dtype)
    pairs = np.stack(np.meshgrid(ends, ends), -1).reshape(-1, 2)
    c, width = weights(dtype), ROW // np.dtype(dtype).itemsize
    x, y = (np.repeat(np.resize(column, (-(-len(pairs) // width), width)), len(c), 0) for column in pairs.T)
    assert_between(lerp, x, y, np.tile(c, len(x) // len(c)))


def stored(packs: tuple[Any, int], function: str, x: Any, dtype: Any) -> Any:
    """Return numbers that are read from their storage and written to another."""
    result = np.empty(len(x), dtype)
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (x, result)]
    getattr(packs[0], function)(ctypes.c_longlong(len(x)), *addresses)
    return result


def sixteen_bits(name: str) -> Any:
    """Return every number of 16 bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype_of(name))


@pytest.mark.parametrize("how", NARROW)
def test_every_16_bit_number_is_widened(packs: tuple[Any, int], how: str) -> None:
    x = sixteen_bits(NARROW[how])
    expected, got = widen(x), stored(packs, f"from_{how}", x, np.float32)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), is_nan)
    assert_equal_bits(got[~is_nan], expected[~is_nan])


def near_ties(name: str) -> Any:
    """Return what is half-way between two numbers of 16 bits, or between the largest and the next, and beside it."""
    x = widen(sixteen_bits(name))
    finite = x[: np.flatnonzero(np.isinf(x))[0]].astype(np.float64)
    ties = (finite + np.append(finite[1:], 2 * finite[-1] - finite[-2])) / 2
    ties = np.concatenate([ties, -ties]).astype(np.float32)
    return np.concatenate([np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)] + [ties])


@pytest.mark.parametrize("how", NARROW)
def test_numbers_are_rounded_to_16_bits(packs: tuple[Any, int], how: str) -> None:
    """A NaN of float16 keeps its sign."""
    name = NARROW[how]
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    x = np.concatenate([drawn, near_ties(name)])
    with np.errstate(all="ignore"):
        expected = round_to(x, np.empty(0, dtype_of(name))).view(np.uint16)
    got = stored(packs, f"to_{how}", x, np.uint16)
    is_nan = np.isnan(x)
    assert_equal_bits(got[~is_nan], expected[~is_nan])
    signs = np.signbit(x[is_nan]).astype(np.uint16) << 15
    assert_equal_bits(got[is_nan], signs | 0x7E00 if name == "float16" else np.full_like(signs, 0x7FC0))
