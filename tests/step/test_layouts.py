"""Arrays that are given another layout, or other memory, between steps: both engines refuse what a plan refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.pictures import picture
from helpers.rooms import make, members, normal
from refoptim import Parameter

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning"),
    NEEDS_KERNELS,
]


def moment(optimizer: Any, i: int = 0) -> Any:
    return optimizer.state[members(optimizer)[i]]["exp_avg"]


def reshaped(x: Any) -> None:
    x.shape = x.shape[::-1]


def retyped(x: Any) -> None:
    x.dtype = np.int32


def restrided(x: Any) -> None:
    x.strides = (4, x.shape[0] * 4)


def flattened(x: Any) -> None:
    x.strides = (0, 0)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "shape of the parameter": lambda o, g: reshaped(members(o)[0].data),
    "dtype of the parameter": lambda o, g: retyped(members(o)[0].data),
    "zero strides of the parameter": lambda o, g: flattened(members(o)[0].data),
    "shape of the state": lambda o, g: reshaped(moment(o)),
    "dtype of the state": lambda o, g: retyped(moment(o)),
    "zero strides of the state": lambda o, g: flattened(moment(o)),
    "shape of the gradient": lambda o, g: reshaped(g[0]),
    "dtype of the gradient": lambda o, g: retyped(g[0]),
    "state that is the other's": lambda o, g: o.state[members(o)[0]].update(exp_avg=moment(o, 1)),
    "state that is another state": lambda o, g: o.state[members(o)[0]].update(
        exp_avg_sq=moment(o), max_exp_avg_sq=moment(o)
    ),
    "state that is the parameter": lambda o, g: o.state[members(o)[0]].update(exp_avg=members(o)[0].data),
    "state that is part of the other parameter": lambda o, g: o.state[members(o)[0]].update(
        exp_avg=members(o)[1].data[:, :].view()
    ),
    "data that is the other's": lambda o, g: setattr(members(o)[0], "data", members(o)[1].data),
    "data with zero strides": lambda o, g: setattr(
        members(o)[0], "data", np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (4, 3), (0, 0))
    ),
}


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_cannot_be_is_refused(change: str, fused: Any) -> None:
    arrays, grads = ([normal(10 * k + i, 4, 3) for i in range(2)] for k in range(2))
    optimizer = make("Adam", arrays, fused=fused)
    for _ in range(3):
        optimizer.step(grads=grads)
    CHANGES[change](optimizer, grads)
    before = picture([optimizer, arrays, grads])
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(grads=grads)
    assert picture([optimizer, arrays, grads]) == before


@pytest.mark.parametrize("fused", [None, True])
def test_another_order_of_elements_counts(fused: Any) -> None:
    """Strides set in place say where each element is, to both engines."""
    arrays, grads = [normal(1, 3, 3)], [normal(2, 3, 3)]
    optimizer, other = make("Adam", arrays, fused=fused), make("Adam", [arrays[0].copy()])
    for _ in range(2):
        optimizer.step(grads=grads)
        other.step(grads=grads)
    restrided(grads[0])
    optimizer.step(grads=grads)
    other.step(grads=[np.ascontiguousarray(grads[0])])
    assert np.array_equal(arrays[0], members(other)[0].data)


@pytest.mark.parametrize("fused", [None, True])
def test_parts_of_one_array_do_not_share_memory(fused: Any) -> None:
    """Parameters and state may be views of one buffer as long as they share no element."""
    buffer, p = np.zeros((4, 6), np.float32), normal(1, 6)
    buffer[0] = p
    optimizer = refoptim.Adam([Parameter(buffer[0])], fused=fused)
    other = refoptim.Adam([p.copy()])
    for one in (optimizer, other):
        one.step(grads=[normal(2, 6)])
    state = optimizer.state[members(optimizer)[0]]
    for i, name in enumerate(("exp_avg", "exp_avg_sq")):
        buffer[i + 1] = state[name]
        state[name] = buffer[i + 1]
    for one in (optimizer, other):
        one.step(grads=[normal(3, 6)])
    assert np.array_equal(buffer[0], members(other)[0].data)
