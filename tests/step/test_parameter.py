"""Parameters: views of arrays, compared by identity, of any layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from helpers.rooms import assert_equal_bits, assert_equal_runs, make, members, normal
from refoptim import SGD, Parameter
from refoptim.clip_grad import get_total_norm


def test_a_parameter_is_a_view_of_its_array() -> None:
    x, g = normal(1, 2, 3), normal(2, 2, 3)
    p = Parameter(x, g, "weight")
    assert p.data is x
    assert p.grad is g
    assert (p.shape, p.dtype, p.name) == ((2, 3), np.dtype("float32"), "weight")
    assert repr(p) == "Parameter(shape=(2, 3), dtype=float32, name='weight')"
    assert repr(Parameter(np.array(1.0))) == "Parameter(shape=(), dtype=float64)"
    with pytest.raises(AttributeError):
        p.gradient = g  # type: ignore[attr-defined]


def test_numpy_takes_a_parameter_for_its_array() -> None:
    """As it takes any array: the same one, unless a copy or another dtype is asked for."""
    x = normal(1, 2, 3)
    p = Parameter(x)
    assert np.asarray(p) is x
    assert np.asarray(p, np.float32, copy=False) is x
    for copied in (np.array(p), np.asarray(p, copy=True), np.asarray(p, np.float64)):
        assert not np.shares_memory(copied, x)
        assert_equal_bits(copied.astype(np.float32), x)
    assert np.asarray(p, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(p, np.float64, copy=False)
    assert_equal_bits(np.add(p, 1) - x @ np.transpose(p) @ p, x + 1 - x @ x.T @ x)
    assert np.asarray(Parameter(np.array(0.5))).shape == ()


def test_a_parameter_is_still_no_gradient_and_no_iterable_of_arrays() -> None:
    x = normal(1, 3)
    for refused in ({"params": Parameter(x)}, Parameter(x)):
        with pytest.raises(TypeError, match="params argument given to the optimizer should be an iterable"):
            SGD(refused)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the gradient must be an array, got Parameter"):
        SGD([x], lr=1.0).step(grads=[Parameter(x.copy())])
    with pytest.raises(TypeError, match="grads must be an iterable of gradients in order"):
        SGD([x], lr=1.0).step(grads=Parameter(x.copy()))  # type: ignore[arg-type]
    assert get_total_norm(Parameter(np.array([3.0, 4.0]))) == 5


def test_parameters_are_compared_and_hashed_by_identity() -> None:
    p = Parameter(normal(1, 3))
    assert len({p, Parameter(p.data), Parameter(p.data.copy())}) == 3


@pytest.mark.parametrize("copied", [deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_a_copied_parameter_has_arrays_of_its_own(copied: Callable[[Any], Any]) -> None:
    p = Parameter(normal(1, 2, 3), normal(2, 2, 3), "weight")
    q = copied(p)
    assert_equal_bits(p.data, q.data)
    assert_equal_bits(p.grad, q.grad)
    assert q.name == "weight"
    assert not np.shares_memory(p.data, q.data)


ARRAYS = {
    "a 0-d array": np.array(0.5),
    "an empty array": np.zeros((0, 3), np.float32),
    "a Fortran-ordered array": np.asfortranarray(normal(1, 4, 3)),
    "every other column": normal(1, 4, 6)[:, ::2],
    "a reversed array": normal(1, 7)[::-1],
    "a diagonal": np.lib.stride_tricks.as_strided(normal(1, 4, 4), (4,), (20,)),
    "an axis of length 1 without a step": np.lib.stride_tricks.as_strided(normal(1, 4), (4, 1), (4, 0)),
    "unaligned numbers": np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float32),
    "half precision": normal(1, 5, dtype="float16"),
    "complex numbers": normal(1, 5, dtype="complex64"),
    "a field of a structure": np.zeros(4, [("x", "f4"), ("y", "f8")])["y"],
}


@pytest.mark.parametrize("x", ARRAYS.values(), ids=ARRAYS)
def test_any_array_is_updated_in_place(x: Any) -> None:
    apart = np.array(x, order="C")
    views, copies = make("Adam", [x]), make("Adam", [apart])
    for k in range(3):
        g = normal(k, *x.shape, dtype=x.dtype.name)
        views.step(grads=[g])
        copies.step(grads=[g])
    assert members(views)[0].data is x
    assert_equal_runs(views, copies)
