"""The types of array that can be optimized: NumPy's, and CuPy's where CuPy is loaded.

Nothing is imported to find out: an array tells by its type, and there is no array of a library that is not loaded.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.ma  # NumPy would import it at first use, and a child that is forked meanwhile would hang
from numpy.lib.array_utils import byte_bounds

from .arith import Array, DType

GPU = (2, 10)
"""DLPack's numbers of devices whose memory only CuPy takes: CUDA's and ROCm's."""


PAGE = 4096
"""Bytes of a page of memory."""

LARGE = 1 << 18
"""Bytes of an array from which on it matters where it begins, and a page more does not."""


class Place(NamedTuple):
    """The library of an array and the number of the GPU on which it lies, None for the memory of the computer."""

    package: str
    device: int | None

    def __str__(self) -> str:
        return self.package if self.device is None else f"{self.package} on cuda:{self.device}"


HOST = Place("NumPy", None)
"""Where NumPy's arrays lie."""


@cache
def gpu(device: int) -> Place:
    """Return where CuPy's arrays on a GPU lie."""
    return Place("CuPy", device)


def np_dtype(name: str) -> DType:
    """Return the dtype of a name, bfloat16 from ml_dtypes; raise ImportError if that is not installed."""
    dtype: DType = np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    return dtype


def loaded_cupy() -> Any:
    """Return the module of CuPy, or None if it is not loaded."""
    module = sys.modules.get("cupy")
    return module if hasattr(module, "ndarray") else None


def place(x: Any) -> Place | None:
    """Return where an array lies; None for what is no array of NumPy or CuPy."""
    if isinstance(x, np.ndarray):
        return HOST
    cupy = loaded_cupy()
    return gpu(x.data.device_id) if cupy is not None and isinstance(x, cupy.ndarray) else None


def on_gpu(x: Any) -> bool:
    """Tell whether ``x`` is an array on a GPU."""
    where = place(x)
    return where is not None and where.device is not None


def is_array(x: Any) -> bool:
    """Tell whether ``x`` is an array of NumPy, its masked arrays left out, or of CuPy."""
    return place(x) is not None and not isinstance(x, np.ma.MaskedArray)


def at(where: Place | None) -> AbstractContextManager[Any]:
    """Make the GPU of a place the current one inside a ``with`` block, so that CuPy works and allocates there."""
    if where is None or where.device is None:
        return nullcontext()
    context: AbstractContextManager[Any] = loaded_cupy().cuda.Device(where.device)
    return context


def is_current(where: Place) -> bool:
    """Tell whether CuPy works at a place as it is: it is the current GPU, or none."""
    return where.device is None or int(loaded_cupy().cuda.Device()) == where.device


def described(x: Any) -> str:
    """Say in a message what ``x`` is: the library and the GPU of an array, the type of anything else."""
    where = place(x)
    if where is None or isinstance(x, np.ma.MaskedArray):
        return type(x).__name__
    return "a NumPy array" if where is HOST else f"a CuPy array on cuda:{where.device}"


def is_writable(x: Array) -> bool:
    """Tell whether an array can be written to, as all of CuPy's can."""
    return bool(getattr(getattr(x, "flags", None), "writeable", True))


def owner(x: Array) -> Array:
    """Return the NumPy array whose memory ``x`` looks at; another array as it is."""
    while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
        x = x.base
    return x


def is_its_own(x: Array) -> bool:
    """Tell whether NumPy allocated the memory of an array for that array, so that only views of it can share that."""
    return isinstance(x, np.ndarray) and x.flags.owndata


def bounds(x: Array) -> tuple[int, int]:
    """Return the first address of an array and the one behind its last; memory of all devices has one numbering."""
    if isinstance(x, np.ndarray):
        low = x.__array_interface__["data"][0] if x.flags.c_contiguous else 0
        return (low, low + x.nbytes) if low else byte_bounds(x)
    low = high = int(x.data.ptr)
    if not x.size:
        return low, high
    if x.flags.c_contiguous:
        return low, high + int(x.nbytes)
    reaches = [(n - 1) * step for n, step in zip(x.shape, x.strides, strict=True)]
    return low + sum(min(0, r) for r in reaches), high + sum(max(0, r) for r in reaches) + x.itemsize


def layout_of(arrays: Sequence[Array]) -> Callable[[Array], tuple[Any, ...]]:
    """Return what tells of one of some arrays how it lies in its memory and whether it can be written to.

    Setting any of it shows.
    """
    own = {*map(type, arrays)} <= {np.ndarray}
    flags = ("flags.num",) if own else ("flags.c_contiguous", "flags.f_contiguous", "strides")
    return attrgetter("shape", "dtype", *flags)


def share_memory(x: Array, y: Array) -> bool:
    """Tell whether elements of two arrays share memory; where that takes too long to find out, say no."""
    if place(x) is not HOST or place(y) is not HOST:
        return place(x) == place(y) and bool(np.shares_memory(x, y))
    try:
        return np.shares_memory(x, y, max_work=1 << 20)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return False


def sharing(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Return the numbers of two arrays that share memory, if there are such."""
    reaching: list[tuple[int, int]] = []
    for low, high, i in sorted((*bounds(arrays[i]), i) for i in _suspects(arrays)):
        reaching = [(end, j) for end, j in reaching if end > low]
        for _, j in reaching:
            if share_memory(arrays[j], arrays[i]):
                return j, i
        reaching.append((high, i))
    return None


def _is_whole(x: Any) -> bool:
    """Tell whether an array is NumPy's, and all of the memory that NumPy allocated for it."""
    return type(x) is np.ndarray and x.base is None and x.flags.owndata


def _suspects(arrays: Sequence[Array]) -> list[int]:
    """Return the numbers of the arrays that look at memory which may not be theirs alone."""
    if all(map(_is_whole, arrays)) and len(set(map(id, arrays))) == len(arrays):
        return []
    owners = list(map(owner, arrays))
    many = Counter(map(id, owners))
    foreign = not all(map(is_its_own, owners))
    return [i for i, x in enumerate(owners) if (foreign or many[id(x)] > 1) and arrays[i].size]


def plain(x: Array) -> Array:
    """Return an array of a subclass of NumPy's as a plain one, CuPy's as they are."""
    return np.asarray(x) if isinstance(x, np.ndarray) else x


def copied(x: Array, dtype: DType | None = None) -> Array:
    """Return a plain copy of an array, made where the array lies, in another dtype perhaps."""
    with at(place(x)):
        return x.copy() if dtype is None else plain(x).astype(dtype)


def moved(x: Array, where: Place | None) -> Array:
    """Return a copy of an array, of the same layout, at another place."""
    if where is None or where is HOST:
        return np.array(x, copy=True, order="K") if isinstance(x, np.ndarray) else x.get()
    with at(where):
        if x.ndim == 0:  # CuPy makes 0 of an array without axes that holds -0
            return loaded_cupy().array(x.reshape(1), copy=True).reshape(())
        return loaded_cupy().array(x, copy=True, order="K")


def fill(x: Array, value: Any) -> None:
    """Write a number, or the elements of an array of the same library, into an array."""
    with at(place(x)):
        x[...] = value


def filled(like: Array, shape: tuple[int, ...], value: Any, dtype: DType | None = None) -> Array:
    """Make an array laid out like ``like`` where it lies, every element of it ``value``."""
    options: dict[str, Any] = {} if shape == like.shape else {"shape": shape}
    if dtype is not None:
        options["dtype"] = dtype
    if isinstance(like, np.ndarray):
        options["subok"] = False
    with at(place(like)), np.errstate(over="ignore", under="ignore"):
        if isinstance(like, np.ndarray) and shape == like.shape and dtype is None and like.nbytes >= LARGE:
            return _abreast(like, value)
        return np.full_like(like, value, **options) if value else np.zeros_like(like, **options)


def _abreast(like: Array, value: Any) -> Array:
    """Make an array that begins where ``like`` does in a page of memory.

    A kernel then writes whole lines of the caches in both, or in none; and a processor, which first compares places in
    pages, does not take what is read of one for what has just been written to the other.
    """
    strides = np.empty_like(like, subok=False).strides
    memory = (np.empty if value else np.zeros)(like.nbytes + PAGE, np.uint8)
    start = (like.ctypes.data - memory.ctypes.data) % PAGE
    start -= start % like.itemsize  # where ``like`` is not aligned
    made: Array = np.ndarray(like.shape, like.dtype, memory, start, strides)
    if value:
        made[...] = value
    return made


def handed_over(x: Any) -> Array:
    """Return the array that ``x`` hands over by DLPack, CuPy's if it lies on a GPU; raise TypeError if none can be."""
    kind = x.__dlpack_device__()[0] if hasattr(x, "__dlpack_device__") else None
    library = loaded_cupy() if kind in GPU else np
    if library is None:
        raise TypeError(f"{type(x).__name__} lies on a GPU, and CuPy is to take it: import cupy first")
    try:
        return library.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        name = "NumPy" if library is np else "CuPy"
        raise TypeError(f"{type(x).__name__} does not hand its memory over to {name}: {error}") from error


def check_together(name: str, x: Array, other: str, y: Array) -> None:
    """Raise TypeError or RuntimeError unless ``x`` lies where ``y`` does."""
    here, there = place(x), place(y)
    if here == there:
        return
    if here is not None and there is not None and here.package == there.package:
        raise RuntimeError(
            f"{name} has data located on a different device: {other} is on cuda:{there.device}, "
            f"{name} is on cuda:{here.device}"
        )
    advice = {"NumPy": "cupy.asnumpy", "CuPy": "cupy.asarray"}.get(there.package if there else "")
    hint = f": move it there with {advice}" if advice else ""
    raise TypeError(f"{name} must be {described(y)}, as {other} is, got {described(x)}{hint}")
