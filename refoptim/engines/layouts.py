"""Whether arrays lie in memory as they did, and can be written to, which each step that is repeated asks of them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache, partial
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import layout_of
from . import host

HEAD = object.__basicsize__
"""Bytes that every object begins with."""


class Layouts(Protocol):
    """How some arrays lie."""

    def hold(self, arrays: Sequence[Array]) -> bool:
        """Tell whether these arrays, the same objects, lie as they did."""


def layouts(arrays: Sequence[Array]) -> Layouts:
    """Return how arrays lie now; they are not kept alive."""
    look = _looks(host.compiled())
    if look is None or not {*map(type, arrays)} <= {np.ndarray}:
        return Described(arrays)
    return Headers(look, arrays)


class Described:
    """Layouts as the attributes of arrays say them."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.look = layout_of(arrays)
        self.seen = list(map(self.look, arrays))

    def hold(self, arrays: Sequence[Array]) -> bool:
        """Tell whether these arrays, the same objects, lie as they did."""
        return [*map(self.look, arrays)] == self.seen


class Headers:
    """Layouts as they stand in the objects of NumPy.

    Args:
        look: the functions of ``kernels/host/layouts.cpp``: one writes layouts down, the other compares.
        arrays: arrays of NumPy, of no class derived from it.
    """

    def __init__(self, look: tuple[Any, Any], arrays: Sequence[Array]) -> None:
        writes, compares = look
        self.objects = np.fromiter(map(id, arrays), np.uintp, len(arrays))
        self.dtypes = list(map(attrgetter("dtype"), arrays))  # so that no other one is made where one was
        where = self.objects.ctypes.data, len(arrays), HEAD
        self.words = np.empty(writes(*where, None), np.intp)
        writes(*where, self.words.ctypes.data)
        self.seen = np.array([*where, self.words.ctypes.data], np.uintp)
        self.lie_so = partial(compares, ctypes.c_void_p(self.seen.ctypes.data))

    def hold(self, arrays: Sequence[Array]) -> bool:
        """Tell whether these arrays, the same objects, lie as they did."""
        return bool(self.lie_so())


@cache
def _looks(library: ctypes.CDLL | None) -> tuple[Any, Any] | None:
    """Return the functions that read the objects of NumPy; None where there are none, or objects look otherwise."""
    if library is None or sys.implementation.name != "cpython" or not _has_lock():
        return None
    locked = ctypes.PyDLL(library._name)  # no other thread may change an object while it is read
    look = locked.refoptim_layouts, locked.refoptim_lie_so
    look[0].argtypes = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_void_p
    look[0].restype, look[1].restype = ctypes.c_ssize_t, ctypes.c_int  # the latter is given what needs no conversion
    x = np.zeros((3, 1, 2), np.float32)[:, :, ::-1]
    expected = x.ndim, x.ctypes.data, id(x.dtype), x.flags.num
    axes = (word for pair in zip(x.shape, x.strides, strict=True) for word in pair)
    return look if Headers(look, [x]).words.tolist() == [*expected, *axes] else None


def _has_lock() -> bool:
    """Tell whether Python lets one thread at a time touch its objects."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()
