"""Parameter: an array and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arith import Array, DType, storage


class Parameter:
    """An array to be optimized in place, and its gradient.

    Args:
        data: a NumPy array (or anything that hands over its memory by DLPack) of dtype float16, bfloat16, float32,
            float64, complex64 or complex128. It is kept, not copied, and an optimizer writes into it.
        grad: the gradient of the loss with respect to ``data``, of the same shape and dtype, dense or sparse.
        name: a name for messages and state dicts.

    Raises:
        TypeError: ``data`` is no array, or its dtype is not one of those above.
        ValueError: ``data`` is read-only.
    """

    __slots__ = ("__weakref__", "data", "grad", "name")

    def __init__(self, data: Array, grad: Any = None, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, got {name!r}")
        self.data = as_array(data)
        storage(self.data.dtype)
        check_writable(self.data)
        self.grad = grad
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> DType:
        """The dtype of the array."""
        dtype: DType = self.data.dtype
        return dtype

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"Parameter(shape={self.shape}, dtype={self.dtype}{name})"


def as_array(x: Any) -> Array:
    """Return the NumPy array that ``x`` is or hands over by DLPack, sharing its memory; raise TypeError otherwise."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("a masked array cannot be optimized: pass its data and mask the gradient")
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return np.from_dlpack(x)
    raise TypeError(f"optimizer can only optimize arrays, but one of the params is {type(x).__name__}")


def check_writable(x: Array) -> None:
    """Raise ValueError if the array ``x`` cannot be written to."""
    if not x.flags.writeable:
        raise ValueError("optimizer can only optimize writable arrays, but one of the params is read-only")


def as_parameter(x: Any) -> Parameter:
    """Wrap an array in a Parameter; return a Parameter as it is."""
    return x if isinstance(x, Parameter) else Parameter(x)
