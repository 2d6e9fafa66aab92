"""Powers, cosines, exponentials and logarithms against mpmath and exact fractions: not one last bit differs."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from refoptim.numerics import power as numerics
from refoptim.numerics.power import cos, exp, log, power

mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed")

INF, NAN, TINY, HUGE = math.inf, math.nan, 5e-324, sys.float_info.max

DRAWS = 1_500

MILLION = [pytest.param(DRAWS, id="some"), pytest.param(10**6, id="a-million", marks=pytest.mark.slow)]

Draw = Callable[[random.Random], tuple[float, ...]]


def nearest(x: Fraction) -> float:
    """Round a fraction to the nearest double; Python does that exactly."""
    try:
        return float(x)
    except OverflowError:
        return INF if x > 0 else -INF


def rounded(f: Callable[..., Any], *arguments: float) -> float:
    """Round what mpmath computes with 300 bits, or with more where the argument is large."""
    size = max(0, *(int(x).bit_length() for x in arguments)) if f is mpmath.cos else 64
    with mpmath.workprec(300 + size):
        sign, m, e, _ = f(*map(mpmath.mpf, arguments))._mpf_
    if not m or m.bit_length() + e < -1100 or m.bit_length() + e > 1100:
        return 0.0 if not m or e < 0 else INF
    return nearest(Fraction(-int(m) if sign else int(m)) * Fraction(2) ** e)


def unit_power(rng: random.Random) -> tuple[float, float]:
    """Draw what a step computes: a number below 1, often close to it, to the number of a step."""
    return 1 - 10 ** rng.uniform(-9, -0.01), rng.randint(1, 10 ** rng.randint(1, 9))


DRAWN: dict[str, tuple[Callable[..., float], str, Draw]] = {
    "steps": (power, "power", unit_power),
    "inverse": (power, "power", lambda rng: (unit_power(rng)[0], -rng.randint(1, 1000))),
    "near-1": (power, "power", lambda rng: (1 + rng.choice([-1, 2]) * 2.0**-53, rng.uniform(-1, 1) * 2.0**63)),
    "real": (power, "power", lambda rng: (rng.uniform(0, 2), rng.uniform(-20, 20))),
    "wide": (power, "power", lambda rng: (2 ** rng.uniform(-1074, 1023), rng.uniform(-2, 2))),
    "cos": (cos, "cos", lambda rng: (rng.uniform(-7, 7),)),
    "cos-wide": (cos, "cos", lambda rng: (rng.choice([-1, 1]) * 2 ** rng.uniform(-30, 1023),)),
    "cos-near-0": (cos, "cos", lambda rng: ((2 * rng.randint(0, 10**9) + 1) * math.pi / 2,)),
    "exp": (exp, "exp", lambda rng: (rng.uniform(-746, 710),)),
    "exp-near-1": (exp, "exp", lambda rng: (rng.choice([-1, 1]) * 2 ** rng.uniform(-60, 0),)),
    "log": (log, "log", lambda rng: (2 ** rng.uniform(-1074, 1023),)),
    "log-near-1": (log, "log", lambda rng: (1 + rng.choice([-1, 1]) * 2 ** rng.uniform(-52, -1),)),
}


@pytest.mark.parametrize("draws", MILLION)
@pytest.mark.parametrize("name", DRAWN)
def test_drawn_arguments(name: str, draws: int) -> None:
    function, other, draw = DRAWN[name]
    rng = random.Random(f"{name} {draws}")
    wrong = []
    for _ in range(draws):
        arguments = draw(rng)
        if function(*arguments) != rounded(getattr(mpmath, other), *arguments):
            wrong.append(arguments)
    assert not wrong


def test_whole_powers_of_few_bits_are_ties() -> None:
    """Their exact value is often in the middle between two doubles, subnormal ones too: the even one is taken."""
    pairs = [(m * 2.0**e, n) for m in range(3, 99, 2) for e in (-500, -30, 0, 9) for n in range(2, 40)]
    pairs += [(m * 2.0**-215, 5) for m in range(3, 1700, 2)]
    exact = [Fraction(x) ** n for x, n in pairs]
    assert sum(map(is_tie, exact)) > 100
    assert [power(x, n) for x, n in pairs] == [nearest(y) for y in exact]


def test_roots_of_few_bits_are_ties() -> None:
    """r**3 is computed as (r * r)**1.5, and (r**4)**0.75: exact, and in the middle of two doubles for many r."""
    roots = range(180_001, 2**18, 91)
    exact = [Fraction(r) ** 3 for r in roots]
    assert sum(map(is_tie, exact)) > 100
    assert [power(float(r * r), 1.5) for r in roots] == [nearest(y) for y in exact]
    assert [power(float(r**4), 0.75) for r in range(2, 8000)] == [float(r**3) for r in range(2, 8000)]


def is_tie(x: Fraction) -> bool:
    """Tell whether a fraction is exactly in the middle between two doubles."""
    y = nearest(x)
    beside = [math.nextafter(y, way) for way in (0.0, INF)]
    return 0 < y < HUGE and any(2 * x == Fraction(y) + Fraction(z) for z in beside)


def near_ties(f: Callable[[Any], Any], x: float, count: int) -> Iterator[float]:
    """Search doubles from x on for those where f, nearly a line there, comes closest to a tie.

    Within 2**16 neighbours the best of a line and a parabola is found with whole numbers: f(x + j u) in units of half
    the last place of f(x).
    """
    with mpmath.workprec(300):
        u = mpmath.mpf(math.ulp(x))
        first, slope, bend = (mpmath.diff(f, mpmath.mpf(x), k) for k in range(3))
        half = mpmath.mpf(math.ulp(float(first))) / 2
        a, b, c = (int(v * 2**64) for v in (first / half, slope * u / half, bend * u * u / half / 2))
    gaps = []
    for j in range(1 << 16):
        place = (a + b * j + c * j * j) % (1 << 65)  # an odd number of halves is a tie
        gaps.append((abs(place - (1 << 64)), j))
    yield from (x + j * math.ulp(x) for _, j in sorted(gaps)[:count])


HARD = {
    "exp": (exp, lambda t: mpmath.exp(t), [0.7, 1.3, 5.9, 0.011, 300.1]),
    "log": (log, lambda t: mpmath.log(t), [1.1, 2.7, 0.3, 1e5, 1e-3]),
    "cos": (cos, lambda t: mpmath.cos(t), [0.3, 1.1, 2.9, 0.05, 6.1]),
    "to-1000": (lambda x: power(x, 1000), lambda t: t**1000, [0.9, 0.999, 0.51, 1.2]),
    "to-0.7": (lambda x: power(x, 0.7), lambda t: t ** mpmath.mpf(0.7), [0.9, 0.0004, 3.0, 1e100]),
    "to--3": (lambda x: power(x, -3), lambda t: t**-3, [0.9, 1.7, 3.0, 1e50]),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name: str) -> None:
    """Where the exact value is within 2**-15 of a last place of a tie, found by search."""
    function, f, starts = HARD[name]
    found = [x for start in starts for x in near_ties(f, start, 200)]
    assert len(found) == 200 * len(starts)
    assert [function(x) for x in found] == [rounded(f, x) for x in found]


def gap(f: Callable[[Any], Any], x: float) -> float:
    """Return how far f(x) is from a tie, in last places."""
    with mpmath.workprec(300):
        place = f(mpmath.mpf(x)) / mpmath.mpf(math.ulp(float(f(mpmath.mpf(x)))))
        return float(abs(place - mpmath.floor(place) - 0.5))


def test_the_search_finds_hard_cases() -> None:
    assert max(gap(mpmath.exp, x) for x in near_ties(lambda t: mpmath.exp(t), 0.7, 1)) < 2**-14


def enclosed(interval: tuple[int, int, int], exact: Any) -> bool:
    low, high, e = interval
    return bool(mpmath.ldexp(low, e) <= exact <= mpmath.ldexp(high, e))


@pytest.mark.parametrize("bits", [54, 64, 128])
@pytest.mark.parametrize("guard", [20, 64])
def test_approximations_enclose_the_exact_value(bits: int, guard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where little is added to the bits for errors, so that these are seen; and the ends are close together."""
    monkeypatch.setattr(numerics, "GUARD", guard)
    rng = random.Random(f"{bits} {guard}")
    widest = 0.0
    with mpmath.workprec(3000):
        for _ in range(400):
            m, e = rng.getrandbits(53) | 1, rng.randint(-80, 20)
            n, halvings = rng.getrandbits(12) - 2048 or 1, rng.randint(1, 9)
            x, places = mpmath.ldexp(m, e), 53 + guard
            near, near_m, many = 1 + mpmath.ldexp(m, -places), (1 << places) + m, rng.getrandbits(guard - 1) | 1
            found = [
                (numerics._whole_power(bits, m, e, n), x**n),
                (numerics._real_power(bits, m, e, n, 11 + halvings), x ** mpmath.ldexp(n, -11 - halvings)),
                (numerics._real_power(bits, near_m, -places, many, 1), near ** mpmath.ldexp(many, -1)),
                (numerics._exponential_of(bits, n, halvings), mpmath.exp(mpmath.ldexp(n, -halvings))),
                (numerics._logarithm_of(bits, m, e), mpmath.log(x)),
                (numerics._cosine(bits, m, 40 + halvings), mpmath.cos(mpmath.ldexp(m, -40 - halvings))),
            ]
            assert [enclosed(*pair) for pair in found] == [True] * 6
            widest = max(widest, *(float((high - low) / mpmath.mpf(abs(high))) for (low, high, _), _ in found[:4]))
    assert 0 < widest < 2.0 ** (30 - bits)


@pytest.mark.parametrize("bits", [56, 60])
def test_few_bits_only_take_longer(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An approximation that leaves the rounding open is made anew."""
    monkeypatch.setattr(numerics, "BITS", bits)
    monkeypatch.setattr(numerics, "GUARD", 34)  # above the exponents that are drawn
    forget()
    for name, (function, other, draw) in DRAWN.items():
        if name == "near-1":
            continue
        rng = random.Random(f"{name} {bits}")
        for arguments in (draw(rng) for _ in range(150)):
            assert function(*arguments) == rounded(getattr(mpmath, other), *arguments), arguments
    forget()


def forget() -> None:
    for cached in (numerics._cos, numerics._exp, numerics._log):
        cached.cache_clear()
    numerics._known.clear()


def test_steps_that_follow_one_another_are_those_asked_for_alone() -> None:
    """Powers are made from the one before, and some ahead; from where a run begins changes nothing."""
    for beta in (0.9, 0.999, 0.5, 1 + 2.0**-52, 3.0):
        forget()
        run = [power(beta, k) for k in range(900, 1300)]
        forget()
        assert (
            run
            == [power(beta, k) for k in range(1299, 899, -1)][::-1]
            == [rounded(mpmath.power, beta, k) for k in range(900, 1300)]
        )


VALUES = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, TINY, -TINY, HUGE, -HUGE]


def same(x: float, y: float) -> bool:
    return (x != x and y != y) or (x == y and math.copysign(1, x) == math.copysign(1, y))


def of_python(x: float, y: float) -> float:
    """Return x**y with infinity for Python's exceptions and NaN for its complex numbers."""
    if -INF < x < 0 and math.isfinite(y) and y % 1:
        return NAN
    try:
        found: float = x**y
    except ZeroDivisionError:
        return math.copysign(INF, x) if y % 2 == 1 else INF
    except OverflowError:
        return -INF if x < 0 and y % 2 == 1 else INF
    return found


def test_special_powers_are_those_of_the_standard() -> None:
    exponents = [*VALUES, 4.0, -4.0, 2.5, 1e300, -1e300, 2.0**53]
    wrong = [(x, y) for x in VALUES for y in exponents if not same(power(x, y), of_python(x, y))]
    assert not wrong


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        *((cos, x, y) for x, y in [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (TINY, 1.0)]),
        *((exp, x, y) for x, y in [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (TINY, 1.0)]),
        *((exp, x, y) for x, y in [(1e300, INF), (-1e300, 0.0), (709.79, INF), (-745.14, 0.0), (-745.13, TINY)]),
        *((log, x, y) for x, y in [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (NAN, NAN)]),
    ],
)
def test_special_values(function: Callable[[float], float], x: float, expected: float) -> None:
    assert same(function(x), expected)


def test_huge_integers_are_exponents_too() -> None:
    below, above = math.nextafter(1, 0), math.nextafter(1, 2)
    assert [power(below, 10**18), power(above, 10**18)] == [nearest_power(below, 10**18), nearest_power(above, 10**18)]
    assert [power(below, 10**400), power(above, 10**400), power(above, -(10**400))] == [0.0, INF, 0.0]
    assert [power(-2.0, 10**400 + 1), power(-0.5, 10**400 + 1)] == [-INF, -0.0]
    assert [power(10**30, 2), power(3, 5), power(10**400, 0.5), power(10**400, 1)] == [1e60, 243.0, 1e200, INF]


def nearest_power(x: float, n: int) -> float:
    return rounded(mpmath.power, x, n)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (power(0.9, np.int64(3)), power(0.9, 3)),
        (power(np.int64(3), 5), 243.0),
        (power(np.float32(0.5), np.float16(0.5)), math.sqrt(0.5)),
        (power(Fraction(1, 3), 2), power(1 / 3, 2)),
        (power(2, Fraction(1, 3)), power(2.0, 1 / 3)),
        (exp(np.int64(3)), exp(3.0)),
        (exp(Fraction(1, 3)), exp(1 / 3)),
        (log(Fraction(1, 3)), log(1 / 3)),
        (log(3**300), 300 * log(3.0)),
        (power(3**300, 0.25), float(3**75)),
        (cos(10**400), rounded(mpmath.cos, 10**400)),
        (exp(10**400), INF),
        (exp(-(10**400)), 0.0),
        (log(np.float32(INF)), INF),
    ],
)
def test_other_types_of_numbers(found: Any, expected: float) -> None:
    assert type(found) is float
    assert found == pytest.approx(expected, rel=1e-15, abs=0)


def test_an_exponent_is_taken_as_it_is() -> None:
    """An integer above 2**53 is not rounded to a double first."""
    x, n = 1 - 2.0**-53, 2**53 + 1
    with mpmath.workprec(300):
        _, m, e, _ = (mpmath.mpf(x) ** n)._mpf_
    assert power(x, n) == nearest(Fraction(int(m)) * Fraction(2) ** e)
