"""Numbers of 16 bits and what rounds to them, from the formats' definitions in integers alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """The bits of the fraction, and the exponent of 2 that the least subnormal number is."""

    fraction: int
    least: int


FORMATS = {"float16": Format(10, -24), "bfloat16": Format(7, -133)}


def value(bits: int, form: Format) -> float:
    """Return the number that the bits of a positive one stand for; those of infinity continue the row."""
    exponent, fraction = bits >> form.fraction, bits & (1 << form.fraction) - 1
    whole = fraction + (1 << form.fraction if exponent else 0)
    return float(whole) * 2.0 ** (max(exponent, 1) - 1 + form.least)


def infinity(form: Format) -> int:
    """Return the bits of infinity."""
    return 0x7FFF >> form.fraction << form.fraction


def around_middles(name: str, wide: str) -> tuple[Any, Any]:
    """Return numbers of a wider format and the bits that each rounds to, ties to even, both signs.

    They are the middle between every two neighbours, the last one and infinity among them, and the numbers of the wider
    format next to it.
    """
    form = FORMATS[name]
    bits = np.arange(infinity(form))
    middles = np.array([(value(k, form) + value(k + 1, form)) / 2 for k in bits.tolist()]).astype(wide)
    toward = np.array([-np.inf, np.inf], wide)
    x = np.concatenate([np.nextafter(middles, toward[0]), middles, np.nextafter(middles, toward[1])])
    rounded = np.concatenate([bits, bits + (bits & 1), bits + 1])
    return np.concatenate([x, -x]), np.concatenate([rounded, rounded | 0x8000]).astype(np.uint16)
