"""Eigenvectors and QR factors in one order of operations: additions, products, divisions and roots alone.

LAPACK and its kin promise no order, and where eigenvalues meet, or a matrix has no full rank, they choose what they
like. What is here depends on the entries of a matrix alone, never on a device or a library. Matrices are in their
arithmetic type, float32 or float64; a matrix that holds a NaN or an infinity has NaN for its result.
"""

from __future__ import annotations

import numpy as np

from . import tree
from .arith import Array, DType, div, epsilon, mul, rsqrt, sqrt

SWEEPS = 50
"""How often all pairs are rotated at most; some ten times are enough."""


@np.errstate(over="ignore")
def eigenvectors(a: Array) -> Array:
    """Return the eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first.

    Jacobi's method: each pair of rows and columns is rotated so that the entry where they cross is 0, as many pairs at
    once as there are, until nothing is left beside the diagonal. Equal eigenvalues stay in the order of the diagonal.

    Source: Golub and Van Loan, "Matrix computations", 4th edition, 2013, sections 8.5.2 and 8.5.6.
    """
    n = len(a)
    if n < 2:
        return identity(a, n)
    half = (n + 1) // 2
    x, rows = zeros(a, 2 * half), identity(a, 2 * half)
    x[:n, :n] = div(a, _largest(np.abs(a)))  # with a row and a column of zeros more where n is odd
    rows = rows + np.max(np.abs(x)) * 0  # NaN where there is one
    for _ in range(SWEEPS):
        if not _beside(x) > negligible(a.dtype) * _largest(np.abs(x)):
            break
        for _ in range(2 * half - 1):
            x, rows = _rotated(x, rows)
    return rows[descending(x.reshape(-1)[:: 2 * half + 1][:n])][:, :n].T


def negligible(dtype: DType) -> float:
    """Return which part of the largest entry is nothing beside the diagonal."""
    return epsilon(dtype)


def descending(x: Array) -> Array:
    """Return the places of the numbers of a vector, the largest first; equal ones stay in order."""
    return np.argsort(0.0 - x, kind="stable")


def identity(like: Array, n: int) -> Array:
    """Return the identity matrix of n rows, an array like ``like``."""
    x = zeros(like, n)
    x.reshape(-1)[:: n + 1] = 1
    return x


def zeros(like: Array, n: int) -> Array:
    """Return a square matrix of zeros, an array like ``like``."""
    return np.zeros_like(like, shape=(n, n), order="C")


def _largest(sizes: Array) -> Array:
    """Return the largest of some numbers that are not negative; 1 where that is 0."""
    largest = np.max(sizes)
    return np.where(largest == 0, np.ones_like(largest), largest)


def _beside(x: Array) -> Array:
    """Return the size of the largest entry beside the diagonal."""
    sizes = np.abs(x)
    sizes.reshape(-1)[:: len(x) + 1] = 0
    return np.max(sizes)


def _rotated(x: Array, rows: Array) -> tuple[Array, Array]:
    """Rotate row and column i of a matrix with those half of it further; return the next pairs half of it apart."""
    half, step = len(x) // 2, len(x) + 1
    flat = x.reshape(-1)
    upper, lower, cross = flat[: half * step : step], flat[half * step :: step], flat[half : half * len(x) : step]
    t, c, s = _rotation(upper, lower, cross)
    upper, lower = upper - mul(cross, t), lower + mul(cross, t)
    x = _turned(_turned(x, c, s).T.copy(), c, s)
    flat = x.reshape(-1)
    flat[: half * step : step], flat[half * step :: step] = upper, lower
    flat[half : half * len(x) : step] = flat[half * len(x) :: step] = 0
    return _moved(_moved(x).T.copy()), _moved(_turned(rows, c, s))


def _rotation(upper: Array, lower: Array, cross: Array) -> tuple[Array, Array, Array]:
    """Return tangents, cosines and sines of the smaller angles that make the crossing entries 0."""
    still: Array = cross == 0
    ratio = div(lower - upper, mul(np.where(still, np.ones_like(cross), cross), 2))
    t: Array = div(
        np.where(ratio < 0, -np.ones_like(ratio), np.ones_like(ratio)), np.abs(ratio) + sqrt(ratio * ratio + 1)
    )
    t = np.where(still, cross, t)
    c = rsqrt(t * t + 1)
    return t, c, mul(c, t)


def _turned(x: Array, c: Array, s: Array) -> Array:
    """Rotate each row of the first half of a matrix with that of the second half."""
    half, s, r = len(x) // 2, s[:, None], div(s, 1 + c)[:, None]
    above, below = x[:half], x[half:]
    return np.concatenate([above - mul(below + mul(above, r), s), below + mul(above - mul(below, r), s)])


def _moved(x: Array) -> Array:
    """Pass all rows but the first round, so that others lie half of the matrix apart; as a round of a tournament."""
    half = len(x) // 2
    if half < 2:
        return x
    return np.concatenate([x[:1], x[half : half + 1], x[1 : half - 1], x[half + 1 :], x[half - 1 : half]])


def orthogonal_factor(a: Array) -> Array:
    """Return Q of the QR decomposition of a square matrix, by Householder's reflections; signs of columns are free.

    Source: Golub and Van Loan, "Matrix computations", 4th edition, 2013, section 5.2.2.
    """
    x, normals = a.copy(), []
    for i in range(len(a) - 1):
        normals.append(_normal(x[i:, i]))
        _reflect(x[i:, i:], normals[i])
    q = identity(a, len(a))
    for i in reversed(range(len(normals))):
        _reflect(q[i:, i:], normals[i])
    return q


def _normal(x: Array) -> Array:
    """Return the unit vector such that reflection along it takes ``x`` to its first axis; zeros for zeros."""
    x = div(x, _largest(np.abs(x)))
    size = tree.norm(x)
    normal = x.copy()
    normal[0] += np.where(x[0] < 0, -size, size)
    size = tree.norm(normal)
    return div(normal, np.where(size == 0, np.ones_like(size), size))


def _reflect(x: Array, normal: Array) -> None:
    """Reflect the columns of a matrix, in place."""
    along = tree.sum_along(mul, normal[:, None], x, axis=0)
    x -= mul(mul(normal[:, None], along), 2)
