"""Sparse gradients in coordinate form."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from ..numerics.arith import Array, DType, storage, widen
from ..numerics.array_types import at, check_together, filled, on_gpu, place
from ..numerics.libraries import viewed
from .hyper import is_number


class SparseGrad:
    """A gradient that is zero except at some positions, in torch's COO layout.

    Args:
        indices: integers, shape ``(sparse_dim, nnz)``: column k holds the leading coordinates of entry k.
        values: shape ``(nnz, *shape[sparse_dim:])``: the entries, scalars or dense rows.
        shape: the shape of the dense gradient.
        check_invariants: whether to look at the values of ``indices`` that lie on a GPU, which waits for it, here and
            in each step. If not, what lies outside ``shape`` is taken modulo its length. Others are always looked at.

    Both are NumPy's, or both CuPy's on one device. An index may occur more than once; ``coalesce`` sums its values in
    the order in which they are stored.

    Raises:
        TypeError: ``indices`` are not integers, ``values`` have a dtype that is not supported, one is NumPy's and the
            other CuPy's, or ``shape`` is no tuple of integers.
        RuntimeError: ``indices`` and ``values`` are on different devices.
        ValueError: the shapes do not fit together, or an index lies outside ``shape``.
    """

    __slots__ = ("check_invariants", "indices", "shape", "values")

    def __init__(self, indices: Array, values: Array, shape: tuple[int, ...], *, check_invariants: bool = True) -> None:
        self.indices = _plain("indices", indices)
        self.values = _plain("values", values)
        check_together("indices", self.indices, "values", self.values)
        self.shape = _shape(shape)
        self.check_invariants = check_invariants
        self._check()

    def _check(self) -> None:
        indices, values, shape = self.indices, self.values, self.shape
        storage(values.dtype)
        if indices.size and indices.dtype.kind not in "iu":
            raise TypeError(f"indices must be integers, got dtype {indices.dtype}")
        if indices.ndim != 2 or not 1 <= len(indices) <= len(shape):
            raise ValueError(
                f"indices must have shape (sparse_dim, nnz) with 1 <= sparse_dim <= {len(shape)}, got {indices.shape}"
            )
        expected = (indices.shape[1], *shape[len(indices) :])
        if values.shape != expected:
            raise ValueError(f"values must have shape {expected}, got {values.shape}")
        if self.check_invariants or not on_gpu(indices):
            with at(place(indices)):
                self._check_range()

    def _check_range(self) -> None:
        """Raise ValueError if an index lies outside; a GPU is waited for once, unless one does."""
        rows = [(row, n) for row, n in zip(self.indices, self.shape, strict=False) if row.size]
        if not rows or not bool(np.stack([((row < 0) | (row >= n)).any() for row, n in rows]).any()):
            return
        for axis, (row, n) in enumerate(rows):
            outside = row[(row < 0) | (row >= n)]
            if outside.size:
                raise ValueError(f"indices[{axis}] must be in [0, {n}), got {int(outside[0])}")

    @property
    def dtype(self) -> DType:
        """The dtype of the values."""
        dtype: DType = self.values.dtype
        return dtype

    def coalesce(self) -> tuple[Array, Array]:
        """Return sorted row numbers and their values, those of one row added in the order in which they are stored.

        A row number counts in C order over the leading ``sparse_dim`` axes. Sums are made in the arithmetic type and
        rounded once.
        """
        with at(place(self.values)):
            rows = self._rows()
            unique, first, group = np.unique(rows, return_index=True, return_inverse=True)
            values = widen(self.values)
            sums = values[first]
            if len(unique) < len(rows):
                _add_rest(sums, values, first, group)
            return unique, sums.astype(self.dtype)

    def _rows(self) -> Array:
        """Return the row number of each entry."""
        leading = self.shape[: len(self.indices)]
        return np.ravel_multi_index(tuple(self.indices.astype(np.intp)), leading)

    def to_dense(self) -> Array:
        """Return the gradient as an array of ``shape``."""
        rows, values = self.coalesce()
        dense = filled(values, self.shape, 0)
        with at(place(values)):
            dense[np.unravel_index(rows, self.shape[: len(self.indices)])] = values
        return dense

    def __repr__(self) -> str:
        return f"SparseGrad(shape={self.shape}, nnz={self.indices.shape[1]}, dtype={self.dtype})"


def _of_torch(x: Any) -> SparseGrad | None:
    """Return a sparse tensor of torch, which shares its memory, as a SparseGrad; None for a dense one."""
    if str(x.layout) == "torch.strided":
        return None
    if str(x.layout) != "torch.sparse_coo":
        raise TypeError(
            f"a tensor must have the layout torch.strided or torch.sparse_coo, got {x.layout}: "
            "call to_dense() or to_sparse_coo()"
        )
    try:
        indices, values = (viewed(part) for part in (x._indices(), x._values()))
    except TypeError as error:
        raise TypeError(f"a sparse tensor cannot be taken, make a SparseGrad of its parts: {error}") from None
    return SparseGrad(indices, values, tuple(x.shape))


def _add_rest(sums: Array, values: Array, first: Array, group: Array) -> None:
    """Add the values that are not the first of their group to its sum, in order.

    On a GPU ``add.at`` adds in any order, so one value of each group is added at a time.
    """
    if isinstance(sums, np.ndarray):
        rest = np.delete(np.arange(len(values)), first)
        np.add.at(sums, group[rest], values[rest])
        return
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    for i in range(1, int(counts.max())):
        (longer,) = np.nonzero(counts > i)
        sums[longer] = sums[longer] + values[order[starts[longer] + i]]


def _plain(name: str, x: Any) -> Array:
    """Return a CuPy array as it is, another array, or nested lists, as a plain NumPy array."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array")
    if place(x) is not None and not isinstance(x, np.ndarray):
        return x
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array: {error}") from None


def _shape(shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of Python integers."""
    if not isinstance(shape, (tuple, list)) or not all(is_number(n, Integral) for n in shape):
        raise TypeError(f"shape must be a tuple of integers, got {shape!r}")
    if any(n < 0 for n in shape):
        raise ValueError(f"shape must hold integers in [0, inf), got {shape!r}")
    return tuple(int(n) for n in shape)


def as_sparse(x: Any) -> SparseGrad | None:
    """Return ``x`` as a SparseGrad if it is one, an array of scipy.sparse or of CuPy's or a tensor of torch's, or None.

    What is taken is checked.
    """
    if isinstance(x, SparseGrad):
        return SparseGrad(x.indices, x.values, x.shape, check_invariants=x.check_invariants)
    if hasattr(x, "layout") and hasattr(x, "to_sparse_coo"):
        return _of_torch(x)
    if not type(x).__module__.startswith(("scipy.sparse", "cupyx.scipy.sparse")) or not hasattr(x, "tocoo"):
        return None
    coo = x.tocoo()
    coords = coo.coords if hasattr(coo, "coords") else (coo.row, coo.col)
    return SparseGrad(np.stack(coords), coo.data, coo.shape)
