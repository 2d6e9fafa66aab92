"""Powers, cosines, exponentials and logarithms of doubles, each the double nearest to the exact value.

A C library's may be another neighbour, and which one depends on the library and the processor. Here integers do it, so
that the result is the same wherever Python runs. An approximation gives integers ``low``, ``high`` and ``e`` with the
exact value between ``low * 2**e`` and ``high * 2**e``; where both round to the same double, that is the result, else
the approximation is made anew with twice the bits. That ends, because what is exactly in the middle between two doubles
is a whole number times a power of two: powers that are such numbers are computed exactly, and the other functions have
no rational values but at 0 and 1 (Lindemann). ``kernels/harness/power.cuh`` is the twin of ``power``, ``exp`` and
``log``.

Numbers are doubles, integers of any size, and whatever gives one of both by ``__index__`` or ``__float__``. Nothing
raises an exception for its value: what is too large is infinite, what is not defined is NaN.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count, repeat
from operator import index
from typing import Any, TypeAlias, cast

import numpy as np

from .arith import Array, word
from .array_types import loaded_cupy
from .followed import Followed, follow
from .namespaces import FUNCTIONS

Interval: TypeAlias = tuple[int, int, int]
"""``low``, ``high``, ``e``: the exact value is between ``low * 2**e`` and ``high * 2**e``."""

BITS = 64
"""The bits of the first approximation: it suffices but for one number in 2**50."""

GUARD = 64
"""Bits more for logarithms and exponentials: their errors, and exponents below 2**GUARD, take some."""

DOUBLE, NORMAL = 53, 1000
"""The bits of a double, and exponents below which it is no subnormal number and not infinite."""

REMEMBERED = 1 << 10
"""Results that are kept of each function: a step asks for the same powers for every group."""

AHEAD = 64
"""Powers that are computed at once where steps follow one another, which is quicker than one now and then."""


def power(x: float, y: float) -> float:
    """Return x**y, with the special values of C's ``pow``; NaN for x < 0 and an exponent that is no integer."""
    if type(x) is type(y) is float and y == 0.5 and x > 0:
        return math.sqrt(x)
    found = _known.get((x, y))
    if found is not None:
        return found
    if isinstance(x, Followed) or isinstance(y, Followed):
        return cast(float, follow(power, operator.pow, x, y))
    x, y = _plain(x), _plain(y)
    if y == 0 or x == 1:
        return 1.0
    if x != x or y != y:
        return math.nan
    if x == 0 or abs(x) == math.inf or abs(y) == math.inf:
        return _special_power(x, y)
    if x < 0 and y != int(y):
        return math.nan
    size = 1.0 if x == -1 else _remembered(abs(x), y)
    return -size if x < 0 and y % 2 else size


def cos(x: float) -> float:
    """Return the cosine of an angle in radians, NaN for infinity."""
    x = abs(_plain(x))
    if x == 0:
        return 1.0
    return _cos(x) if x < math.inf else math.nan


def exp(x: float) -> float:
    """Return e**x."""
    if isinstance(x, Followed):
        return _follow(exp, "exp", x)
    x = _plain(x)
    if x == 0 or x != x:
        return x + 1.0
    return _exp(x) if abs(x) < 1 << 10 else math.inf if x > 0 else 0.0


def log(x: float) -> float:
    """Return the natural logarithm, -inf for 0 and NaN below."""
    if isinstance(x, Followed):
        return _follow(log, "log", x)
    x = _plain(x)
    if x <= 0 or x == 1:
        return 0.0 if x == 1 else math.nan if x else -math.inf
    return _log(x) if x < math.inf else x + 0.0


_POWERS = np.frompyfunc(power, 2, 1)
FUNCTIONS[_POWERS] = operator.pow


@word
def powers(x: Array, c: Array) -> Array:
    """Return the powers of the elements of an array: each is ``power`` of it, rounded once to the type of ``x``."""
    cupy = loaded_cupy()
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy.asarray(powers(x.get(), c))
    found = _POWERS(x, c, dtype=object, casting="unsafe")
    return found.astype(x.dtype) if hasattr(found, "astype") else x.dtype.type(found)


def _follow(function: Callable[[float], float], name: str, x: Followed) -> float:
    """Compute a function of a number that a library follows, which calls it so."""
    return cast(float, follow(function, getattr(x.namespace.xp, name), x))


def _plain(x: Any) -> Any:
    """Return an integer or a double."""
    if isinstance(x, (int, float)):
        return x
    return index(x) if hasattr(x, "__index__") else float(x)


def _special_power(x: float, y: float) -> float:
    """Return x**y where x is 0 or one of both is infinite."""
    if abs(y) == math.inf:
        return 1.0 if x == -1 else math.inf if (abs(x) > 1) == (y > 0) else 0.0
    size = math.inf if (x == 0) == (y < 0) else 0.0
    return math.copysign(size, x) if y % 2 == 1 else size


_known: dict[tuple[float, float], float] = {}
"""Powers by base and exponent, for bases above 0 other than 1 and exponents other than 0."""


def _remembered(x: float, y: float) -> float:
    """Compute a power and keep it; where it follows on the one before it, so will the next, which are made with it."""
    if len(_known) > REMEMBERED:
        _known.clear()
    follows = 1 < y < 1 << 53 and y == int(y) and (x, y - 1) in _known
    result = _known[x, y] = _power(x, y)
    if follows:
        n = int(y) + 1
        _known.update(zip(zip(repeat(x), range(n, n + AHEAD)), _run(x, n), strict=False))
    return result


def _run(x: float, n: int) -> Iterator[float]:
    """Yield x**n and those after it, each made of the one before, which is ``_power`` of them in fewer steps."""
    (m, e), bits = _parts(x), BITS + GUARD
    v, cut = _product(bits, m, n)
    drop = bits - DOUBLE
    below = (1 << (drop - 1)) - 1
    for k in count(n):
        error, scale = 4 * k, e * k + cut
        if cut and (v + error) & below > error and abs(scale + bits) < NORMAL:  # nothing between is half way
            yield math.ldexp(((v >> (drop - 1)) + 1) >> 1, scale + drop)
        else:
            yield _power(x, k)
        v, cut = _shortened(v * m, cut, bits)


def _power(x: float, y: float) -> float:
    """Return x**y for a finite x > 0 that is not 1 and a finite y."""
    if y == 0.5 and x < 1 << 53:  # math.sqrt would round a larger integer first
        return math.sqrt(x)
    if abs(y) >= 1 << GUARD:  # a double next to 1 is 2**-53 away from it
        return math.inf if (x > 1) == (y > 0) else 0.0
    m, e = _parts(x)
    n, halvings = _fraction(y)
    root, e_of_root = _exact_root(m, e, halvings)
    if not root:
        return _nearest(_real_power, m, e, n, halvings)
    if root == 1:
        return _scaled(1, e_of_root * n)
    return _nearest(_whole_power, root, e_of_root, n)


@lru_cache(REMEMBERED)
def _cos(x: float) -> float:
    return _nearest(_cosine, *_fraction(x))


@lru_cache(REMEMBERED)
def _exp(x: float) -> float:
    return _nearest(_exponential_of, *_fraction(x))


@lru_cache(REMEMBERED)
def _log(x: float) -> float:
    return _nearest(_logarithm_of, *_parts(x))


def _nearest(approximate: Callable[..., Interval], *arguments: int) -> float:
    """Return the double that both ends of an approximation round to, once there is one."""
    bits = BITS
    while True:
        low, high, e = approximate(bits, *arguments)
        x = _scaled(low, e)
        if x == _scaled(high, e):
            return x
        bits *= 2


def _scaled(v: int, e: int) -> float:
    """Return v * 2**e, rounded once; Python rounds quotients of integers to nearest even, subnormal ones too."""
    size = v.bit_length() + e
    if size < -1074:
        return 0.0
    try:
        return v / (1 << -e) if e < 0 else float(v << e if size < 1025 else 1 << 1024)
    except OverflowError:
        return math.inf


def _fraction(x: float) -> tuple[int, int]:
    """Return n and the least h with x = n / 2**h."""
    n, denominator = x.as_integer_ratio()
    return n, denominator.bit_length() - 1


def _parts(x: float) -> tuple[int, int]:
    """Return an odd m and e with x = m * 2**e."""
    n, halvings = _fraction(x)
    zeros = (n & -n).bit_length() - 1
    return n >> zeros, zeros - halvings


def _exact_root(m: int, e: int, halvings: int) -> tuple[int, int]:
    """Take ``halvings`` square roots of m * 2**e; return (0, 0) if the last is not m * 2**e in integers."""
    if e % (1 << halvings):
        return 0, 0
    for _ in range(halvings if m > 1 else 0):
        root = math.isqrt(m)
        if root * root != m:
            return 0, 0
        m = root
    return m, e >> halvings


def _whole_power(bits: int, m: int, e: int, n: int) -> Interval:
    """Enclose (m * 2**e)**n for |n| < 2**GUARD."""
    v, cut = _product(bits + GUARD, m, abs(n))
    error = 4 * abs(n) if cut else 0
    if n > 0:
        return v, v + error, e * n + cut
    size = 2 * (bits + GUARD)
    return (1 << size) // (v + error), (1 << size) // v + 1, e * n - cut - size


def _product(bits: int, m: int, n: int) -> tuple[int, int]:
    """Return v and ``cut`` with v * 2**cut less than m**n by at most 4 n units of v, which has ``bits`` bits if cut.

    It is made by repeated squaring, or of the power before it, if that was the last one asked for. Each cut loses less
    than two parts in 2**bits; a squaring doubles what was lost, a product adds.
    """
    count, v, cut = _last.get((bits, m), (0, 1, 0))
    if count + 1 == n:
        v, cut = _shortened(v * m, cut, bits)
    else:
        v, cut = m, 0
        for digit in bin(n)[3:]:
            v, cut = _shortened(v * v * m if digit == "1" else v * v, 2 * cut, bits)
    if len(_last) > REMEMBERED:
        _last.clear()
    _last[bits, m] = n, v, cut
    return v, cut


_last: dict[tuple[int, int], tuple[int, int, int]] = {}


def _shortened(v: int, cut: int, bits: int) -> tuple[int, int]:
    excess = v.bit_length() - bits
    return (v >> excess, cut + excess) if excess > 0 else (v, cut)


def _real_power(bits: int, m: int, e: int, n: int, halvings: int) -> Interval:
    """Enclose (m * 2**e)**y for y = n / 2**halvings, |y| < 2**GUARD: the exponential of y times the logarithm."""
    scale = bits + GUARD
    logarithm, error = _logarithm(scale, m, e)
    t = logarithm * n >> halvings
    if abs(t) >> scale > 1 << 10:
        return 1, 1, 1 << 11 if t > 0 else -1 << 11
    return _exponential(scale, t, (error * abs(n) >> halvings) + 2)


def _exponential_of(bits: int, n: int, halvings: int) -> Interval:
    scale = bits + GUARD
    return _exponential(scale, (n << scale) >> halvings, 1)


def _logarithm_of(bits: int, m: int, e: int) -> Interval:
    scale = bits + GUARD
    value, error = _logarithm(scale, m, e)
    return value - error, value + error, -scale


@lru_cache(REMEMBERED)
def _logarithm(scale: int, m: int, e: int) -> tuple[int, int]:
    """Return log(m * 2**e) in units of 2**-scale, and how many it may be off.

    With m * 2**e = 2**k * f and f near i / 64 it is k log(2) + log(i / 64) + 2 artanh((f - i / 64) / (f + i / 64)).
    """
    size = m.bit_length()
    f, k = m << scale - size if size < scale else m >> size - scale, e + size
    if f < 3 << scale - 2:
        f, k = 2 * f, k - 1
    i = (f >> scale - 7) + 1 >> 1
    near = i << scale - 6
    rest = 2 * _artanh(scale, f - near, f + near)
    return k * _log_of_ratio(scale, 2, 1) + _log_of_ratio(scale, i, 64) + rest, (abs(k) + 2) * scale


@lru_cache(REMEMBERED)
def _log_of_ratio(scale: int, a: int, b: int) -> int:
    return 2 * _artanh(scale, a - b, a + b)


def _artanh(scale: int, a: int, b: int) -> int:
    """Return artanh(a / b) for |a / b| <= 1 / 3, a unit off for each term of the series, of which there are few."""
    x = term = (abs(a) << scale) // b
    square, total, n = x * x >> scale, x, 1
    while term:
        term = term * square >> scale
        n += 2
        total += term // n
    return total if a > 0 else -total


FRACTION = 10
"""Bits behind the point of numbers whose exponentials are remembered: steps that follow one another need the same."""


def _exponential(scale: int, t: int, error: int) -> Interval:
    """Enclose the exponential of t, in units of 2**-scale, which may be ``error`` off.

    With t = k log(2) + i / 2**FRACTION + r it is 2**k * exp(i / 2**FRACTION) * exp(r), both exponentials below 2.
    """
    k, rest = divmod(t, _log_of_ratio(scale, 2, 1))
    i = rest >> scale - FRACTION
    r = rest - (i << scale - FRACTION)
    total = _series_of_exponential(scale, r) * _exponential_of_fraction(scale, i) >> scale
    error = 4 * (error + (abs(k) + 2) * scale)
    return total - error, total + error, k - scale


@lru_cache(REMEMBERED)
def _exponential_of_fraction(scale: int, i: int) -> int:
    """Return exp(i / 2**FRACTION) for 0 <= i < 2**FRACTION * log(2)."""
    return _series_of_exponential(scale, i << scale - FRACTION)


def _series_of_exponential(scale: int, r: int) -> int:
    """Return exp(r) for 0 <= r < log(2), less than a unit off for each term."""
    term, total, n = r, (1 << scale) + r, 1
    while term:
        n += 1
        term = (term * r >> scale) // n
        total += term
    return total


def _cosine(bits: int, n: int, halvings: int) -> Interval:
    """Enclose cos(n / 2**halvings): a sine or cosine of what is left when quarters of the circle are taken off."""
    scale = bits + GUARD
    wide = scale + (GUARD if n >> halvings < 1 << GUARD else max(1 << 10, n.bit_length()))
    x, quarter = (n << wide) >> halvings, _quarter_circle(wide)
    quarters = (2 * x + quarter) // (2 * quarter)
    x = x - quarters * quarter >> wide - scale
    value = _sine(scale, x) if quarters % 2 else _series(scale, x, 1 << scale, 0)
    value = value if quarters % 4 in (0, 3) else -value
    return value - scale, value + scale, -scale


def _sine(scale: int, x: int) -> int:
    return _series(scale, x, x, 1)


def _series(scale: int, x: int, term: int, n: int) -> int:
    """Sum the series of the cosine (from 1, n = 0) or the sine (from x, n = 1), a unit off for each term."""
    square, sign, way = x * x >> scale, -1 if term < 0 else 1, 1
    term = total = abs(term)
    while term:
        term = (term * square >> scale) // ((n + 1) * (n + 2))
        n, way = n + 2, -way
        total += way * term
    return sign * total


@lru_cache(16)
def _quarter_circle(scale: int) -> int:
    """Return pi / 2 by Machin's formula, less than a unit off."""
    more = 16
    pi = 16 * _arctan_of_inverse(scale + more, 5) - 4 * _arctan_of_inverse(scale + more, 239)
    return pi >> more + 1


def _arctan_of_inverse(scale: int, q: int) -> int:
    term = total = (1 << scale) // q
    n, way = 1, 1
    while term:
        term //= q * q
        n, way = n + 2, -way
        total += way * (term // n)
    return total
