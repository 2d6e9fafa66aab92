"""The kernels' powers, exponentials and logarithms against decimal arithmetic with 60 digits and exact fractions."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from helpers.libraries import built
from refoptim.numerics.power import power

PROGRAM = """
#include "host/cuda.h"
#include "harness/power.cuh"
VISIBLE void powers(long long n, const double* x, const double* y, double* z) {
    for (long long i = 0; i < n; i++)
        z[i] = refoptim::power(x[i], y[i]);
}
VISIBLE void exponentials(long long n, const double* x, double* z) {
    for (long long i = 0; i < n; i++)
        z[i] = refoptim::exp(x[i]);
}
VISIBLE void logarithms(long long n, const double* x, double* z) {
    for (long long i = 0; i < n; i++)
        z[i] = refoptim::log(x[i]);
}
VISIBLE int was_in_doubt() { return refoptim::was_in_doubt(); }
"""

EXACTLY = Context(prec=60, Emin=-99999, Emax=99999)

INF, TINY, HUGE = math.inf, 5e-324, sys.float_info.max
BELOW_1, ABOVE_1 = math.nextafter(1, 0), math.nextafter(1, 2)

Powers = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Build a library of the functions."""
    return built(PROGRAM, tmp_path_factory.mktemp("power"))


@pytest.fixture(scope="module")
def powers(library: ctypes.CDLL) -> Powers:
    def run(x: Any, y: Any) -> Any:
        x, y = (np.ascontiguousarray(a, np.float64) for a in np.broadcast_arrays(x, y))
        z = np.empty_like(x)
        library.powers(ctypes.c_longlong(x.size), *(ctypes.c_void_p(a.ctypes.data) for a in (x, y, z)))
        return z

    return run


def rounded(x: float, y: float) -> float:
    """Return the double nearest to x**y, for finite x > 0 and a result that is no tie."""
    return float(EXACTLY.power(Decimal(x), Decimal(y)))


def assert_rounded(powers: Powers, x: Any, y: Any) -> None:
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    expected = [rounded(*pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(powers(x, y), expected)


def test_a_constant_to_the_number_of_a_step(powers: Powers) -> None:
    rng = np.random.default_rng(1)
    for beta in (0.9, 0.999, 0.95, 0.5, 0.1, 1 - 1e-7):
        assert_rounded(powers, beta, np.concatenate([np.arange(1, 40), rng.integers(1, 10**6, 30)]))
    assert_rounded(powers, rng.uniform(0, 1, 300), rng.integers(1, 200, 300))
    assert_rounded(powers, 1 - 10 ** rng.uniform(-15, -3, 300), rng.integers(1, 10**6, 300))


def test_roots_and_schedules(powers: Powers) -> None:
    rng = np.random.default_rng(2)
    assert_rounded(powers, rng.uniform(0, 1, 300), 0.5)
    assert_rounded(powers, 10 ** rng.uniform(-300, 300, 300), 0.5)
    assert_rounded(powers, 0.96, rng.integers(1, 10**6, 200) * 0.004)
    assert_rounded(powers, rng.integers(2, 10**6, 200), -0.8)
    assert_rounded(powers, 1 + 10 ** rng.uniform(-15, 6, 300), 0.75)


def test_the_whole_range(powers: Powers) -> None:
    """Results from the least subnormal number to the largest finite one."""
    rng = np.random.default_rng(3)
    x = 2.0 ** rng.uniform(-1074, 1023, 500)
    assert_rounded(powers, x, rng.uniform(-1074, 1023.9, 500) / np.log2(x))
    assert_rounded(powers, 2.0 ** rng.uniform(-3, 0, 300), rng.uniform(340, 1074, 300))
    assert_rounded(powers, [TINY, 3 * TINY, HUGE, sys.float_info.min], [0.5, -0.9, 0.999, 0.25])


def test_next_to_one(powers: Powers) -> None:
    """The power of a number close to 1 can be closer to the middle between two doubles than any error can be small."""
    rng = np.random.default_rng(4)
    x = 1 + rng.integers(-40, 40, 500) * 2.0**-53 * 2.0 ** rng.integers(0, 27, 500)
    for y in (0.5, -1, 0.75, 1.5, 2, 3, -0.5, 1 + 2.0**-13, 1 - 2.0**-20):
        assert_rounded(powers, x[x != 1], y)
    assert_rounded(powers, [BELOW_1, ABOVE_1, BELOW_1, ABOVE_1], [0.5, 0.5, 1e16, -1e16])


def nearest(x: Fraction) -> float:
    """Return the double nearest to a fraction, ties to even."""
    try:
        return float(x)
    except OverflowError:
        return INF


def test_ties(powers: Powers) -> None:
    """Powers of numbers of few bits lie in the middle between two doubles, also between subnormal ones."""
    whole = [(m * 2.0**e, n) for m in range(3, 99, 2) for e in (-30, -6, 0, 9) for n in range(2, 90)]
    subnormal = [(m * 2.0**-500, n) for m in range(3, 4000, 2) for n in (2, 3)]
    subnormal += [(m * 2.0**-e, n) for m in (3, 5, 7) for e in range(10, 60) for n in range(18, 100)]
    pairs = whole + subnormal
    exact = [Fraction(x) ** n for x, n in pairs]
    expected = [nearest(x) for x in exact]
    assert sum(is_tie(*each) for each in zip(exact, expected, strict=True)) > 100
    np.testing.assert_array_equal(powers(*zip(*pairs, strict=True)), expected)


def is_tie(exact: Fraction, x: float) -> bool:
    """Tell whether a number is exactly between the double ``x`` nearest to it and one beside that."""
    if not 0 < x < INF:
        return False
    return any(2 * exact == Fraction(x) + Fraction(math.nextafter(x, way)) for way in (0, HUGE))


def test_ties_of_fractional_powers(powers: Powers) -> None:
    roots = [*range(180_001, 2**18, 91)]
    expected = [nearest(Fraction(r) ** 3) for r in roots]
    assert sum(r**3 != x for r, x in zip(roots, expected, strict=True)) > 100
    np.testing.assert_array_equal(powers([float(r * r) for r in roots], 1.5), expected)


def test_what_may_be_a_neighbour_is_in_doubt(library: ctypes.CDLL, powers: Powers) -> None:
    """Ties are as near to a middle as can be."""
    ties = [
        (m, n) for m in range(3, 999, 2) for n in range(2, 40) if is_tie(Fraction(m) ** n, nearest(Fraction(m) ** n))
    ]
    assert len(ties) > 20
    library.was_in_doubt()
    for x, y in ties:
        powers([float(x)], [float(y)])
        assert library.was_in_doubt(), (x, y)
        assert not library.was_in_doubt()
    rng = np.random.default_rng(6)
    powers(rng.uniform(0, 1, 10_000), rng.integers(1, 1000, 10_000))
    powers(0.96, rng.integers(1, 10**6, 10_000) * 0.004)
    assert not library.was_in_doubt()


@pytest.mark.parametrize("name", ["exponentials", "logarithms"])
def test_few_values_of_functions_are_in_doubt(library: ctypes.CDLL, name: str) -> None:
    x = np.random.default_rng(7).uniform(0.5, 2, 10_000)
    z = np.empty_like(x)
    library.was_in_doubt()
    getattr(library, name)(ctypes.c_longlong(x.size), *(ctypes.c_void_p(a.ctypes.data) for a in (x, z)))
    assert not library.was_in_doubt()


SPECIAL = [0.0, 1.0, INF, math.nan, 0.5, 2.0, TINY, HUGE]
EXPONENTS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, INF, -INF, math.nan, 1e300, -1e300, TINY, 1e-17, 1e19, -1e19]


@pytest.mark.parametrize("x", SPECIAL)
def test_special_values_are_those_of_python(powers: Powers, x: float) -> None:
    """Where Python raises OverflowError or ZeroDivisionError, the power is infinite."""
    for y in EXPONENTS:
        try:
            expected = x**y
        except ArithmeticError:
            expected = INF
        np.testing.assert_array_equal(powers([x], [y]), [expected], f"{x}**{y}")


def test_ends_of_the_range(powers: Powers) -> None:
    x = np.array([2, 2, 2, 2, 0.5, 0.5, 0.5, math.sqrt(2)])
    y = np.array([1023, 1024, -1074, -1075, 1074, 1074.9, 1075.1, 2048])
    np.testing.assert_array_equal(powers(x, y), [2.0**1023, INF, TINY, 0, TINY, TINY, 0, INF])
    y = np.array([INF, INF, 1e300, -1e300])
    np.testing.assert_array_equal(powers([BELOW_1, ABOVE_1, BELOW_1, ABOVE_1], y), [0, INF, 0, 0])


@pytest.mark.parametrize("draws", [pytest.param(20_000, id="some"), pytest.param(10**6, marks=pytest.mark.slow)])
def test_the_twin_gives_the_same_bits(powers: Powers, draws: int) -> None:
    """What rules ask for: a beta to the number of a step, and real powers of steps and of what grows with them."""
    rng = np.random.default_rng(draws)
    steps = np.floor(10 ** rng.uniform(0, 9, draws))
    x = np.where(rng.random(draws) < 0.7, 1 - 10 ** rng.uniform(-9, -0.01, draws), 1 + 10 ** rng.uniform(-9, 9, draws))
    y = np.where(rng.random(draws) < 0.7, steps, rng.uniform(-3, 3, draws))
    expected = [power(*pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(powers(x, y), expected)


def elementwise(function: Any, x: Any) -> Any:
    """Apply one of the functions of one number to an array."""
    x = np.ascontiguousarray(x, np.float64)
    z = np.empty_like(x)
    function(ctypes.c_longlong(x.size), *(ctypes.c_void_p(a.ctypes.data) for a in (x, z)))
    return z


def test_exponentials(library: ctypes.CDLL) -> None:
    """Decimal arithmetic rounds its exponentials and logarithms correctly."""
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(-746, 710, 300), rng.uniform(-1, 1, 300), -(10 ** rng.uniform(-20, 0, 300))])
    expected = [float(EXACTLY.exp(Decimal(y))) for y in x.tolist()]
    np.testing.assert_array_equal(elementwise(library.exponentials, x), expected)
    special = [0.0, -0.0, TINY, INF, -INF, math.nan, 709.9, -745.2, 1e300, -1e300]
    expected = [1, 1, 1, INF, 0, math.nan, INF, 0, INF, 0]
    np.testing.assert_array_equal(elementwise(library.exponentials, special), expected)


def test_logarithms(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(6)
    near = 1 + rng.integers(-999, 999, 300) * 2.0**-53 * 2.0 ** rng.integers(0, 40, 300)
    x = np.concatenate([2.0 ** rng.uniform(-1074, 1023.9, 300), rng.uniform(0, 1, 300), near[near != 1], [TINY, HUGE]])
    expected = [float(EXACTLY.ln(Decimal(y))) for y in x.tolist()]
    np.testing.assert_array_equal(elementwise(library.logarithms, x), expected)
    special = [1.0, 0.0, -0.0, INF, -1.0, -INF, math.nan]
    np.testing.assert_array_equal(elementwise(library.logarithms, special), [0, -INF, -INF, INF, *[math.nan] * 3])
