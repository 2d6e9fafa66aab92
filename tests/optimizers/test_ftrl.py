"""FTRL: powers that kernels do not know, zeros of L1, and the other count of L2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS

G = np.linspace(-2, 2, 9)


@NEEDS_KERNELS
def test_kernels_refuse_other_powers() -> None:
    with pytest.raises(RuntimeError, match=r"do not know learning_rate_power=-0\.7: they take -0\.5 and 0"):
        refoptim.FTRL([np.ones(9)], learning_rate_power=-0.7, fused=True)


@NEEDS_KERNELS
def test_a_power_that_changes_on_the_way_is_refused_too() -> None:
    p = np.ones(9)
    optimizer = refoptim.FTRL([p], lr=0.1, fused=True)
    for _ in range(3):
        optimizer.step(grads=[G])
    before = p.tobytes()
    optimizer.param_groups[0]["learning_rate_power"] = -0.7
    with pytest.raises(RuntimeError, match="do not know learning_rate_power"):
        optimizer.step(grads=[G])
    assert p.tobytes() == before


def test_other_powers_by_hand() -> None:
    """One step with numbers whose powers are exact."""
    p = np.array([2.0])
    optimizer = refoptim.FTRL([p], lr=0.5, learning_rate_power=-1.5, initial_accumulator_value=1.0, l2=0.25, l1=0.5)
    optimizer.step(grads=[np.array([3.0**0.5 * 3.0**0.5])])  # 3, but for its last place
    n = 1 + (3.0**0.5 * 3.0**0.5) ** 2  # 10, likewise
    linear = 3.0 - (n * n**0.5 - 1) / 0.5 * 2
    assert p[0] == pytest.approx((-0.5 - linear) / (n * n**0.5 / 0.5 + 0.5), rel=1e-14)


@pytest.mark.parametrize("power", [-0.5, 0, -0.7])
def test_l1_makes_zeros_and_half_of_l2_is_the_paper(power: float) -> None:
    """The paper's rule, from its text: sums of gradients and of their squares since the beginning."""
    lr, l1, l2, z, n = 0.5, 1.5, 0.3, np.zeros(9), np.full(9, 0.1)
    p: Any = np.full(9, 0.25)
    w = p.copy()
    optimizer = refoptim.FTRL([p], lr=lr, learning_rate_power=power, l1=l1, l2=l2 / 2)
    for k in range(1, 6):
        g = G / k
        optimizer.step(grads=[g])
        sigma = ((n + g * g) ** -power - n**-power) / lr
        z, n = z + g - sigma * w, n + g * g
        w = np.where(np.abs(z) <= l1, 0, -(z - np.sign(z) * l1) / (n**-power / lr + l2))
        np.testing.assert_allclose(p, w, rtol=1e-13)
    assert 0 < np.count_nonzero(p == 0) < 9


def test_a_learning_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate: 0"):
        refoptim.FTRL([np.ones(2)], lr=0)


def test_other_powers_on_a_gpu(gpu: Any) -> None:
    """There are no kernels for them: the rule itself is run, on the host where it must."""
    p, q = np.ones(9), gpu.asarray(np.ones(9))
    one, other = (refoptim.FTRL([x], lr=0.1, learning_rate_power=-0.7) for x in (p, q))
    for k in range(3):
        g = np.linspace(-1, 2, 9) + k
        one.step(grads=[g])
        other.step(grads=[gpu.asarray(g)])
    assert p.tobytes() == q.get().tobytes()
