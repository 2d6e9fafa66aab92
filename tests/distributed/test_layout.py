"""Who holds what, and the order of the sum: pure functions, without ranks."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import refoptim
from helpers.ranks import outcomes
from refoptim.distributed import Sharded, layout, order
from refoptim.distributed.buffers import Buffers
from refoptim.distributed.layout import Segment
from refoptim.distributed.plan import Link, plan, rows
from refoptim.numerics.tree import WIDTH

SLOWLY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

sizes = st.lists(st.integers(0, 5000), min_size=1, max_size=8)


def covered(ranges: Any, member: int) -> list[tuple[int, int]]:
    return [x[member] for x in ranges if x[member][0] < x[member][1]]


@SLOWLY
@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from("ab")), min_size=1, max_size=8), st.integers(1, 9))
def test_elements_are_held_once_and_cut_between_runs(lines: list[tuple[int, str]], ranks: int) -> None:
    sizes, kinds = [n for n, _ in lines], [kind for _, kind in lines]
    ranges = layout.elements(sizes, kinds, ranks)
    for i, size in enumerate(sizes):
        parts = covered(ranges, i)
        assert [n for part in parts for n in range(*part)] == list(range(size))
        assert all(begin % WIDTH == 0 for begin, _ in parts)
    for kind in set(kinds):
        own = [i for i, each in enumerate(kinds) if each == kind]
        loads = [sum(x[i][1] - x[i][0] for i in own) for x in ranges]
        assert max(loads) - sum(loads) / ranks <= WIDTH


@SLOWLY
@given(sizes, st.integers(1, 9))
def test_the_flat_vector_is_cut_between_its_runs(sizes: list[int], ranks: int) -> None:
    ranges = layout.flat(sizes, ranks)
    starts = np.cumsum([0, *sizes])
    places = [[starts[i] + n for i, part in enumerate(x) for n in range(*part)] for x in ranges]
    assert [n for part in places for n in part] == list(range(sum(sizes)))
    assert all(part[0] % WIDTH == 0 for part in places if part)


def test_owners_by_hand() -> None:
    """The largest to the rank with the least, ties to the first: 70 | 40 30, then 9 to the 70 and 5 to what has 70."""
    ranges = layout.owners([30, 70, 5, 40, 9], [30, 70, 5, 40, 9], [0, 0])
    assert [[i for i, part in enumerate(x) if part[1]] for x in ranges] == [[1, 4], [0, 2, 3]]
    ranges = layout.owners([4, 4], [4, 4], [1, 0])
    assert [[i for i, part in enumerate(x) if part[1]] for x in ranges] == [[1], [0]]


@SLOWLY
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 400))
def test_chunks_are_what_they_were_cut_from(lengths: list[int], limit: int) -> None:
    segments = [Segment(i, 0, n) for i, n in enumerate(lengths)]
    widths = [2 + 2 * (i % 4) for i in range(len(lengths))]
    found = layout.chunks(segments, widths, limit)
    assert [(i, n) for part in found for i, begin, end in part for n in range(begin, end)] == [
        (i, n) for i, length in enumerate(lengths) for n in range(length)
    ]
    for part in found:
        assert len(part) == 1 or sum((end - begin) * widths[i] for i, begin, end in part) <= limit


@SLOWLY
@given(st.integers(0, 40), st.integers(0, 40))
def test_blocks_are_aligned_and_make_all_pieces(begin: int, count: int) -> None:
    found = order.blocks(begin, begin + count)
    pieces = [n for level, index in found for n in range(index << level, (index + 1) << level)]
    assert pieces == list(range(begin, begin + count))
    assert not any(a[0] == b[0] and a[1] ^ 1 == b[1] for a, b in pairwise(found)), "two could be one"


def tree(values: list[Any]) -> Any:
    """Return the sum in adjacent pairs as nested pairs of numbers; one without neighbour goes up."""
    while len(values) > 1:
        values = [tuple(values[i : i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]


@SLOWLY
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_the_order_does_not_know_who_has_the_pieces(counts: list[int]) -> None:
    """Whole blocks of each rank are summed first, and then put together in any order."""
    starts, sums = np.cumsum([0, *counts]).tolist(), {}
    for start, count in zip(starts, counts, strict=False):
        own: Any = order.merged({}, [((0, n), n) for n in range(start, start + count)])
        assert list(own) == order.blocks(start, start + count)
        sums = order.merged(sums, reversed(list(own.items())))
    assert order.whole(sums) == tree(list(range(sum(counts))))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_sums_are_those_of_fractions_rounded_step_by_step(count: int, dtype: str) -> None:
    rng = np.random.default_rng(count)
    rows = [rng.standard_normal(40000).astype(dtype) for _ in range(count)]
    out = np.empty(40000, dtype)
    order.evaluate(tree(list(range(count))), rows, out, count)
    wide = np.dtype("float64" if dtype == "float64" else "float32")
    for i in (0, 1, 16383, 16384, 39999):
        value = exact(tree([row[i] for row in rows]), wide)
        assert out[i] == wide.type(float(Fraction(float(value)) / count)).astype(dtype), i


def exact(term: Any, wide: Any) -> Any:
    """Add exactly, and round once after each sum; float32 sums fit into a double with room to spare."""
    if not isinstance(term, tuple):
        return wide.type(term)
    left, right = (exact(x, wide) for x in term)
    return wide.type(float(Fraction(float(left)) + Fraction(float(right))))


def test_memory_is_used_again() -> None:
    buffers, beside = Buffers(), np.zeros(1)
    x = buffers.take(1000, np.float32, beside)
    address = x.ctypes.data
    buffers.give(np.zeros(1000, np.float32))  # which is nobody's
    assert buffers.take(1000, np.float32, beside).ctypes.data != address
    buffers.give(x)
    again = buffers.take(2000, np.float64, beside)
    assert (again.dtype, again.size, again.ctypes.data) == (np.float64, 2000, address)


def test_what_ranks_hold_is_told() -> None:
    def run(comm: Any) -> str:
        opt = Sharded(refoptim.Adam, [np.zeros(8192, np.float32)], comm, lr=0.1)
        opt.step(grads=[np.ones(8192, np.float32)])
        return str(opt.layout())

    expected = "\n".join(f"rank {r}: 16,384 bytes of parameters, 32,768 bytes of state" for r in range(2))
    assert outcomes(2, run)[0] == f"{expected}\nthe fullest holds 1.00 of an equal share"


def test_the_model_of_messages() -> None:
    """Times made by a link give that link; the plan of two ranks is worked out by hand."""
    link = Link(2e-6, 1e9)
    sizes = [1e3, 1e5, 1e7]
    fitted = Link.fitted(sizes, [link.latency + n / link.bandwidth for n in sizes])
    assert np.allclose(fitted, link, rtol=1e-9)
    with pytest.raises(ValueError, match="must take longer"):
        Link.fitted([1, 2], [2, 1])
    found = plan(1e6, 2, link, bucket=1_000_000)
    assert found.exchange == pytest.approx(4 * 2e-6 + 2e6 / 1e9)
    assert found.seconds == pytest.approx(2 * found.exchange + 3 * 2e-6)
    assert found.volume == 4e6
    assert found.memory == 8e6 + 12e6 / 2 + 4e6
    assert len(rows(link)) == 12
