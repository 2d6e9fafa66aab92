"""Problems for L-BFGS and conjugate gradients, and how they are run on them."""

from __future__ import annotations

from typing import Any

import numpy as np

import refoptim
from helpers.rooms import assert_equal_bits, normal
from refoptim.optimizers import conjugate_gradient


def assert_same(got: Any, expected: Any) -> None:
    """Compare results, numbers and arrays, however they are nested."""
    assert type(got) is type(expected)
    if isinstance(expected, (tuple, list)):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif expected is not None:
        assert_equal_bits(got, expected)


def rosenbrock(p: Any) -> float:
    x = p.data
    gap, rest = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    p.grad = np.zeros_like(x)
    p.grad[:-1] -= 400 * x[:-1] * gap + 2 * rest
    p.grad[1:] += 200 * gap
    return float(np.sum(100 * gap**2 + rest**2))


def quadratic(p: Any) -> float:
    """A bowl with axes of lengths from 1 to 100, of numbers that are real or complex."""
    scale = np.linspace(1, 100, p.data.size).astype(p.data.real.dtype).reshape(p.data.shape)
    p.grad = p.data * scale - 1
    return float(np.sum(np.abs(p.data) ** 2 * scale) / 2 - np.sum(p.data.real))


PROBLEMS = {
    "rosenbrock of 2": (rosenbrock, np.array([-1.2, 1.0])),
    "rosenbrock of 10": (rosenbrock, np.linspace(-1, 1, 10)),
    "a bowl": (quadratic, normal(5, 3000, dtype="float64")),
    "a complex bowl": (quadratic, normal(5, 700, dtype="float64") + 1j * normal(6, 700, dtype="float64")),
}

SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (refoptim.LBFGS, {"lr": 1e-3}),
    (refoptim.LBFGS, {"line_search_fn": "strong_wolfe", "history_size": 3}),
    (refoptim.LBFGS, {"line_search_fn": "strong_wolfe", "maximize": True, "max_iter": 2}),
    *((refoptim.ConjugateGradient, {"beta": beta}) for beta in conjugate_gradient.BETAS),
    (refoptim.ConjugateGradient, {"lr": 1e-3, "line_search_fn": None, "powell": None}),
]


def trajectory(cls: Any, start: Any, function: Any, **more: Any) -> tuple[Any, Any]:
    p = refoptim.Parameter(start.copy())
    optimizer = cls([p], **more)
    for _ in range(3):
        optimizer.step(lambda: turned(function, p) if more.get("maximize") else function(p))
    return p.data, optimizer.state[p]


def turned(function: Any, p: Any) -> float:
    """Return minus a function, with minus its gradient."""
    loss = function(p)
    p.grad = -p.grad
    return -float(loss)
