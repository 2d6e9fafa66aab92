"""Eigenvectors and orthogonal factors: mpmath's in fifty digits, and what defines them; in one order of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refoptim.numerics import decompositions
from refoptim.numerics.decompositions import eigenvectors, orthogonal_factor

SIZES = [0, 1, 2, 3, 4, 5, 8, 13, 32, 33]
DTYPES = ["float32", "float64"]


def symmetric(n: int, dtype: str, rank: int | None = None) -> Any:
    g = np.random.default_rng(n).standard_normal((n, n if rank is None else rank)).astype(dtype)
    a = g @ g.T
    return (a + a.T) / 2


def unit(n: int, dtype: str) -> float:
    """The error that is allowed: some units of rounding for each row."""
    return float(4 * (n + 4) * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_eigenvectors_are_orthogonal_and_make_a_matrix_diagonal(n: int, dtype: str) -> None:
    for a in (symmetric(n, dtype), symmetric(n, dtype, rank=n // 2), symmetric(n, dtype) - np.eye(n, dtype=dtype)):
        q = eigenvectors(a)
        assert (q.shape, q.dtype) == (a.shape, a.dtype)
        wide, scale = q.astype(np.float64), np.abs(a).max(initial=0) * max(1, n)
        values = wide.T @ a @ wide
        np.testing.assert_allclose(wide.T @ wide, np.eye(n), 0, unit(n, dtype))
        np.testing.assert_allclose(values, np.diag(np.diag(values)), 0, unit(n, dtype) * scale)
        expected = np.linalg.eigvalsh(a.astype(np.float64))[::-1]
        np.testing.assert_allclose(np.diag(values), expected, 0, unit(n, dtype) * scale)


def test_eigenvectors_are_those_of_fifty_digits() -> None:
    mpmath = pytest.importorskip("mpmath", reason="the witness of eigenvectors is mpmath")
    with mpmath.workdps(50):
        a = symmetric(6, "float64")
        values, vectors = mpmath.eigsy(mpmath.matrix(a.tolist()))
        expected = np.array(vectors.tolist(), float)[:, np.argsort([-float(x) for x in values])]
    found = eigenvectors(a)
    np.testing.assert_allclose(found * np.sign(np.sum(found * expected, axis=0)), expected, 0, 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_orthogonal_factors_leave_an_upper_triangle(n: int, dtype: str) -> None:
    full = np.random.default_rng(n).standard_normal((n, n)).astype(dtype)
    parallel = full.copy()
    parallel[:, n // 2 :] = full[:, :1]
    for a in (full, parallel, np.zeros_like(full)):
        q = orthogonal_factor(a)
        wide = q.astype(np.float64)
        np.testing.assert_allclose(wide.T @ wide, np.eye(n), 0, unit(n, dtype))
        np.testing.assert_allclose(np.tril(wide.T @ a, -1), np.zeros((n, n)), 0, unit(n, dtype) * 10)
    expected = np.linalg.qr(full.astype(np.float64))[0]
    found = orthogonal_factor(full)
    signs = np.sign(np.sum(found * expected, axis=0))
    np.testing.assert_allclose(found * signs, expected, 0, 2000 * unit(n, dtype))


@pytest.mark.parametrize("exponent", [-100, 100])
def test_no_number_is_too_large_or_too_small(exponent: int) -> None:
    """Powers of two leave both as they are, though squares of what is given are beyond float32."""
    a, scale = symmetric(5, "float32"), np.float32(2.0**exponent)
    for decomposed in (eigenvectors, orthogonal_factor):
        assert decomposed(a * scale).tobytes() == decomposed(a).tobytes()


def test_nothing_is_decided_where_eigenvalues_are_equal() -> None:
    np.testing.assert_array_equal(eigenvectors(np.eye(5)), np.eye(5))
    np.testing.assert_array_equal(eigenvectors(np.diag([2.0, 3.0, 2.0, 3.0])), np.eye(4)[:, [1, 3, 0, 2]])
    assert decompositions.descending(np.array([0.0, 1.0, -0.0, 1.0])).tolist() == [1, 3, 0, 2]


def test_one_pair_written_out() -> None:
    """The angle is half of that whose tangent is 2 b / (d - a)."""
    a, b, d = 2.0, 0.75, 3.0
    angle = np.arctan2(2 * b, d - a) / 2
    found = eigenvectors(np.array([[a, b], [b, d]]))
    np.testing.assert_allclose(np.abs(found), np.abs([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("decomposed", [eigenvectors, orthogonal_factor])
def test_what_is_no_number_spreads_and_ends(decomposed: Any, wrong: float) -> None:
    a = symmetric(4, "float64")
    a[1, 2] = a[2, 1] = wrong
    with np.errstate(all="ignore"):
        assert np.isnan(decomposed(a)).any()


def test_what_is_given_stays_as_it_is() -> None:
    for order in ("C", "F"):
        a = np.array(symmetric(5, "float64"), order=order)  # type: ignore[call-overload]
        before = a.copy()
        assert eigenvectors(a).tobytes() == eigenvectors(before).tobytes()
        assert orthogonal_factor(a).tobytes() == orthogonal_factor(before).tobytes()
        np.testing.assert_array_equal(a, before)
