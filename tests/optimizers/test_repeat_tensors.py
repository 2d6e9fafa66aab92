"""Steps of torch's tensors that repeat the last one without a plan: when they do, when they must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.rooms import assert_equal_bits, make, normal
from refoptim.numerics.libraries import viewed

pytestmark = NEEDS_KERNELS

ELEMENTWISE = ["SGD", "Adam", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD"]
SHAPES = [(5, 3), (40,), ()]


def arrays(seed: int) -> list[Any]:
    return [normal(10 * seed + i, *shape) for i, shape in enumerate(SHAPES)]


class Pair:
    """Two equal runs: fused on tensors, and not fused on arrays."""

    def __init__(self, torch: Any, name: str) -> None:
        self.torch = torch
        self.tensors = [torch.from_numpy(np.array(x)).requires_grad_() for x in arrays(0)]
        self.copies = [np.array(x) for x in arrays(0)]
        self.ours, self.theirs = make(name, self.tensors, fused=True), make(name, self.copies)
        for seed in (1, 2):
            self.step([np.array(x) for x in arrays(seed)])

    def step(self, grads: list[Any], given: list[Any] | None = None) -> None:
        """Step both; the gradients of the tensors are new ones, or those that are given."""
        for i, (p, x) in enumerate(zip(self.tensors, grads, strict=True)):
            p.grad = (None if x is None else self.torch.from_numpy(np.array(x))) if given is None else given[i]
        self.ours.step()
        self.theirs.step(grads=grads)

    def check(self) -> None:
        for p, x in zip(self.tensors, self.copies, strict=True):
            assert_equal_bits(viewed(p), x)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_new_gradients_need_no_plan(torch: Any, name: str, plans: list[Any]) -> None:
    pair = Pair(torch, name)
    plans.clear()
    for seed in (3, 4, 5):
        pair.step(arrays(seed))
    assert not plans
    pair.check()


def test_gradients_that_are_given_need_no_plan(torch: Any, plans: list[Any]) -> None:
    pair = Pair(torch, "Adam")
    plans.clear()
    pair.ours.step(grads=[torch.from_numpy(np.array(x)) for x in arrays(3)])
    assert not plans
    pair.theirs.step(grads=arrays(3))
    pair.check()


def strided(torch: Any, x: Any) -> Any:
    return torch.from_numpy(np.repeat(x, 2, axis=-1))[..., ::2]


def negative(torch: Any, x: Any) -> Any:
    """Return a tensor with the negative bit: its memory, which is in order, holds other numbers."""
    return torch._neg_view(torch.from_numpy(-x))


@pytest.mark.parametrize("kind", [strided, negative])
def test_gradients_in_another_form_are_planned(torch: Any, kind: Callable[..., Any], plans: list[Any]) -> None:
    pair, grads = Pair(torch, "Adam"), arrays(3)
    plans.clear()
    given = [kind(torch, grads[0]), *(torch.from_numpy(np.array(x)) for x in grads[1:])]
    if kind is negative:
        with pytest.raises(TypeError, match="negative bit"):
            pair.step(grads, given)
    else:
        pair.step(grads, given)
        pair.check()
    assert plans


def test_a_gradient_in_the_memory_of_a_parameter_is_copied_first(torch: Any) -> None:
    """What the first parameter becomes must not be the gradient of the second."""
    memory = torch.arange(8, dtype=torch.float32) + 1
    params = [memory[:4].requires_grad_(), torch.ones(4, requires_grad=True)]
    optimizer = refoptim.SGD(params, lr=1.0, fused=True)
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros(4)
        optimizer.step()
    params[0].grad, params[1].grad = torch.ones(4), params[0].detach()
    optimizer.step()
    assert params[0].tolist() == [0, 1, 2, 3]
    assert params[1].tolist() == [0, -1, -2, -3]


def test_what_has_no_gradient_is_left_out(torch: Any) -> None:
    pair = Pair(torch, "Adam")
    for missing in ([1], [1], [0], [], [0, 1, 2]):
        pair.step([None if i in missing else x for i, x in enumerate(arrays(3))])
    pair.check()


def test_another_one_of_the_same_shape_has_no_gradient(torch: Any) -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(3)]
    optimizer = refoptim.SGD(params, lr=1.0, fused=True)
    for missing in (0, 1, 2):
        for i, p in enumerate(params):
            p.grad = None if i == missing else torch.ones(3)
        optimizer.step()
    assert [p.tolist() for p in params] == [[-1.0] * 3] * 3


def test_other_memory_is_followed(torch: Any, plans: list[Any]) -> None:
    pair = Pair(torch, "Adam")
    pair.tensors[1].data = pair.tensors[1].data.clone()
    before = pair.tensors[1].data
    plans.clear()
    pair.step(arrays(3))
    assert len(plans) == 1, "the reference has arrays, which stay"
    pair.check()
    assert before.data_ptr() == pair.tensors[1].data_ptr()


def test_another_order_in_the_same_memory_is_followed(torch: Any) -> None:
    w, grad = torch.zeros(2, 2, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    optimizer = refoptim.SGD([w], lr=1.0, fused=True)
    for _ in range(3):
        w.grad = grad.clone()
        optimizer.step()
    w.data = w.data.t()
    w.grad = grad.clone()
    optimizer.step()
    assert torch.equal(w, -3 * grad.t() - grad)


@pytest.mark.parametrize("wrong", ["shape", "dtype", "device", "kind", "freed"])
def test_wrong_gradients_are_refused_and_change_nothing(torch: Any, wrong: str) -> None:
    pair = Pair(torch, "Adam")
    for p in pair.tensors:
        p.grad = torch.ones_like(p)
    bad = {
        "shape": torch.ones(5, 4),
        "dtype": torch.ones(5, 3).double(),
        "device": torch.ones(5, 3, device="meta"),
        "kind": np.ones((5, 4), np.float32),
        "freed": torch.ones(5, 3),
    }[wrong]
    if wrong == "freed":
        bad.untyped_storage().resize_(0)
    with pytest.raises((TypeError, ValueError, RuntimeError), match="parameter 0 of group 0"):
        pair.ours.step(grads=[bad, *(p.grad for p in pair.tensors[1:])])
    pair.check()
    pair.step(arrays(4))
    pair.check()


def test_a_gradient_set_on_the_parameter_goes_first(torch: Any) -> None:
    pair, grads = Pair(torch, "Adam"), arrays(3)
    p = pair.ours.param_groups[0]["params"][0]
    p.grad = grads[0]
    zeros = torch.zeros(5, 3)
    pair.step(grads, [zeros, *(torch.from_numpy(np.array(x)) for x in grads[1:])])
    pair.check()
