"""Sums: the order of their definition, transcribed element by element, and how near they are to the exact sum."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from helpers.exact import FORMATS
from helpers.rooms import assert_equal_bits
from refoptim.numerics import arith, tree

RUN = 1024
"""Elements of a run, by definition."""


def numbers(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Draw numbers of both signs whose sizes are spread so widely that every other order gives other bits."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)


def defined(values: Sequence[Any], zero: Any) -> Any:
    """Sum as the definition says, one addition after another."""
    sums = list(values) or [zero]
    while True:
        runs = [sums[i : i + RUN] for i in range(0, len(sums), RUN)]
        sums = []
        for run in runs:
            run = run + [zero] * (RUN - len(run))
            width = RUN
            while width > 1:
                width //= 2
                run = [run[i] + run[i + width] for i in range(width)]
            sums.append(run[0])
        if len(sums) == 1:
            return sums[0] + zero


SIZES = [0, 1, 2, 3, 5, 7, 8, 9, 100, 1023, 1024, 1025, 1500, 2047, 2048, 2049, 5000, 32768, 32769]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_the_order_is_the_defined_one(n: int, dtype: str) -> None:
    x = numbers(n, (n,), dtype)
    expected = defined(list(x), np.dtype(dtype).type(0))
    assert_equal_bits(tree.total(arith.widen, x), expected)
    assert_equal_bits(tree.sum_along(arith.widen, x, axis=0), np.reshape(expected, 1))


def test_three_levels_of_runs() -> None:
    n = RUN * RUN + 77
    x = numbers(1, (n,))
    assert_equal_bits(tree.total(arith.widen, x), defined(list(x), np.float32(0)))


def test_the_order_shows() -> None:
    """The numbers tell the defined order from those of others."""
    x = numbers(1, (5000,))
    others = [
        np.sum(x),
        x[::-1].sum(),
        np.add.accumulate(x)[-1],
        np.float32(math.fsum(x)),
        tree.total(arith.widen, x[::-1]),
    ]
    assert all(tree.total(arith.widen, x) != other for other in others)


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025])
def test_a_sum_is_never_minus_zero(n: int) -> None:
    x = np.full(n, -0.0, np.float32)
    for out in (tree.total(arith.widen, x), tree.sum_along(arith.widen, x, axis=0)):
        assert not np.signbit(out).any()
        assert not out.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_numbers_are_added_in_float32(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    x = numbers(1, (3000,)).astype(dtype)
    wide = [np.float32(v) for v in x.astype(np.float32)]
    assert_equal_bits(tree.total(arith.widen, x), defined(wide, np.float32(0)))
    assert_equal_bits(tree.sum_along(arith.widen, x, axis=0)[0], defined(wide, np.float32(0)))
    assert_equal_bits(tree.total(tree.square, x), defined([v * v for v in wide], np.float32(0)))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "in C order": np.ascontiguousarray,
    "in Fortran order": np.asfortranarray,
    "every other one": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}
SHAPES = [(3,), (1, 1), (5, 7), (2100, 3), (3, 2100), (40, 1, 1030), (2, 1025, 20), (0, 3), (3, 0), (2, 0, 4)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_along_an_axis_of_any_array(shape: tuple[int, ...], layout: Callable[[Any], Any]) -> None:
    """Of many lines some are checked, the first and the last among them."""
    x = layout(numbers(3, shape))
    for axis in range(-len(shape), len(shape)):
        out = tree.sum_along(arith.widen, x, axis=axis)
        assert (out.shape, out.dtype) == ((*shape[: axis % len(shape)], 1, *shape[axis % len(shape) + 1 :]), np.float32)
        sums = np.moveaxis(out, axis, -1).reshape(-1)
        lines = np.moveaxis(x, axis, -1).reshape(len(sums), shape[axis])
        for i in {int(i) for i in np.linspace(0, len(sums) - 1, 12)} if len(sums) else ():
            assert_equal_bits(sums[i], defined(list(lines[i]), np.float32(0)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_elements_of_any_array_in_c_order(shape: tuple[int, ...], layout: Callable[[Any], Any]) -> None:
    x = numbers(3, shape)
    assert_equal_bits(tree.total(arith.widen, layout(x)), defined(list(x.reshape(-1)), np.float32(0)))


def test_a_0d_array_is_its_own_sum() -> None:
    assert_equal_bits(tree.total(arith.widen, np.array(2.5)), np.float64(2.5))


def test_what_is_added_may_be_computed_of_several_arrays() -> None:
    """They broadcast; nothing of their common shape has to exist."""
    x, row, column = numbers(1, (30, 1200)), numbers(2, (30, 1)), numbers(3, (1, 1200))

    def f(x: Any, row: Any, column: Any) -> Any:
        return x * row - column

    full = f(x, row, column)
    assert_equal_bits(tree.total(f, x, row, column), defined(list(full.reshape(-1)), np.float32(0)))
    along = tree.sum_along(f, x, row, column, axis=1)
    assert_equal_bits(along[:, 0], np.array([defined(list(line), np.float32(0)) for line in full]))


CHUNKS = [1, 7, 1000, 1024, 5000, 1 << 22]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_no_result_depends_on_the_blocks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = numbers(1, (37, 2300)), numbers(2, (37, 2300))
    a, b = numbers(3, (13, 9)), numbers(4, (9, 17))

    def all_sums() -> list[Any]:
        along = [tree.sum_along(arith.mul, x, y, axis=axis) for axis in (0, 1)]
        return [tree.dot(x, y), tree.norm(x), *along, tree.matmul(a, b)]

    expected = all_sums()
    monkeypatch.setattr(tree, "CHUNK", chunk)
    for out, wanted in zip(all_sums(), expected, strict=True):
        assert_equal_bits(out, wanted)


@pytest.mark.parametrize("chunk", [1, 10, 1024, 1 << 15])
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (7, 5, 3), (2500, 2)])
def test_blocks_cover_every_element_once(shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "CHUNK", chunk)
    for axis in (None, *range(len(shape))):
        counts = np.zeros(shape, int)
        for block in tree.blocks(shape, axis):
            counts[block] += 1
            if axis is not None and shape[axis] > RUN:
                assert block[axis].start % RUN == 0
            assert axis is not None or np.size(counts[block]) <= max(chunk, 1)
        assert (counts == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 1000, 1025, 40_000])
def test_the_error_is_that_of_a_tree(n: int, dtype: str) -> None:
    """Each element passes through at most 10 additions per level, each off by half an ulp at most."""
    x, y = numbers(1, (n,), dtype), numbers(2, (n,), dtype)
    levels = 1 if n <= RUN else 2
    half_ulp = Fraction(2) ** -FORMATS[dtype].precision
    bound = (1 + half_ulp) ** (10 * levels) - 1
    terms = [Fraction(float(v)) for v in x]
    error = abs(Fraction(float(tree.total(arith.widen, x))) - sum(terms))
    assert error <= bound * sum(map(abs, terms))
    assert abs(float(tree.total(arith.widen, x)) - math.fsum(x)) <= float(bound) * math.fsum(map(abs, x))

    products = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)]
    bound = (1 + half_ulp) ** (10 * levels + 1) - 1
    assert abs(Fraction(float(tree.dot(x, y))) - sum(products)) <= bound * sum(map(abs, products))

    squares = sum(t * t for t in terms)
    norm = Fraction(float(tree.norm(x)))
    bound = (1 + half_ulp) ** (10 * levels + 3)
    assert squares / bound**2 <= norm * norm <= squares * bound**2


def test_dot_and_norm_are_words_and_sums() -> None:
    x, y = numbers(1, (3, 700)), numbers(2, (3, 700))
    products = [a * b for a, b in zip(x.reshape(-1), y.reshape(-1), strict=True)]
    assert_equal_bits(tree.dot(x, y), defined(products, np.float32(0)))
    assert_equal_bits(tree.norm(x), np.sqrt(defined([a * a for a in x.reshape(-1)], np.float32(0))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [n for n in SIZES if n <= tree.CHUNK])
def test_many_dot_products_of_one_length(n: int, dtype: str) -> None:
    """Each is the defined one, whatever the memory held before."""
    dot = tree.Dots(n, np.dtype(dtype))
    for seed in (1, 2):
        x, y = numbers(seed, (n,), dtype), numbers(seed + 2, (n,), dtype)
        expected = defined(list(x * y), x.dtype.type(0))
        assert_equal_bits(dot(np.full(n, np.nan, dtype), y), np.full(1, np.nan if n else 0, dtype)[0])
        assert_equal_bits(dot(x, y), expected)
        assert type(dot(x, y)) is x.dtype.type
        assert not np.signbit(dot(x * 0, -y * 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 7, 3), (3, 1, 5), (2, 40, 2), (0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_matrix_products_add_in_order(shape: tuple[int, int, int], dtype: str) -> None:
    """From +0, over the inner index; the error is that of as many additions."""
    rows, inner, columns = shape
    a, b = numbers(1, (rows, inner), dtype), numbers(2, (inner, columns), dtype)
    out = tree.matmul(a, b)
    assert (out.shape, out.dtype) == ((rows, columns), np.dtype(dtype))
    half_ulp = Fraction(2) ** -FORMATS[dtype].precision
    for i, j in itertools.product(range(rows), range(columns)):
        total, exact, size = np.dtype(dtype).type(0), Fraction(0), Fraction(0)
        for k in range(inner):
            total = total + a[i, k] * b[k, j]
            product = Fraction(float(a[i, k])) * Fraction(float(b[k, j]))
            exact, size = exact + product, size + abs(product)
        assert_equal_bits(out[i, j], total)
        assert abs(Fraction(float(out[i, j])) - exact) <= ((1 + half_ulp) ** (inner + 1) - 1) * size


def test_matrix_products_of_any_layout() -> None:
    a, b = numbers(1, (11, 6)), numbers(2, (6, 9))
    expected = tree.matmul(a, b)
    for left, right in itertools.product((a, np.asfortranarray(a), a[::-1][::-1]), (b, b.T.copy().T)):
        assert_equal_bits(tree.matmul(left, right), expected)


def test_infinities_and_nans_spread() -> None:
    for n in (3, 3000):
        x = np.ones(n, np.float32)
        x[1] = np.inf
        assert tree.total(arith.widen, x) == np.inf
        with np.errstate(invalid="ignore"):
            x[2] = -np.inf
            assert np.isnan(tree.total(arith.widen, x))
        x[1:3] = 1, np.nan
        assert np.isnan(tree.total(arith.widen, x))


@pytest.mark.parametrize("what", ["total", "axis 0", "axis 1"])
def test_sums_make_nothing_as_large_as_what_they_add(what: str) -> None:
    x = np.ones((2000, 2000), np.float32)
    tracemalloc.start()
    try:
        if what == "total":
            assert tree.total(tree.square, x) == 4e6
        else:
            assert (tree.sum_along(tree.square, x, axis=int(what[-1])) == 2000).all()
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
