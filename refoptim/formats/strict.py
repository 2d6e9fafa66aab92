"""Reading what others wrote: files are measured before memory is made, and refused with one clear line.

Everything a file says is checked here or by its reader before it is used. Nothing is ever unpickled or run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..numerics.arith import COMPLEX, FLOATS

MAX_BEYOND_ASCII = 1 << 22
"""The largest JSON file with characters beyond ASCII: one of them makes every character of a text take four bytes."""

MAX_RANK = 32

MAX_DEPTH = 50
"""How deep lists and objects may stand in one another in JSON."""

WORD = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 4,
    "complex128": 8,
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
}
"""Bytes of a real number in each storage type."""


class FormatError(ValueError):
    """A file is not what it must be."""


class Limits(NamedTuple):
    """What a reader takes at most.

    Attributes:
        size: bytes of a file, and of the sum of what its arrays hold.
        json: bytes of a JSON file.
        header: bytes of a description in front of arrays.
        arrays: their number.
        entries: in a JSON text; every one takes a Python object.
        digits: of an integer in JSON.
        dtypes: the storage types of arrays.
        beyond_ascii: bytes of a JSON file with characters beyond ASCII.
    """

    size: int
    json: int
    header: int
    arrays: int
    entries: int
    digits: int
    dtypes: Collection[str]
    beyond_ascii: int = MAX_BEYOND_ASCII


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
    """Raise FormatError unless something holds."""
    if not holds:
        raise FormatError(problem)


def shown(x: Any) -> str:
    """Return something a file holds for a message: on one line, and not too long."""
    text = ascii(x)
    return text if len(text) <= 60 else f"{text[:57]}..."


def layout(dtype: Any, shape: Any, where: str, limits: Limits) -> Layout:
    """Check what a file says of an array, and that it is small enough to be made."""
    known = isinstance(dtype, str) and dtype in limits.dtypes
    require(known, f"{where} has dtype {shown(dtype)}, expected one of {', '.join(limits.dtypes)}")
    require(isinstance(shape, (list, tuple)) and len(shape) <= MAX_RANK, f"{where} has shape {shown(shape)}")
    require(all(is_count(n, limits.size) for n in shape), f"{where} has shape {shown(shape)}, more than can be read")
    found = Layout(dtype, tuple(shape))
    require(found.nbytes <= limits.size, f"{where} has shape {shown(shape)}, more than {limits.size} bytes")
    return found


def is_count(x: Any, most: int) -> bool:
    """Tell whether ``x`` is an integer from 0 to ``most``."""
    return type(x) is int and 0 <= x <= most


def is_float(dtype: Any) -> bool:
    """Tell whether ``dtype`` names a storage type of parameters."""
    return isinstance(dtype, str) and dtype in (*FLOATS, *COMPLEX)


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most ``most`` bytes, or raise FormatError."""
    size = check_size(path, most)
    with path.open("rb") as file:
        data = file.read(size + 1)
    require(len(data) <= size, f"{path.name} grows while it is read")
    return data


def read_json(path: Path, limits: Limits) -> Any:
    """Read a JSON file, or raise FormatError."""
    data = read_bytes(path, limits.json)
    most = limits.beyond_ascii
    plain = len(data) <= most or (data.isascii() and b"\\u" not in data)
    require(plain, f"{path.name} has characters beyond ASCII and more than {most} bytes: too many for both")
    _count(data, path.name, limits)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path.name} is not JSON: {error}") from None
    del data  # it is as large as the text
    return _parse(text, path.name, limits)


def read_object(path: Path, limits: Limits) -> dict[str, Any]:
    """Read a JSON file that holds an object, or raise FormatError."""
    found = read_json(path, limits)
    require(isinstance(found, dict), f"{path.name} holds no object")
    return dict(found)


def check_size(path: Path, most: int) -> int:
    """Return the size of a file, or raise FormatError if it is none or larger than ``most`` bytes."""
    require(path.is_file(), f"{path.name} is no file")
    size = path.stat().st_size
    require(size <= most, f"{path.name} has {size} bytes, more than the {most} that can be read")
    return size


def parse(data: bytes, where: str, limits: Limits) -> Any:
    """Read JSON: no name twice in an object, no NaN or infinity, few entries, no deep nesting, no endless integers."""
    _count(data, where, limits)
    try:
        return _parse(data.decode("utf-8"), where, limits)
    except UnicodeDecodeError as error:
        raise FormatError(f"{where} is not JSON: {error}") from None


def _count(data: bytes, where: str, limits: Limits) -> None:
    entries = sum(map(data.count, (b",", b"[", b"{")))
    require(entries <= limits.entries, f"{where} has more than {limits.entries} entries")


def _parse(text: str, where: str, limits: Limits) -> Any:
    integer = partial(_integer, limits.digits)
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_int=integer, parse_constant=_no_constant)
    except RecursionError:
        raise FormatError(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{where} is not JSON: {error}") from None
    require(_is_flat(found), f"{where} is nested too deeply: more than {MAX_DEPTH} lists and objects in one another")
    return found


def _is_flat(x: Any) -> bool:
    """Tell whether JSON is not too deep for the functions that write it again."""
    layer = [x]
    for _ in range(MAX_DEPTH + 1):
        layer = [y for each in layer for y in _members(each)]
        if not layer:
            return True
    return False


def _members(x: Any) -> Iterable[Any]:
    return x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, x in pairs:
        if key in found:
            raise ValueError(f"the name {shown(key)} stands twice in an object")
        found[key] = x
    return found


def _integer(most: int, digits: str) -> int:
    if len(digits) > most:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
