"""Conversions between number formats, and numbers in files, against exact values."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import formats, record_lr, words
from refoptim.conformance.strict import Layout

from helpers import halves
from refoptim.numerics.arith import round_to, to_bfloat16, widen

INF = math.inf


def dtype(name: str) -> Any:
    """Return a dtype, or skip where ml_dtypes is needed and missing."""
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes").bfloat16)
    return np.dtype(name)


def bits(x: Any) -> Any:
    return x.view(np.uint16)


@pytest.mark.parametrize("name", halves.FORMATS)
def test_every_number_of_16_bits_is_widened_exactly(name: str) -> None:
    form, every = halves.FORMATS[name], np.arange(1 << 16, dtype=np.uint16)
    x = widen(every.view(dtype(name)))
    finite = np.arange(halves.infinity(form))
    expected = np.array([halves.value(k, form) for k in finite.tolist()])
    assert x[: len(finite)].astype(np.float64).tolist() == expected.tolist()
    assert x[1 << 15 :][: len(finite)].tobytes() == (-x[: len(finite)]).tobytes()
    assert x[[len(finite), len(finite) + (1 << 15)]].tolist() == [INF, -INF]
    assert np.isnan(x[len(finite) + 1 : 1 << 15]).all()
    assert np.isnan(x[len(finite) + 1 + (1 << 15) :]).all()


@pytest.mark.parametrize("name", halves.FORMATS)
def test_numbers_are_rounded_to_16_bits_once_ties_to_even(name: str) -> None:
    x, expected = halves.around_middles(name, "float32")
    with np.errstate(all="ignore"):
        found = round_to(x, np.zeros(1, dtype(name)))
    assert (bits(found) == expected).all()


def test_the_word_that_rounds_to_bfloat16_does_the_same() -> None:
    x, expected = halves.around_middles("bfloat16", "float32")
    assert ((to_bfloat16(x).view(np.uint32) >> 16).astype(np.uint16) == expected).all()


def test_doubles_are_rounded_to_float16_once() -> None:
    """Not to float32 first, which would make ties of numbers next to the middle."""
    x, expected = halves.around_middles("float16", "float64")
    with np.errstate(all="ignore"):
        assert (bits(x.astype(np.float16)) == expected).all()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (1 + 2.0**-24, 1.0),
        (1 + 3 * 2.0**-24, 1 + 2.0**-22),
        (1 + 2.0**-24 + 2.0**-52, 1 + 2.0**-23),
        (2.0**-150, 0.0),
        (-(2.0**-150), -0.0),
        (3 * 2.0**-150, 2.0**-148),
        (2.0**-150 * (1 + 2.0**-52), 2.0**-149),
        (2.0**-126 - 2.0**-150, 2.0**-126),
        (2.0**128 - 2.0**103, INF),
        (2.0**128 - 2.0**103 - 2.0**75, 2.0**128 - 2.0**104),
    ],
)
def test_doubles_are_rounded_to_float32_ties_to_even(x: float, expected: float) -> None:
    with np.errstate(all="ignore"):
        for found in (np.float32(x), np.array([x]).astype(np.float32)[0]):
            assert struct.pack("<d", float(found)) == struct.pack("<d", expected)


def doubles() -> list[float]:
    """Return doubles of all exponents, drawn by their bits, and some at the ends of the range."""
    draw = random.Random("doubles").getrandbits
    found = [struct.unpack("<d", draw(64).to_bytes(8, "little"))[0] for _ in range(4000)]
    return [x for x in found if math.isfinite(x)] + [5e-324, -5e-324, -0.0, 2.2250738585072014e-308, 1e23, 0.1]


def test_schedules_in_files_are_hexadecimal_and_exact() -> None:
    text = record_lr.to_hex(doubles())
    assert [x.hex() for x in record_lr.from_hex(text)] == [x.hex() for x in doubles()]
    assert all(word.lstrip("-").startswith("0x") for word in text.split())


def test_texts_of_doubles_are_read_as_the_doubles_they_were() -> None:
    """JSON and CSV write the shortest text that is read as the same double; Python's own code does both."""
    for x in doubles():
        assert float(repr(x)).hex() == x.hex()
        assert float(str(np.float64(x))).hex() == x.hex()


def test_words_say_the_same_on_every_machine() -> None:
    """The bits of 1 in each format, by hand, most significant digit first in texts and last in files."""
    one = {"float16": "3c00", "bfloat16": "3f80", "float32": "3f800000", "float64": "3ff0000000000000"}
    for name, digits in one.items():
        x = np.ones(2, dtype(name))
        assert words.to_hex(x) == f"{digits} {digits}"
        data = bytes.fromhex(digits)[::-1] * 2
        assert bytes(words.to_words(x).data) == data
        assert words.from_bytes(data, Layout(name, (2,))).tolist() == [1, 1]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_are_little_endian(suffix: str, tmp_path: Path) -> None:
    x = np.array([1.5, -2.5e-5], np.float32)
    formats.write(tmp_path / f"x{suffix}", formats.Trajectory({"case": {}}, {"lr": x}))
    assert struct.pack("<2f", *x.tolist()) in (tmp_path / f"x{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".json", ".csv", ".h"])
def test_texts_are_ascii_with_line_feeds(suffix: str, tmp_path: Path) -> None:
    header = {"case": {"comment": "größer als 1,5"}}
    formats.write(tmp_path / f"x{suffix}", formats.Trajectory(header, {"lr": np.array([1.5])}))
    data = (tmp_path / f"x{suffix}").read_bytes()
    assert data.isascii()
    assert b"\r" not in data
    assert b"3ff8000000000000" in data
