"""Arrays as the bytes that stand in files: in C order, little-endian, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import np_dtype as np_dtype
from .strict import WORD, Layout

CHUNK = 1 << 24
"""Bytes of a piece in which an array is written and read."""


def layout_of(x: Array) -> Layout:
    """Return the storage type and the shape of an array."""
    return Layout(x.dtype.name, tuple(x.shape))


def words(x: Array) -> Array:
    """Return the elements of a NumPy array as a vector of unsigned integers, little-endian; a complex number is two."""
    kind = f"u{WORD[x.dtype.name]}"
    found = np.ascontiguousarray(x, x.dtype.newbyteorder("=")).reshape(-1).view(kind)
    return found.astype(f"<{kind}", copy=False)


def from_words(buffer: Any, found: Layout, begin: int = 0) -> Array:
    """Return the array that stands in a buffer from byte ``begin``; it shares the buffer's memory."""
    bits = np.frombuffer(buffer, f"<u{WORD[found.dtype]}", found.words, begin) if found.words else np.zeros(0, "u1")
    native = bits.astype(bits.dtype.newbyteorder("="), copy=False)
    return native.view(np_dtype(found.dtype)).reshape(found.shape)


def to_hex(x: Array) -> str:
    """Return the bits of the elements of an array, most significant first."""
    found = words(x)
    data: bytes = found.astype(found.dtype.newbyteorder(">")).tobytes()
    return data.hex()


def from_hex(text: str, found: Layout) -> Array:
    """Undo ``to_hex``; raise ValueError if the digits are not those of such an array."""
    if len(text) != 2 * found.nbytes:
        raise ValueError("other bits than the shape needs")
    kind = WORD[found.dtype]
    return from_words(np.frombuffer(bytes.fromhex(text), f">u{kind}").astype(f"<u{kind}"), found)


def pieces(x: Array) -> Iterator[memoryview]:
    """Yield the bytes of a NumPy array in pieces of ``CHUNK``; of an array in another order each is a copy."""
    if not x.size:
        return
    if x.flags.c_contiguous and x.dtype.isnative:
        data = memoryview(words(x)).cast("B")
        yield from (data[i : i + CHUNK] for i in range(0, len(data), CHUNK))
    else:
        n = CHUNK // x.itemsize
        yield from (memoryview(words(x.flat[i : i + n])).cast("B") for i in range(0, x.size, n))
