"""Reading what others wrote: files are measured before memory is made, and refused with one clear line.

Everything a file says is checked here or by its reader before it is used. Nothing is ever unpickled or run. Whatever a
file holds, reading it takes no more memory than a small multiple of ``MAX_BYTES``, and most hostile ones none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from refoptim.numerics.arith import COMPLEX, FLOATS

MAX_BYTES = 1 << 28
"""The largest file, and the largest sum of what its arrays hold."""

MAX_TEXT = 1 << 26
"""The largest JSON file."""

MAX_HEADER = 1 << 20
"""The largest description in front of arrays."""

MAX_TENSORS = 4096
MAX_RANK = 32

MAX_TOKENS = 200_000
"""Entries in a JSON text: every one takes a Python object. A golden has few, its numbers stand in long strings."""

MAX_DIGITS = 20
"""Digits of an integer in JSON."""

WORD = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 4, "complex128": 8, "int64": 8}
"""Bytes of a real number in each storage type."""


class GoldenError(ValueError):
    """A file is no golden, or not as it was recorded."""


class Layout(NamedTuple):
    """The storage type and the shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def words(self) -> int:
        """The number of reals; a complex number is two."""
        return math.prod(self.shape) * (2 if self.dtype in COMPLEX else 1)

    @property
    def nbytes(self) -> int:
        """The bytes that the elements take."""
        return self.words * WORD[self.dtype]


def require(holds: bool, problem: str) -> None:
    """Raise GoldenError unless something holds."""
    if not holds:
        raise GoldenError(problem)


def shown(x: Any) -> str:
    """Return something a file holds for a message: on one line, and not too long."""
    text = ascii(x)
    return text if len(text) <= 60 else f"{text[:57]}..."


def layout(dtype: Any, shape: Any, where: str) -> Layout:
    """Check what a file says of an array, and that it is small enough to be made."""
    require(
        isinstance(dtype, str) and dtype in WORD, f"{where} has dtype {shown(dtype)}, expected one of {', '.join(WORD)}"
    )
    require(isinstance(shape, (list, tuple)) and len(shape) <= MAX_RANK, f"{where} has shape {shown(shape)}")
    require(all(is_count(n, MAX_BYTES) for n in shape), f"{where} has shape {shown(shape)}, more than can be read")
    found = Layout(dtype, tuple(shape))
    require(found.nbytes <= MAX_BYTES, f"{where} has shape {shown(shape)}, more than {MAX_BYTES} bytes")
    return found


def is_count(x: Any, most: int) -> bool:
    """Tell whether ``x`` is an integer from 0 to ``most``."""
    return type(x) is int and 0 <= x <= most


def is_float(dtype: Any) -> bool:
    """Tell whether ``dtype`` names a storage type of parameters."""
    return isinstance(dtype, str) and dtype in (*FLOATS, *COMPLEX)


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most ``most`` bytes, or raise GoldenError."""
    check_size(path, most)
    with path.open("rb") as file:
        data = file.read(most + 1)
    require(len(data) <= most, f"{path.name} has more than {most} bytes")
    return data


def check_size(path: Path, most: int) -> int:
    """Return the size of a file, or raise GoldenError if it is none or larger than ``most`` bytes."""
    require(path.is_file(), f"{path.name} is no file")
    size = path.stat().st_size
    require(size <= most, f"{path.name} has {size} bytes, more than the {most} that can be read")
    return size


def parse(data: bytes, where: str) -> Any:
    """Read JSON: no name twice in an object, no NaN or infinity, few entries, no deep nesting, no endless integers."""
    require(sum(map(data.count, (b",", b"[", b"{"))) <= MAX_TOKENS, f"{where} has more than {MAX_TOKENS} entries")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant
        )
    except RecursionError:
        raise GoldenError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise GoldenError(f"{where} is not JSON: {error}") from None


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, x in pairs:
        if key in found:
            raise ValueError(f"the name {shown(key)} stands twice in an object")
        found[key] = x
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
