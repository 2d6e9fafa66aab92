"""Floating-point arithmetic by exact rational numbers: the witness for words and sums.

Values are Python floats, which hold every number of the four formats. Each operation takes exact operands, forms the
exact result as a fraction and rounds it once, to nearest even. No operation of NumPy takes part, but for infinities,
NaNs and zeros, where nothing is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Format:
    """A binary format: bits of precision, and the exponents of its smallest and largest normal numbers."""

    precision: int
    smallest: int
    largest: int

    def round(self, x: Fraction, sign: float = 1.0) -> float:
        """Round an exact number to nearest even; ``sign`` is that of a zero."""
        exponent = max(floor_log2(abs(x)), self.smallest) if x else self.smallest
        ulp = Fraction(2) ** (exponent - self.precision + 1)
        y = round(x / ulp) * ulp
        if abs(y) >= Fraction(2) ** (self.largest + 1):
            return math.inf if y > 0 else -math.inf
        return float(y) if y else math.copysign(0.0, (x > 0) - (x < 0) or sign)

    def add(self, x: float, y: float) -> float:
        if not (math.isfinite(x) and math.isfinite(y)) or Fraction(x) == -Fraction(y):
            return x + y
        return self.round(Fraction(x) + Fraction(y))

    def sub(self, x: float, y: float) -> float:
        return self.add(x, -y)

    def mul(self, x: float, y: float) -> float:
        if not (math.isfinite(x) and math.isfinite(y)):
            return x * y
        return self.round(Fraction(x) * Fraction(y), sign(x) * sign(y))

    def div(self, x: float, y: float) -> float:
        if math.isnan(x) or math.isnan(y) or (math.isinf(x) and math.isinf(y)) or x == y == 0:
            return math.nan
        if math.isinf(x) or y == 0:
            return math.copysign(math.inf, sign(x) * sign(y))
        if math.isinf(y):
            return math.copysign(0.0, sign(x) * sign(y))
        return self.round(Fraction(x) / Fraction(y), sign(x) * sign(y))

    def sqrt(self, x: float) -> float:
        if math.isnan(x) or x < 0:
            return math.nan
        return x if x in (0.0, math.inf) else self.round(near_root(Fraction(x), 2 * self.precision + 10))


FORMATS = {
    "float16": Format(11, -14, 15),
    "bfloat16": Format(8, -126, 127),
    "float32": Format(24, -126, 127),
    "float64": Format(53, -1022, 1023),
}


def sign(x: float) -> float:
    return math.copysign(1.0, x)


def floor_log2(x: Fraction) -> int:
    """Return the exponent e with 2**e <= x < 2**(e+1)."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def near_root(x: Fraction, bits: int) -> Fraction:
    """Return a number that rounds as the root of ``x`` does: its first bits, and a last one if more would follow."""
    shift = bits - floor_log2(x) // 2
    scaled = x * Fraction(4) ** shift
    root = math.isqrt(int(scaled))
    return (Fraction(root) + (Fraction(1, 2) if root * root != scaled else 0)) / Fraction(2) ** shift
