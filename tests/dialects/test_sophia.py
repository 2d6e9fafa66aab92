"""SophiaG: exact arithmetic, and the order of its authors' operations."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from refoptim.dialects.sophia import Sophia


def authors(p: Any, g: Any, h: Any, state: dict[str, Any], lr: float, rho: float, bs: float) -> Any:
    """Take a step in the order of the authors' file, which is that of ``addcmul`` and ``add_`` of torch."""
    (beta1, beta2), one = (0.965, 0.99), p.dtype.type
    if h is not None:
        state["hessian"] = state["hessian"] * one(beta2) + (one(1 - beta2) * h) * h
    p = p * one(1 - lr * 0.1)
    state["exp_avg"] = state["exp_avg"] * one(beta1) + one(1 - beta1) * g
    denominator = one(rho * bs) * state["hessian"] + one(1e-15)
    ratio = np.minimum(np.abs(state["exp_avg"]) / denominator, one(1))
    return p + (one(-lr) * np.sign(state["exp_avg"])) * ratio


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bits_of_the_authors_order(dtype: str) -> None:
    rng = np.random.default_rng(7)
    p = rng.standard_normal(500).astype(dtype)
    state = {"exp_avg": np.zeros_like(p), "hessian": np.zeros_like(p)}
    expected, ours = p.copy(), Sophia([p], lr=0.02, rho=0.03, bs=7)
    for k in range(12):
        g, h = (np.where(rng.random(500) < 0.1, 0, rng.standard_normal(500)).astype(dtype) for _ in range(2))
        given = h if k % 4 == 1 else None
        expected = authors(expected, g, given, state, 0.02, 0.03, 7)
        ours.step(grads=[g], estimates=None if given is None else [given])
        assert p.tobytes() == expected.tobytes()


def test_two_steps_by_exact_arithmetic() -> None:
    w, p, average, hessian = np.array([1.0]), Fraction(1), Fraction(0), Fraction(0)
    half, lr, decay, size, eps = Fraction(1, 2), Fraction(1, 4), Fraction(1, 2), Fraction(4), Fraction(2)
    ours = Sophia([w], lr=0.25, betas=(0.5, 0.5), weight_decay=0.5, eps=2.0, rho=0.5, bs=8)
    for g, h in ((4, 1), (-2, None)):
        hessian = hessian if h is None else half * hessian + half * h * h
        p *= 1 - lr * decay
        average = half * average + half * g
        ratio = min(abs(average) / (size * hessian + eps), Fraction(1))
        p -= lr * ratio if average > 0 else -lr * ratio
        ours.step(grads=[np.array([float(g)])], estimates=None if h is None else [np.array([float(h)])])
        assert Fraction(float(p)) == p == Fraction(float(w[0]))


def test_without_an_estimate_a_step_has_the_size_of_lr() -> None:
    w = np.zeros(3)
    Sophia([w], lr=0.5).step(grads=[np.array([1e-9, -3.0, 0.0])])
    assert w.tolist() == [-0.5, 0.5, 0.0]


def test_defaults_are_the_authors() -> None:
    made, expected = Sophia([np.zeros(1)]).defaults, {"lr": 1e-4, "betas": (0.965, 0.99), "weight_decay": 0.1}
    expected |= {"p": 1.0, "eps": 1e-15, "rho": 0.04, "bs": 5120}
    assert {name: made[name] for name in expected} == expected
