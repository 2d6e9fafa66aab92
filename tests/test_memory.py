"""A step makes nothing as large as a parameter: at most 8 MiB beside its arrays, whatever their size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.oracle import DENSE, Hyper
from refoptim import SparseGrad
from refoptim.engines import threads

MIB = 1 << 20
N = 4 * MIB
"""Elements of a parameter: 16 MiB in float32."""

EVERYTHING: dict[str, Hyper] = {
    "SGD": dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True),
    "Adam": dict(lr=0.1, weight_decay=0.1, amsgrad=True, maximize=True),
    "RMSprop": dict(lr=0.1, momentum=0.9, centered=True, weight_decay=0.1, maximize=True),
    "ASGD": dict(lr=0.1, t0=0, weight_decay=0.1, maximize=True),
    "Rprop": dict(lr=0.1, maximize=True),
    "Adafactor": dict(lr=0.1, weight_decay=0.1, maximize=True),
}
"""Settings with which a rule does all it can; the others get ``weight_decay`` and ``maximize``."""


def peak(action: Callable[[], Any]) -> float:
    """Return how many MiB more an action needs at its height than before it."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def extra_memory(name: str, p: Any, g: Any, n: int, **other: Any) -> float:
    """Return the peak of a second step with ``n`` threads."""
    hyper = EVERYTHING.get(name, dict(lr=0.1, weight_decay=0.1, maximize=True)) | other
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(threads.setting, "threads", n)
        optimizer = getattr(refoptim, name)([p], **hyper)
        optimizer.step(grads=[g])
        before = p[(0,) * p.ndim]
        used = peak(lambda: optimizer.step(grads=[g]))
    assert p[(0,) * p.ndim] != before, "the step did nothing"
    return used


def array(shape: tuple[int, ...], dtype: Any = "float32") -> Any:
    """Make an array of numbers between 0.5 and 1.5."""
    x = np.empty(shape, dtype)
    x.reshape(-1)[:] = np.tile(np.linspace(0.5, 1.5, 1 << 10, dtype="float32").astype(dtype), x.size >> 10)
    return x


def test_a_temporary_is_seen() -> None:
    p = array((N,))
    assert peak(lambda: p * p + p) >= 16


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", [*DENSE, "Adafactor"])
def test_float32(name: str, n: int) -> None:
    assert extra_memory(name, array((N,)), array((N,)), n) < 8


@pytest.mark.parametrize("mode", ["each", "store"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_storage(dtype: str, mode: str) -> None:
    """Nothing is widened as a whole."""
    if dtype == "bfloat16" and not find_spec("ml_dtypes"):
        pytest.skip("bfloat16 arrays need ml_dtypes")
    from refoptim.conformance.gradients import np_dtype

    with refoptim.rounding(mode):
        assert extra_memory("Adam", array((N,), np_dtype(dtype)), array((N,), np_dtype(dtype)), 2, eps=0.01) < 8


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("name", ["Adam", "Rprop"])
def test_wide_storage(name: str, dtype: str) -> None:
    assert extra_memory(name, array((N // 2,), dtype), array((N // 2,), dtype), 2) < 8


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "Fortran": lambda x: x.T,
    "every second column": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adafactor"])
def test_layouts(name: str, layout: str) -> None:
    """The gradient is contiguous, so the two are not walked alike."""
    p = LAYOUTS[layout](array((2 << 10, N >> 10 if "second" in layout else N >> 11)))
    assert extra_memory(name, p, array(p.shape), 2) < 8


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("shape", [(2048, 2048), (1 << 20, 4), (4, 1 << 20), (64, 64, 1024)])
def test_adafactor(shape: tuple[int, ...], n: int) -> None:
    """Beside blocks it makes new rows and columns, and sums of runs; here they are up to a quarter of the parameter."""
    rows_and_columns = 4 * (np.prod(shape) / shape[-1] + np.prod(shape) / shape[-2]) / MIB
    assert extra_memory("Adafactor", array(shape), array(shape), n) < 8 + 2 * rows_and_columns


def test_many_parameters() -> None:
    """Small tensors are packed into blocks, never all at once."""
    arrays, grads = list(array((1 << 12, 1 << 10))), list(array((1 << 12, 1 << 10)))
    optimizer = refoptim.AdamW(arrays, foreach=True)
    optimizer.step(grads=grads)
    few = refoptim.AdamW([x[:1] for x in arrays], foreach=True)
    few.step(grads=[g[:1] for g in grads])
    bookkeeping = peak(lambda: few.step(grads=[g[:1] for g in grads]))
    assert peak(lambda: optimizer.step(grads=grads)) < bookkeeping + 8


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients(name: str) -> None:
    """A few rows cost what they hold."""
    hyper = {} if name == "SparseAdam" else {"weight_decay": 0}
    p = array((N >> 6, 64))
    g = SparseGrad(np.array([[3, 5, 1000]]), array((1024,))[:192].reshape(3, 64), p.shape)
    optimizer = getattr(refoptim, name)([p], lr=0.1, **hyper)
    optimizer.step(grads=[g])
    assert peak(lambda: optimizer.step(grads=[g])) < 1
