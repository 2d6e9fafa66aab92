"""What tests of refusals share: optimizers in use, words of messages, and that nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.pictures import picture
from refoptim import SparseGrad

nan, inf = float("nan"), float("inf")
V, T, R = ValueError, TypeError, RuntimeError

Row = tuple[str, Any, type[Exception], str]


def f4(*shape: int) -> Any:
    return np.linspace(-1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def f8(*shape: int) -> Any:
    return f4(*shape).astype(np.float64)


def gradient(name: str, x: Any) -> Any:
    """Return a gradient that the optimizer accepts."""
    return SparseGrad([[0, 1]], 0.5 * x[:2] + 1, x.shape) if name == "SparseAdam" else 0.5 * x + 1


def trained(name: str) -> tuple[Any, Any]:
    """Return an optimizer after two steps of a matrix, and the matrix."""
    w = f4(2, 3)
    optimizer = getattr(refoptim, name)([w])
    for _ in range(2):
        optimizer.step(grads=[gradient(name, w)])
    return optimizer, w


ONE_OF = "optimizer can only optimize arrays, but one of the params is"
SUPPORTED = "is not supported: choose one of float16, bfloat16, float32, float64, complex64, complex128"
Refused = tuple[Callable[[Any], Any], type[Exception], str]


def refused(seen: list[Any], act: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Fail unless ``act`` raises exactly this type with this text, and leaves all that is seen as it was."""
    before = picture(seen)
    with pytest.raises(error) as raised:
        act()
    assert type(raised.value) is error
    assert message in str(raised.value)
    assert picture(seen) == before


class World:
    """An optimizer after two steps, of parameters in two groups and two dtypes, the last of which is in trouble."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        self.arrays = [f4(2, 3), f4(4, 1), f8(3, 2)]
        groups = [{"params": self.arrays[:2]}, {"params": self.arrays[2:], "lr": 0.25}]
        self.optimizer = getattr(refoptim, name)(groups, **settings)
        self.groups = self.optimizer.param_groups
        self.last = self.groups[1]["params"][0]
        for _ in range(2):
            self.step()

    @property
    def state(self) -> Any:
        return self.optimizer.state[self.last]

    @property
    def grads(self) -> list[Any]:
        return [gradient(self.name, x) for x in self.arrays]

    def step(self) -> None:
        self.optimizer.step(grads=self.grads)

    def step_with_last(self, grad: Any) -> None:
        self.optimizer.step(grads=[*self.grads[:2], grad])


LAST = "parameter 0 of group 1: "
SHAPE, DTYPE, NO_ARRAY = "the gradient must have shape", "the gradient must have dtype", "the gradient must be an array"
SPARSE_ONLY = "SparseAdam does not support dense gradients, please consider Adam instead"
DENSE_ONLY = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor", "Muon"]
NUMBER = "must be one float32 or float64 number, got"
FIT = "must have shape (3, 2) and dtype float64, got"


def the_dict(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved.update(values)


def second_group(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved["param_groups"][1].update(values)
