"""Muon's iteration, written out number by number: products in order, sums in halves, one rounding after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.rooms import members, normal
from refoptim.numerics import tree

SETTINGS: dict[str, Any] = {
    "lr": 0.07,
    "momentum": 0.8,
    "weight_decay": 0.03,
    "ns_coefficients": (3.1, -4.2, 1.7),
    "eps": 1e-6,
}


def product(a: Any, b: Any, number: Any) -> Any:
    """The matrix product, an entry's products added in the order of the inner index."""
    out = np.zeros((len(a), len(b[0])), number)
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)):
                out[i, j] = number(out[i, j] + number(a[i, k] * b[k, j]))
    return out


def norm(x: Any, number: Any) -> Any:
    """The root of the sum of squares, folded in halves; for up to 1,024 elements."""
    terms = [number(t * t) for t in x.ravel()]
    terms += [number(0)] * ((1 << (len(terms) - 1).bit_length()) - len(terms))
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [number(terms[i] + terms[i + half]) for i in range(half)]
    return np.sqrt(terms[0])


def iterate(u: Any, steps: int, number: Any, rounded: Callable[[Any], Any]) -> Any:
    """Newton and Schulz's iteration on a matrix with no more rows than columns."""
    a, b, c = (number(x) for x in SETTINGS["ns_coefficients"])
    x = rounded(u.astype(number))
    x = rounded(x / max(rounded(norm(x, number)), rounded(number(SETTINGS["eps"]))))
    for _ in range(steps):
        gram = rounded(product(x, x.T, number))
        polynomial = rounded(b * gram + c * product(gram, gram, number))
        x = rounded(a * x + product(polynomial, x, number))
    return x


def bfloat16(x: Any) -> Any:
    """Round float32 to bfloat16 and back, by the library that defines the type for NumPy."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    return np.float32(np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32))


ROUNDINGS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "float32": (np.float32, lambda x: x),
    "float64": (np.float64, lambda x: x),
    "bfloat16": (np.float32, bfloat16),
}


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize("ns_dtype", ROUNDINGS)
def test_a_library_may_multiply(ns_dtype: str, fused: bool) -> None:
    """Larger matrices than a library leaves to plain loops: close to the exact products, and saved with the state."""
    start = [normal(i, *shape, dtype="float32") for i, shape in enumerate([(90, 70), (40, 130), (0, 3)])]
    exact, other = (
        refoptim.Muon([x.copy() for x in start], ns_dtype=ns_dtype, fused=f or None, products=products, **SETTINGS)
        for products, f in (("exact", False), ("library", fused))
    )
    for k in range(3):
        for optimizer in (exact, other):
            optimizer.step(grads=[normal(10 * k + i, *x.shape, dtype="float32") for i, x in enumerate(start)])
    for p, q, x in zip(members(exact), members(other), start, strict=True):
        np.testing.assert_allclose(q.data, p.data, 1e-2, 1e-3)
        assert not x.size or not np.array_equal(q.data, x)
    saved = other.state_dict()
    assert saved["param_groups"][0]["products"] == "library"
    exact.load_state_dict(saved)
    assert exact.param_groups[0]["products"] == "library"
    del saved["param_groups"][0]["products"]  # as of an older version
    other.load_state_dict(saved)


def test_a_library_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "matmul", None)
    refoptim.Muon([normal(1, 4, 3)], products="library").step(grads=[normal(2, 4, 3)])
    with pytest.raises(TypeError):
        refoptim.Muon([normal(1, 4, 3)]).step(grads=[normal(2, 4, 3)])


@pytest.mark.parametrize("ns_dtype", ROUNDINGS)
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_the_one_written_out(dtype: str, shape: tuple[int, int], ns_dtype: str) -> None:
    rng = np.random.default_rng(len(dtype) * 100 + shape[0])
    p, g = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    number, (iterated, rounded) = p.dtype.type, ROUNDINGS[ns_dtype]

    share = number(1 - SETTINGS["momentum"])
    buffer = share * g
    ahead = number(SETTINGS["momentum"])
    u = buffer - (buffer - g) * (1 - ahead)
    x = iterate(u.T, 5, iterated, rounded).T if shape[0] > shape[1] else iterate(u, 5, iterated, rounded)
    lr = SETTINGS["lr"] * max(1, shape[0] / shape[1]) ** 0.5
    expected = p * number(1 - SETTINGS["lr"] * SETTINGS["weight_decay"])
    expected = expected + x.astype(dtype) * number(-lr)

    optimizer = refoptim.Muon([p], ns_dtype=ns_dtype, **SETTINGS)
    optimizer.step(grads=[g])
    assert p.tobytes() == expected.tobytes()
    assert next(iter(optimizer.state.values()))["momentum_buffer"].tobytes() == buffer.tobytes()
