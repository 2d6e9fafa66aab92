"""What tests of kernels share: when they run, arrays of every layout, random settings, and equality of bits."""

from __future__ import annotations

import inspect
import os
import shutil
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import wider
from helpers.rooms import members
from refoptim import Optimizer
from refoptim.engines import host
from refoptim.numerics.arith import as_reals
from refoptim.step.hyper import declared

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)

NEEDS_KERNELS = pytest.mark.skipif(
    bool(host.missing()) and not (COMPILER and os.environ.get("CI")),
    reason=f"kernels for this computer {host.missing().removeprefix('which ')}",
)
"""In CI, where there is a compiler, kernels that are missing are a failure."""

FUSED = pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
"""Runs a test on the reference and on the kernels for this computer."""

RULES = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD"]
RULES += wider.ELEMENTWISE

STORAGES = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"]

VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 0.3, 7.0),
    "betas": ((0.9, 0.999), (0.2, 0.7), (0.0, 0.5), (0.6, 0.0)),
    "eps": (1e-8, 0.02, 1e-60, 0.0),
    "weight_decay": (0.0, 0.1, 1e-60),
    "momentum": (0.0, 0.9, 1.3, 1e-50),
    "dampening": (0.0, 0.3, -0.2),
    "nesterov": (False, True),
    "amsgrad": (False, True),
    "centered": (False, True),
    "decoupled_weight_decay": (False, True),
    "maximize": (False, True),
    "momentum_decay": (4e-3, 0.4),
    "rho": (0.9, 0.3, 1.0),
    "lr_decay": (0.0, 0.1),
    "initial_accumulator_value": (0.0, 0.2),
    "alpha": (0.99, 0.3),
    "etas": ((0.5, 1.2), (0.3, 2.5)),
    "step_sizes": ((1e-6, 50.0), (0.01, 0.2)),
    "lambd": (1e-4, 0.1),
    "t0": (1e6, 2.0, 0.0),
}
"""Values of every hyperparameter: usual ones, those that switch something off, and some that vanish in float32."""


def settings(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Draw settings of an optimizer, a value of each hyperparameter."""
    cls = getattr(refoptim, name)
    drawn = {x: VALUES[x] for x in VALUES if x in declared(cls)}
    if name in wider.WIDER:
        drawn = {x: values for x in declared(cls) if (values := wider.values(name, x))}
    wanted = [x for x in inspect.signature(cls).parameters if x in drawn]
    found = {x: drawn[x][rng.integers(len(drawn[x]))] for x in wanted}
    if found.get("nesterov"):
        found |= {"momentum": found["momentum"] or 0.7, "dampening": 0.0}
    found.pop("cautious", None)  # which no complex parameters take, and cases are about
    if name == "SparseAdam":
        found["eps"] = max(found["eps"], 1e-12)
    return found


def dtype_of(name: str) -> Any:
    """Return a dtype; skip the test if it is one of ml_dtypes and that is not installed."""
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Draw an array of numbers of many sizes."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 4, shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype_of(dtype))


SPECIAL = (np.inf, -np.inf, np.nan, 0.0, -0.0)


def strange(rng: np.random.Generator, x: Any, dtype: str) -> Any:
    """Return an array with some of its numbers replaced by infinities, NaN, zeros and subnormal numbers."""
    tiny = [np.finfo("float32").smallest_subnormal * n for n in (3, -50)]
    choice = rng.choice([*SPECIAL, *tiny], x.shape)
    with np.errstate(all="ignore"):
        return np.where(rng.random(x.shape) < 0.4, choice, x).astype(dtype_of(dtype))


class View(np.ndarray[Any, Any]):
    """A subclass of arrays."""


def misaligned(x: Any) -> Any:
    """Return a copy of an array that lies one byte beside where its numbers should."""
    copy = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(x.dtype)[: x.size].reshape(x.shape)
    copy[...] = x
    assert not copy.flags.aligned
    return copy


def placed(x: Any, at: int) -> Any:
    """Return a copy of an array whose first byte lies ``at`` bytes after a multiple of 64."""
    memory = np.zeros(x.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + at
    copy = memory[begin : begin + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def shifted(x: Any, by: int) -> Any:
    """Return a copy of an array that begins ``by`` numbers after a multiple of 64 bytes."""
    return placed(x, by * x.itemsize)


def alike(x: Any) -> Any:
    """Return a copy of an array that begins as far after a multiple of 64 bytes as it does; ``copy`` aligns it."""
    return placed(x, x.ctypes.data % 64)


def arrays(rng: np.random.Generator, dtype: str) -> list[Any]:
    """Draw arrays of every layout: sizes around those of registers and chunks, in and out of order, aligned and not."""
    shapes = [(), (0,), (1,), (7, 5), (1023,), (3, 4, 5), (17_000,), (70_001,)]
    plain = [numbers(rng, shape, dtype) for shape in shapes]
    rows = numbers(rng, (20, 30), dtype)
    return [
        *plain,
        rows.copy()[::2, 1::3],
        np.asfortranarray(rows),
        rows.copy().T,
        rows[::-1].copy()[::-1],
        rows.copy()[3:, 1:].view(View),
        numbers(rng, (50,), dtype)[1:],
        misaligned(numbers(rng, (33,), dtype)),
    ]


def gradients(rng: np.random.Generator, params: list[Any], dtype: str, k: int) -> list[Any]:
    """Draw gradients of step ``k``, some missing, zero, or in another order."""
    found: list[Any] = [numbers(rng, x.shape, dtype) for x in params]
    if k == 1:
        found[4][:] = 0
        found[5] = None
    if k == 2:
        found = [strange(rng, g, dtype) for g in found]
    found[3] = np.asfortranarray(found[3])
    found[10] = np.asfortranarray(found[10])
    found[-1] = misaligned(found[-1])
    return found


def assert_same_bits(x: Any, y: Any, where: object = "") -> None:
    """Fail unless two arrays have the same shape, dtype and bits, all NaNs being one."""
    x, y = np.asarray(x), np.asarray(y)
    assert (x.shape, x.dtype) == (y.shape, y.dtype), where
    a, b = (np.ascontiguousarray(as_reals(z)) for z in (x, y))
    differ = a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}")
    differ &= ~(np.isnan(a) & np.isnan(b))
    if differ.any():
        i = int(np.flatnonzero(differ)[0])
        raise AssertionError(f"{where}: {differ.sum()} differ, first {a.ravel()[i]!r} from {b.ravel()[i]!r} at {i}")


def assert_same_runs(one: Optimizer, other: Optimizer, where: object = "") -> None:
    """Fail unless two optimizers hold the same parameters and the same state, all NaNs being one."""
    for i, (p, q) in enumerate(zip(members(one), members(other), strict=True)):
        assert_same_bits(p.data, q.data, (where, i))
        mine, theirs = one.state.get(p, {}), other.state.get(q, {})
        assert sorted(mine) == sorted(theirs), (where, i)
        for key in mine:
            assert type(mine[key]) is type(theirs[key]), (where, i, key)
            assert_same_bits(mine[key], theirs[key], (where, i, key))
