"""Arrays as words: each real number as the unsigned integer of its bits, NaN as one pattern, little-endian."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from refoptim.formats.raw import layout_of as layout_of
from refoptim.formats.raw import np_dtype
from refoptim.numerics.arith import Array, from_reals, storage

from .strict import WORD, GoldenError, Layout, require
from .trajectory import bits

DIGITS = frozenset("0123456789abcdef")


def to_words(x: Array) -> Array:
    """Return the elements of an array as a vector of words; a complex number is two."""
    with np.errstate(invalid="ignore"):
        words = x.view(np.uint64) if x.dtype.kind == "i" else bits(x)
    return np.ascontiguousarray(words, words.dtype.newbyteorder("<")).reshape(-1)


def from_words(words: Array, found: Layout) -> Array:
    """Undo ``to_words``."""
    if found.dtype == "int64":
        return words.astype(np.uint64).view(np.int64).reshape(found.shape)
    if found.dtype == "uint8":
        return words.astype(np.uint8).reshape(found.shape)
    dtype = np_dtype(found.dtype)
    pair = (2,) if dtype.kind == "c" else ()
    reals = words.astype(words.dtype.newbyteorder("=")).view(storage(dtype))
    return from_reals(reals.reshape((*found.shape, *pair)), dtype)


def from_bytes(data: bytes, found: Layout) -> Array:
    """Make an array of its little-endian bytes."""
    return from_words(np.frombuffer(data, f"<u{WORD[found.dtype]}"), found)


def to_hex(x: Array) -> str:
    """Write an array as hexadecimal digits, most significant first, a space between two words."""
    words = to_words(x)
    data: bytes = words.astype(words.dtype.newbyteorder(">")).tobytes()
    return data.hex(" ", words.dtype.itemsize)


def from_hex(text: str, found: Layout, where: str) -> Array:
    """Undo ``to_hex``, or raise GoldenError if the digits are not those of such an array."""
    size = WORD[found.dtype]
    require(len(text) == max(0, found.words * (2 * size + 1) - 1), f"{where} has other bits than its shape needs")
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise GoldenError(f"{where} has bits that are no hexadecimal digits") from None
    require(len(data) == found.nbytes, f"{where} has other bits than its shape needs")
    require(data.hex(" ", size) == text, f"{where} has bits that are not written as words with a space between any two")
    return from_words(np.frombuffer(data, f">u{size}").astype(f"<u{size}"), found)


def read_word(text: str, size: int) -> int | None:
    """Read a word of ``size`` bytes from its hexadecimal digits, 0 … 9 and a … f; None if it is not written so."""
    return int(text, 16) if len(text) == 2 * size and set(text) <= DIGITS else None


def digest(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 of a header, as JSON with sorted keys and no spaces, and of arrays.

    The header ends with a line feed. Of each array, by name, follow a line of text, the name, the dtype and the extents
    with a space between any two, and then its words.
    """
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    found = hashlib.sha256(f"{text}\n".encode("ascii"))
    for name, x in sorted(tensors.items()):
        found.update((" ".join([name, x.dtype.name, *map(str, x.shape)]) + "\n").encode("ascii"))
        found.update(to_words(x).data)
    return found.hexdigest()
