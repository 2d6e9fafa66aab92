"""Every optimizer that takes gradients, with settings none of which is neutral, and arrays to try it on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.wider import WIDER
from refoptim import Optimizer, SparseGrad
from refoptim.step.rule import needs_whole

SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.07, momentum=0.9, dampening=0.3, weight_decay=0.05),
    "Adam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05, amsgrad=True),
    "AdamW": dict(lr=0.03, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2),
    "NAdam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05, momentum_decay=0.03),
    "RAdam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05),
    "Adamax": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05),
    "Adadelta": dict(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.05),
    "Adagrad": dict(lr=0.1, lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.3, eps=1e-3),
    "RMSprop": dict(lr=0.02, alpha=0.8, eps=1e-3, weight_decay=0.05, momentum=0.5, centered=True),
    "Rprop": dict(lr=0.03, etas=(0.4, 1.3), step_sizes=(1e-3, 0.5)),
    "ASGD": dict(lr=0.05, lambd=0.02, alpha=0.6, t0=2, weight_decay=0.05),
    "SparseAdam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3),
    "Adafactor": dict(lr=0.05, beta2_decay=-0.6, eps=(1e-4, 2e-2), d=1.5, weight_decay=0.05),
    "Muon": dict(lr=0.02, weight_decay=0.05, momentum=0.8, ns_steps=3),
    **WIDER,
}

NAMES = list(SETTINGS)
OF_TORCH = [name for name in NAMES if getattr(refoptim, name).of_torch]
DENSE = [name for name in NAMES if name != "SparseAdam"]
MEASURED = [name for name in NAMES if needs_whole(getattr(refoptim, name))]
"""Those that do not go element by element in the type of the storage, and take no complex parameters."""


def need_kernels(name: str) -> None:
    """Skip a test of kernels where an optimizer has none; ``test_twins`` says which those are."""
    if not getattr(refoptim, name).has_kernels:
        pytest.skip(f"{name} has no kernels")


def make(name: str, params: Any, **more: Any) -> Optimizer:
    """Return the optimizer of this name with settings none of which is neutral; skip kernels where it has none."""
    if more.get("fused"):
        need_kernels(name)
    optimizer: Optimizer = getattr(refoptim, name)(params, **{**SETTINGS[name], **more})
    return optimizer


def normal(seed: int, *shape: int, dtype: str = "float32") -> Any:
    """Draw an array of normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gradient(name: str, seed: int, x: Any) -> Any:
    """Draw a gradient for ``x`` that the optimizer of this name takes."""
    g = normal(seed, *x.shape, dtype=x.dtype.name)
    return SparseGrad([[1, 0, 1]], g[[1, 0, 1]], x.shape) if name == "SparseAdam" else g


def assert_equal_bits(x: Any, y: Any, where: object = "") -> None:
    """Fail unless two arrays have the same shape, dtype and bytes."""
    x, y = np.asarray(x), np.asarray(y)
    assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), where


def assert_equal_runs(one: Optimizer, other: Optimizer, where: object = "") -> None:
    """Fail unless two optimizers hold the same parameters and the same state, bit for bit."""
    pairs = zip(members(one), members(other), strict=True)
    for p, q in pairs:
        assert_equal_bits(p.data, q.data, where)
        mine, theirs = one.state.get(p, {}), other.state.get(q, {})
        assert list(mine) == list(theirs), where
        for key in mine:
            assert type(mine[key]) is type(theirs[key]), (where, key)
            assert_equal_bits(mine[key], theirs[key], (where, key))


def members(optimizer: Optimizer) -> list[Any]:
    """Return the parameters of all groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]
