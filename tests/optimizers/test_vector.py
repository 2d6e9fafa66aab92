"""Whole vectors: the short ways are taken where they lead to the same, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.rooms import assert_equal_bits, normal
from refoptim.numerics import tree
from refoptim.optimizers import vector
from refoptim.optimizers.lbfgs import lbfgs_direction


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with each sum that is not made the short way."""
    made: list[int] = []
    total = tree.total

    def counted(f: Any, *arrays: Any) -> Any:
        made.append(arrays[0].size)
        return total(f, *arrays)

    monkeypatch.setattr(tree, "total", counted)
    return made


class Own(np.ndarray):
    """A subclass."""


def direction(n: int, pairs: int, change: Callable[[Any], Any] = lambda x: x) -> Any:
    """Return a direction of L-BFGS; one of its vectors is changed."""
    g, *vectors = (normal(seed, n, dtype="float32") for seed in range(2 * pairs + 1))
    vectors[1] = change(vectors[1])
    return lbfgs_direction(g, vectors[:pairs], vectors[pairs:], [np.float32(0.1)] * pairs, np.float32(0.7))


def test_short_vectors_take_the_short_way(totals: list[int]) -> None:
    direction(60, 20)
    direction(tree.CHUNK, 2)
    assert not totals


ODD: dict[str, Callable[[Any], Any]] = {
    "another dtype": lambda x: x.astype(np.float64),
    "a subclass": lambda x: x.view(Own),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_vectors_that_are_not_alike_take_the_long_way(change: Callable[[Any], Any], totals: list[int]) -> None:
    direction(60, 3, change)
    assert len(totals) == 6


def test_long_vectors_take_the_long_way(totals: list[int]) -> None:
    direction(tree.CHUNK + 1, 2)
    assert len(totals) == 4


def test_what_else_takes_the_long_way() -> None:
    """Numbers that sums widen, and arrays with more axes; numbers that sums refuse are refused."""
    assert vector.dots([np.ones(3, np.float16)]) is vector.dot
    assert vector.dots([np.ones((3, 2))]) is vector.dot
    with pytest.raises(TypeError, match="dtype int64 is not supported"):
        vector.dots([np.ones(3, np.int64)])


def test_vectors_with_gaps_take_the_short_way(totals: list[int]) -> None:
    expected = direction(60, 3)
    assert_equal_bits(direction(60, 3, lambda x: np.repeat(x, 2)[::2]), expected)
    assert not totals


@pytest.mark.parametrize("there", [False, True], ids=["from here", "from an origin"])
@pytest.mark.parametrize("n", [40, tree.CHUNK + 9])
@pytest.mark.parametrize("arrays", [1, 3])
def test_moves_of_one_and_of_several_arrays(arrays: int, n: int, there: bool) -> None:
    """Small arrays are moved as one vector, large ones one by one."""
    x, d, origin = (normal(seed, n, dtype="float32") for seed in range(3))
    expected = (origin if there else x) + d * np.float32(0.3)
    parts = [x[:4].copy(), np.asfortranarray(x[4:10].reshape(2, 3)), x[10:].copy()] if arrays > 1 else [x.copy()]
    vector.move(parts, d, np.float32(0.3), origin if there else None)
    assert_equal_bits(np.concatenate([part.reshape(-1) for part in parts]), expected)
