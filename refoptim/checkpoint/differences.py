"""Where two checkpoints differ: arrays by elements and units in the last place, plain data by value, to the bit."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..formats.raw import CHUNK
from ..numerics.arith import Array
from ..numerics.array_types import is_array
from .single import Progress


class Difference(NamedTuple):
    """One difference.

    Attributes:
        name: the path to an entry.
        what: what is different, in words.
        elements: how many elements of an array differ in their bits; None for anything but arrays of one form.
        size: the elements of the array.
        ulps: the most units in the last place between two elements; None for integers, and where one element is NaN.
    """

    name: str
    what: str
    elements: int | None = None
    size: int | None = None
    ulps: int | None = None


def differences(x: Any, y: Any, progress: Progress = int) -> Iterator[Difference]:
    """Yield where nested data differ, in the order of the first; lists and tuples of equal items are equal."""
    yield from _differences(x, y, (), progress)


def _differences(x: Any, y: Any, path: tuple[str, ...], progress: Progress) -> Iterator[Difference]:
    if is_array(x) and is_array(y):
        yield from _of_arrays(x, y, ".".join(path), progress)
    elif isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
        yield from _of_dicts(dict(enumerate(x)), dict(enumerate(y)), path, progress)
    elif isinstance(x, Mapping) and isinstance(y, Mapping):
        yield from _of_dicts(x, y, path, progress)
    elif _bits(x) != _bits(y):
        yield Difference(".".join(path), f"{_shown(x)}, {_shown(y)}")


def _of_dicts(
    x: Mapping[Any, Any], y: Mapping[Any, Any], path: tuple[str, ...], progress: Progress
) -> Iterator[Difference]:
    first, second = ({_bits(key): (str(key), value) for key, value in z.items()} for z in (x, y))
    for key in dict.fromkeys([*first, *second]):  # to Python, 1 and True are one key, and 0.0 and -0.0
        below = (*path, (first.get(key) or second[key])[0])
        if key in first and key in second:
            yield from _differences(first[key][1], second[key][1], below, progress)
        else:
            yield Difference(".".join(below), "only in the first" if key in first else "only in the second")


def _of_arrays(x: Array, y: Array, name: str, progress: Progress) -> Iterator[Difference]:
    if (x.dtype, x.shape) != (y.dtype, y.shape):
        yield Difference(name, f"{_shown(x)}, {_shown(y)}")
        return
    differing, ulps, comparable = 0, 0, x.dtype.kind in "fcV"
    for one, other in zip(_pieces(x), _pieces(y), strict=True):
        elements, most = _compared(one, other)
        differing, comparable = differing + elements, comparable and most is not None
        ulps = max(ulps, most or 0)
        progress(one.nbytes + other.nbytes)
    if differing:
        yield Difference(name, "elements", differing, x.size, ulps if comparable else None)


def _pieces(x: Array) -> Iterator[Array]:
    n = CHUNK // x.itemsize
    flat = x.reshape(-1) if x.flags.c_contiguous else x.flat
    return (np.ascontiguousarray(flat[i : i + n]) for i in range(0, x.size, n))


def _compared(x: Array, y: Array) -> tuple[int, int | None]:
    """Return how many elements differ, and by how many units at most: None if that has no meaning."""
    reals = 2 if x.dtype.kind == "c" else 1
    word = f"u{x.itemsize // reals}"
    a, b = x.view(word), y.view(word)
    different = (a != b).reshape(-1, reals).any(axis=1)
    if not different.any() or x.dtype.kind not in "fcV":
        return int(np.count_nonzero(different)), 0
    a, b = (z.reshape(-1, reals)[different] for z in (a, b))
    if _is_nan(a, x).any() or _is_nan(b, y).any():
        return int(np.count_nonzero(different)), None
    a, b = _ordered(a), _ordered(b)
    return int(np.count_nonzero(different)), int((np.maximum(a, b) - np.minimum(a, b)).max())


def _ordered(words: Array) -> Array:
    """Return the bits of reals as 64-bit unsigned integers in the order of the reals, -0 and 0 being one."""
    size = 8 * words.dtype.itemsize
    half, wide = np.uint64(1 << 63), words.astype(np.uint64)
    magnitude = wide & np.uint64((1 << (size - 1)) - 1)
    found: Array = np.where(wide >> np.uint64(size - 1), half - magnitude, half + magnitude)
    return found


def _is_nan(words: Array, x: Array) -> Array:
    reals = words.view(x.real.dtype if x.dtype.kind == "c" else x.dtype)
    return np.isnan(reals)


def _bits(x: Any) -> Any:
    """Return something by which plain data are compared, to the bit."""
    if isinstance(x, np.generic):
        return x.dtype.name, x.tobytes()
    if isinstance(x, (float, complex)):
        return type(x), struct.pack("<dd", complex(x).real, complex(x).imag)
    return type(x), (repr(x) if isinstance(x, (Mapping, list, tuple)) or is_array(x) else x)


def _shown(x: Any) -> str:
    if is_array(x):
        return f"{x.dtype} {' x '.join(map(str, x.shape))}".rstrip()
    text = "a list" if isinstance(x, (list, tuple)) else "a dict" if isinstance(x, Mapping) else ascii(x)
    return text if len(text) <= 60 else f"{text[:57]}..."
