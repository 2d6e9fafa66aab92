"""The words, operation by operation, against exact rational arithmetic rounded to nearest even."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from helpers.exact import FORMATS, Format, sign
from refoptim.numerics import arith
from refoptim.step.rule import record

nan, inf = math.nan, math.inf
NARROW = ("float16", "bfloat16")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The words overflow and divide by zero here; an engine runs them under such a setting too."""
    with np.errstate(all="ignore"):
        yield


def dtype_of(name: str) -> Any:
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    return np.dtype(name)


def number(name: str) -> Any:
    """Return the type of the scalars that go with a storage type."""
    return np.float64 if name == "float64" else np.float32


def operands(name: str) -> list[float]:
    """Return hand-picked numbers of a format: zeros, ends of its ranges, neighbours of 1, odd ones, infinities, NaN."""
    f = FORMATS[name]
    ulp, tiny, least = 2.0 ** (1 - f.precision), 2.0**f.smallest, 2.0 ** (f.smallest - f.precision + 1)
    largest = (2.0 - ulp) * 2.0**f.largest
    third, tenth = f.round(Fraction(1, 3)), f.round(Fraction(1, 10))
    picked = [0.0, least, tiny - least, tiny, tiny + least, third, tenth, 1 - ulp / 2, 1.0, 1 + ulp, 1 + 3 * ulp, 3.0]
    root = f.round(Fraction(2) ** (f.largest // 2 + 1))
    return [y for x in [*picked, 7.0, 1 / root, root * (1 + ulp), largest, inf] for y in (x, -x)] + [nan]


def few(name: str) -> list[float]:
    """Return a third of them, for words of three arrays."""
    f = FORMATS[name]
    least, largest = 2.0 ** (f.smallest - f.precision + 1), (2.0 - 2.0 ** (1 - f.precision)) * 2.0**f.largest
    ulp = 2.0 ** (1 - f.precision)
    return [0.0, -0.0, least, -3 * least, 1 + ulp, -1.0, f.round(Fraction(1, 3)), -7.0, largest, inf, nan]


COEFFICIENTS = [0.0, -0.1, 0.4999999, 0.5, 0.9, 1.0, -3.0, 1e-3]


class Machine:
    """What the text of ``arith`` promises: arithmetic in one format, and a rounding to storage after each word."""

    def __init__(self, name: str) -> None:
        self.narrow = name in NARROW
        self.storage, self.a = FORMATS[name], FORMATS["float64" if name == "float64" else "float32"]

    def store(self, x: float) -> float:
        if not math.isfinite(x) or not self.narrow:
            return x
        return self.storage.round(Fraction(x), sign(x))

    def add(self, x: float, c: float) -> float:
        return self.store(self.a.add(x, self.store(c)))

    def axpy(self, x: float, y: float, c: float) -> float:
        if self.narrow:
            return self.store(self.a.add(x, self.store(self.a.mul(y, self.store(c)))))
        return self.a.add(x, self.a.mul(y, c))

    def addcmul(self, x: float, y: float, z: float, c: float) -> float:
        return self.store(self.a.add(x, self.a.mul(self.a.mul(y, c), z)))

    def addcdiv(self, x: float, y: float, z: float, c: float) -> float:
        return self.store(self.a.add(x, self.a.div(self.a.mul(y, c), z)))

    def lerp(self, x: float, y: float, c: float) -> float:
        gap = self.a.sub(y, x)
        if abs(c) < 0.5:
            return self.store(self.a.add(x, self.a.mul(gap, c)))
        return self.store(self.a.sub(y, self.a.mul(gap, self.a.sub(1.0, c))))

    def rsqrt(self, x: float) -> float:
        return self.store(self.a.div(1.0, self.store(self.a.sqrt(x))))

    def reciprocal(self, x: float, c: float) -> float:
        return self.store(self.a.mul(self.store(self.a.div(1.0, x)), c))


def larger(x: float, y: float) -> float:
    return nan if math.isnan(x) or math.isnan(y) else x if x >= y else y


def smaller(x: float, y: float) -> float:
    return nan if math.isnan(x) or math.isnan(y) else x if x <= y else y


Formula = Callable[[Machine, Any, Any], float]

UNARY: dict[str, Callable[[Machine, float], float]] = {
    "neg": lambda m, x: -x,
    "sqrt": lambda m, x: m.store(m.a.sqrt(x)),
    "rsqrt": lambda m, x: m.rsqrt(x),
    "absolute": lambda m, x: abs(x),
    "sign": lambda m, x: float((x > 0) - (x < 0)),
}
BINARY: dict[str, Formula] = {
    "add": lambda m, x, y: m.add(x, y),
    "sub": lambda m, x, y: m.store(m.a.sub(x, y)),
    "mul": lambda m, x, y: m.store(m.a.mul(x, y)),
    "div": lambda m, x, y: m.store(m.a.div(x, y)),
    "maximum": lambda m, x, y: larger(x, y),
    "minimum": lambda m, x, y: smaller(x, y),
}
WITH_SCALAR: dict[str, Formula] = {
    "add": BINARY["add"],
    "mul": BINARY["mul"],
    "div": BINARY["div"],
    "maximum": lambda m, x, c: m.store(larger(x, c)),
    "minimum": lambda m, x, c: m.store(smaller(x, c)),
    "reciprocal": lambda m, x, c: m.reciprocal(x, c),
}
SCALED: dict[str, tuple[int, Callable[..., float]]] = {
    "axpy": (2, Machine.axpy),
    "lerp": (2, Machine.lerp),
    "addcmul": (3, Machine.addcmul),
    "addcdiv": (3, Machine.addcdiv),
}


def check(word: str, name: str, columns: list[tuple[float, ...]], expected: list[float], *scalars: Any) -> None:
    """Fail unless a word gives the expected bits on arrays that cannot be written to; NaNs are one class."""
    arrays = [np.array(x, np.float64).astype(dtype_of(name)) for x in zip(*columns, strict=True)]
    for x in arrays:
        x.flags.writeable = False
    out = getattr(arith, word)(*arrays, *scalars)
    assert (out.dtype, out.shape) == (dtype_of(name), (len(columns),))
    values = out.astype(np.float64)
    wanted = np.array(expected, np.float64)
    wrong = ~((values.view(np.uint64) == wanted.view(np.uint64)) | (np.isnan(values) & np.isnan(wanted)))
    assert not wrong.any(), f"{word}{columns[wrong.argmax()]}, {scalars}: {values[wrong][0]!r} not {wanted[wrong][0]!r}"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("word", UNARY)
def test_words_of_one_array(word: str, name: str) -> None:
    machine = Machine(name)
    columns = [(x,) for x in operands(name)]
    check(word, name, columns, [UNARY[word](machine, x) for (x,) in columns])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("word", BINARY)
def test_words_of_two_arrays(word: str, name: str) -> None:
    machine = Machine(name)
    columns = list(itertools.product(operands(name), repeat=2))
    check(word, name, columns, [BINARY[word](machine, x, y) for x, y in columns])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("word", WITH_SCALAR)
def test_words_of_an_array_and_a_scalar(word: str, name: str) -> None:
    """The scalar is one of the arithmetic type, which 16-bit storage does not hold."""
    machine = Machine(name)
    for c in map(number(name), [*COEFFICIENTS, 1e-8, 70000.0, 1 / 3]):
        columns = [(x,) for x in operands(name)]
        check(word, name, columns, [WITH_SCALAR[word](machine, x, float(c)) for (x,) in columns], c)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("word", SCALED)
def test_words_of_arrays_and_a_scalar(word: str, name: str) -> None:
    arity, formula = SCALED[word]
    machine = Machine(name)
    columns = list(itertools.product(operands(name) if arity == 2 else few(name), repeat=arity))
    for c in map(number(name), COEFFICIENTS):
        check(word, name, columns, [formula(machine, *column, float(c)) for column in columns], c)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("word", SCALED)
def test_an_operand_may_stand_in_several_places(word: str, name: str) -> None:
    """Words reuse what they have made themselves; what they were given they leave alone."""
    arity, formula = SCALED[word]
    machine, c = Machine(name), number(name)(0.3)
    x = np.array(operands(name)).astype(dtype_of(name))
    before = x.tobytes()
    out = getattr(arith, word)(*[x] * arity, c)
    assert x.tobytes() == before
    expected = np.array([formula(machine, *[v] * arity, float(c)) for v in operands(name)])
    assert np.array_equal(out.astype(np.float64), expected, equal_nan=True)


@pytest.mark.parametrize("name", FORMATS)
def test_where_puts_the_rounded_scalar(name: str) -> None:
    machine, c = Machine(name), number(name)(1 / 3)
    values = operands(name)
    x = np.array(values).astype(dtype_of(name))
    out = arith.where(x > 0, c, x)
    assert out.dtype == x.dtype
    expected = np.array([machine.store(float(c)) if v > 0 else v for v in values])
    assert np.array_equal(out.astype(np.float64), expected, equal_nan=True)


def test_every_word_is_here() -> None:
    words = {name for name, x in vars(arith).items() if inspect.isfunction(x) and not name.startswith("_")}
    helpers = {
        "storage",
        "arithmetic",
        "epsilon",
        "as_reals",
        "from_reals",
        "is_narrow",
        "widen",
        "round_to",
        "to_bfloat16",
    }
    assert words - helpers - {"word", "wraps", "cache"} == {*UNARY, *BINARY, *WITH_SCALAR, *SCALED, "where"}
    for word in words - helpers - {"word", "wraps", "cache"}:
        assert f"{word}(" in str(arith.__doc__)


# Rounding to storage


def between(name: str) -> list[float]:
    """Return float32 numbers at, and next to, the middles of neighbours of a 16-bit format, and its ends."""
    f = FORMATS[name]
    picked = []
    for exponent in (f.smallest - f.precision + 1, f.smallest - 1, f.smallest, -3, 0, 5, f.largest):
        ulp = Fraction(2) ** (max(exponent, f.smallest) - f.precision + 1)
        for steps in (0, 1, 2, 3, 2 ** (f.precision - 1) - 1):
            middle = float(Fraction(2) ** exponent + steps * ulp + ulp / 2)
            near = np.float32(middle)
            picked += [float(x) for x in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(inf)))]
    return [y for x in [*picked, 0.0, inf, 3.4e38] for y in (x, -x)] + [nan]


@pytest.mark.parametrize("name", NARROW)
def test_rounding_to_16_bits(name: str) -> None:
    dtype, f = dtype_of(name), FORMATS[name]
    values = np.array(between(name), np.float32)
    expected = np.array([f.round(Fraction(float(x)), sign(x)) if np.isfinite(x) else x for x in values], np.float64)
    out = arith.round_to(values, np.zeros(1, dtype))
    assert out.dtype == dtype
    assert_same(out.astype(np.float64), expected)
    if name == "bfloat16":
        assert_same(arith.to_bfloat16(values).astype(np.float64), expected)


def test_a_nan_of_any_payload_stays_one() -> None:
    """Some would round to infinity or to -0."""
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF808000], np.uint32).view(np.float32)
    assert np.isnan(arith.to_bfloat16(nans)).all()
    for name in NARROW:
        assert np.isnan(arith.round_to(nans, np.zeros(1, dtype_of(name))).astype(np.float32)).all()


def assert_same(values: Any, expected: Any) -> None:
    """Fail unless all bits are the same; NaNs are one class."""
    wrong = (values.view(np.uint64) != expected.view(np.uint64)) & ~(np.isnan(values) & np.isnan(expected))
    assert not wrong.any(), (values[wrong], expected[wrong])


@pytest.mark.parametrize("name", NARROW)
def test_every_16_bit_number_survives_widening(name: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = bits.view(dtype_of(name))
    wide = arith.widen(x)
    assert wide.dtype == np.float32
    f = FORMATS[name]
    for i in range(0, 1 << 16, 97):
        digits = f.precision - 1
        exponent, fraction = (int(bits[i]) & 0x7FFF) >> digits, int(bits[i]) & ((1 << digits) - 1)
        if exponent == 2 * f.largest + 1:
            assert not np.isfinite(wide[i])
            continue
        value = Fraction(fraction + (1 << digits if exponent else 0)) * Fraction(2) ** (
            max(exponent, 1) + f.smallest - 1 - digits
        )
        assert wide[i] == (-value if bits[i] >> 15 else value)
    same = arith.round_to(wide, x).view(np.uint16) == bits
    assert (same | np.isnan(wide)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scalars_are_rounded_once(dtype: str) -> None:
    """From double to the arithmetic type; what is no number stays as it is."""
    scalars = {"third": 1 / 3, "two": 2, "tiny": 1e-46, "huge": 1e39, "flag": True, "name": "x", "pair": (1.5, 2.5)}
    s = record(scalars, np.dtype(dtype))
    f = FORMATS[dtype]
    for key in ("third", "two", "tiny", "huge"):
        assert float(getattr(s, key)) == f.round(Fraction(scalars[key]))  # type: ignore[arg-type]
        assert getattr(s, key).dtype == dtype
    assert (s.flag, s.name, s.pair) == (True, "x", (1.5, 2.5))
    assert s.exact.third == 1 / 3


# Types


@pytest.mark.parametrize("name", FORMATS)
def test_epsilon_is_the_gap_above_one(name: str) -> None:
    f = FORMATS[name]
    eps = Fraction(arith.epsilon(dtype_of(name)))
    assert f.round(1 + eps) == 1 + eps
    assert f.round(1 + eps / 2) == 1


def test_storage_and_arithmetic() -> None:
    pairs = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
    for name, computed in pairs.items():
        assert arith.storage(dtype_of(name)) == dtype_of(name)
        assert arith.arithmetic(dtype_of(name)) == np.dtype(computed)
    assert arith.storage(np.dtype("complex64")) == arith.arithmetic(np.dtype("complex64")) == np.float32
    assert arith.storage(np.dtype("complex128")) == arith.arithmetic(np.dtype("complex128")) == np.float64


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (3, 4)])
def test_complex_numbers_are_pairs_of_reals(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    for z in (np.asarray(x), np.asarray(x).T):
        pairs = arith.as_reals(z)
        assert pairs.shape == (*z.shape, 2)
        assert np.shares_memory(pairs, z) or not z.size
        assert np.array_equal(pairs, np.stack([z.real, z.imag], -1))
        assert np.array_equal(arith.from_reals(pairs, z.dtype), z)
    real = np.ones(3, np.float32)
    assert arith.as_reals(real) is arith.from_reals(real, real.dtype) is real


# The witness


def test_the_witness_is_ieee_arithmetic() -> None:
    """On doubles it agrees with the processor, on hand-picked and on random numbers of all sizes."""
    rng = np.random.default_rng(7)
    drawn = rng.integers(0, 1 << 63, 300, np.uint64).view(np.float64)
    f = FORMATS["float64"]
    pairs = [
        *itertools.product(operands("float64"), repeat=2),
        *zip(drawn[::2].tolist(), (-drawn[1::2]).tolist(), strict=True),
    ]
    for x, y in pairs:
        a, b = np.float64(x), np.float64(y)
        for got, wanted in ((f.add(x, y), a + b), (f.sub(x, y), a - b), (f.mul(x, y), a * b), (f.div(x, y), a / b)):
            assert_same(np.array([got]), np.array([wanted]))
    for x in (*operands("float64"), *drawn.tolist()):
        assert_same(np.array([f.sqrt(x)]), np.array([np.sqrt(np.float64(x))]))


def test_the_witness_rounds_ties_to_even() -> None:
    f = Format(3, -2, 2)
    halves = {
        1.125: 1.0,
        1.375: 1.5,
        1.126: 1.25,
        6.5: 6.0,
        7.49: 7.0,
        7.5: inf,
        0.03125: 0.0,
        0.04: 0.0625,
        0.09375: 0.125,
    }
    for x, y in halves.items():
        assert f.round(Fraction(x)) == y
        assert f.round(-Fraction(x)) == -y
