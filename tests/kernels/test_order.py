"""The kernels that sum pieces of a gradient: the bits of the definition, for every tree, storage and alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refoptim.kernels import order as kernels

from helpers.kernels import NEEDS_KERNELS, assert_same_bits, dtype_of, misaligned, numbers, shifted, strange
from refoptim.distributed import order
from refoptim.engines import host
from refoptim.engines.host import Host
from refoptim.engines.twins import kernels_on
from refoptim.numerics.arith import arithmetic
from refoptim.numerics.tree import operands

pytestmark = NEEDS_KERNELS


@pytest.fixture(params=["cached", "past the caches"], autouse=True)
def writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels write to the caches, or past them even where there is little to write."""
    if request.param != "cached":
        monkeypatch.setattr(kernels, "CACHED", 0)


STORAGES = ["float64", "float32", "float16", "bfloat16"]

SIZES = [0, 1, 7, 63, 64, 300, 17_003]


def machines() -> list[Host]:
    """Return the host once for each instruction set that this processor has."""
    machine = host.machine()
    return [Host(machine.kernels, variant) for variant in host.variants(machine.kernels)]


def pairs(count: int) -> Any:
    """Return the sum of so many operands in adjacent pairs."""
    return order.whole(order.merged({}, [((0, i), i) for i in range(count)]))


def assert_twins(expression: Any, columns: list[list[Any]], dtypes: list[Any], count: int = 1) -> None:
    """Fail unless kernels write what the definition does, and nothing beside it."""
    expected = [np.empty(len(column[0]), dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    order.fold(expression, columns, expected, count)
    for machine in machines():
        memory = [np.full(x.size + 2, 7, x.dtype) for x in expected]
        with kernels_on(machine):
            order.fold(expression, columns, [x[1:-1] for x in memory], count)
        for found, wanted in zip(memory, expected, strict=True):
            assert_same_bits(found[1:-1], wanted, (machine.variant, count))
            assert (found[0], found[-1]) == (7, 7)


def drawn(dtype: str, sizes: list[int], count: int, odd: bool = True) -> list[list[Any]]:
    rng = np.random.default_rng(count)
    rows = [[numbers(rng, (n,), dtype) for _ in range(count)] for n in sizes]
    return [[strange(rng, x, dtype) for x in row] for row in rows] if odd else rows


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 21])
def test_adjacent_pairs(count: int, dtype: str) -> None:
    """The sum, its mean, and a sum in the arithmetic type; NaN, infinities, zeros of both signs, subnormal numbers."""
    columns = drawn(dtype, SIZES, count)
    kinds = [dtype_of(dtype)] * len(columns)
    assert_twins(pairs(count), columns, kinds)
    assert_twins(pairs(count), columns, kinds, count)
    assert_twins(pairs(count), columns, [arithmetic(x) for x in kinds], 3)


@pytest.mark.parametrize("count", range(1, kernels.PIECES + 1))
def test_a_few_pieces_are_summed_in_one_step(count: int) -> None:
    """Several steps take twice the time."""
    assert kernels.program(pairs(count), dict.fromkeys(range(count), False)) == [(count, 0, False)]


@pytest.mark.parametrize("count", [511, 512, 700])
def test_many_pieces(count: int) -> None:
    """More sums wait than a kernel holds."""
    columns = drawn("bfloat16", [65, 3], count, odd=False)
    assert_twins(pairs(count), columns, [dtype_of("bfloat16")] * 2, count)


def test_any_tree_and_any_order() -> None:
    """Sums that are kept come first among the operands, though not in the sum; a tree may lean to either side."""
    columns, wide = drawn("float32", [300, 20], 12), [np.dtype("float32")] * 2
    left: Any = 0
    right: Any = 0
    for i in range(1, 12):
        left, right = (left, i), (i, right)
    for expression in (left, right, ((4, 2), 0), (1, (3, (0, 2))), 3):
        assert_twins(expression, columns, wide)


@pytest.mark.parametrize("dtype", STORAGES)
def test_unaligned(dtype: str) -> None:
    """Vectors that begin anywhere, one of them at no number."""
    columns = drawn(dtype, [5, 33, 300, 17_003], 3)
    columns = [[shifted(x, i + j) for j, x in enumerate(row)] for i, row in enumerate(columns)]
    columns.append([columns[1][0], misaligned(columns[1][1]), columns[1][2]])
    assert_twins(pairs(3), columns, [dtype_of(dtype)] * len(columns), 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_that_were_kept(dtype: str) -> None:
    """A sum of earlier pieces is in float32, the others have 16 bits."""
    narrow, wide = drawn(dtype, [300, 65], 2), drawn("float32", [300, 65], 1)
    columns = [[*row, *kept] for row, kept in zip(narrow, wide, strict=True)]
    assert_twins((2, (0, 1)), columns, [dtype_of(dtype)] * 2, 4)
    assert_twins((2, (0, 1)), columns, [np.dtype("float32"), dtype_of(dtype)])


def test_vectors_of_several_dtypes() -> None:
    columns = [*drawn("float32", [300, 5], 3), *drawn("float64", [40], 3), *drawn("float16", [7, 0], 3)]
    assert_twins(pairs(3), columns, [row[0].dtype for row in columns], 3)


def test_a_vector_of_the_sum_that_begins_at_no_number() -> None:
    (column,) = drawn("float32", [50], 2)
    expected, out = np.empty(50, np.float32), misaligned(np.zeros(50, np.float32))
    order.fold((0, 1), [column], [expected])
    with kernels_on(host.machine()):
        order.fold((0, 1), [column], [out])
    assert_same_bits(out, expected)


def test_nothing_to_sum() -> None:
    with kernels_on(host.machine()):
        order.fold((0, 1), [], [])


@pytest.mark.parametrize("seed", range(20))
def test_sums_by_exact_arithmetic(seed: int) -> None:
    """Three float32 numbers by hand: each sum rounded once, and so is the quotient."""
    a, b, c = (x := np.random.default_rng(seed).standard_normal(3) * 10.0 ** np.arange(3)).astype(np.float32)
    out = np.empty(1, np.float32)
    with kernels_on(host.machine()):
        order.fold(((0, 1), 2), [[x.astype(np.float32)[i : i + 1] for i in range(3)]], [out], 3)
    first = np.float32(float(a) + float(b))
    assert out[0] == np.float32(float(np.float32(float(first) + float(c))) / 3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("first", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_a_sum_in_the_place_of_one_of_its_first_two_operands(count: int, first: int, dtype: str) -> None:
    """In either order of operands, by the definition and by kernels."""
    for expression in (pairs(count), _leaning(count)):
        expected = np.empty(17_003, dtype)
        (column,) = drawn(dtype, [17_003], count)
        order.fold(expression, [column], [expected], count)
        place = operands(expression)[:2][first % min(count, 2)]
        for machine in (None, *machines()):
            here = [x.copy() for x in column]
            with kernels_on(machine):
                order.fold(expression, [here], [here[place]], count)
            assert_same_bits(here[place], expected, (machine and machine.variant, expression))


def _leaning(count: int) -> Any:
    """Return a sum of so many operands whose second is added to all that follow it."""
    right: Any = count - 1
    for i in range(count - 2, -1, -1):
        right = (i, right)
    return right
