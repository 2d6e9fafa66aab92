"""Nested data as JSON and named arrays, and back, to the bit.

.. code-block:: text

    an array          {"$array": its name}             a tuple        {"$tuple": [items]}
    a NumPy scalar    {"$scalar": [dtype, bits]}       inf, -inf, nan {"$float": bits}
    a complex number  {"$complex": [bits, bits]}       bytes          {"$bytes": hexadecimal digits}
    a dict with other keys than texts, or with a key that begins with "$"      {"$items": [[key, value], ...]}

Texts, integers, real numbers, True, False, None, lists and other dicts are what they are in JSON. Bits are hexadecimal
digits, most significant first. Subclasses come back as the types they derive from.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from ..formats.raw import from_hex, to_hex
from ..formats.strict import WORD, FormatError, Layout, require, shown
from ..numerics.arith import Array
from ..numerics.array_types import is_array
from ..numerics.libraries import library_of, viewed
from ..step.parameter import Parameter

MAX_DEPTH = 40
"""How deep lists and dicts may stand in one another; half as deep where keys are no texts, which take more of JSON."""

MOST_ALIKE = 100
"""Keys of one dict that have one hash: with many, chosen such that they do, a dict takes for ever."""

ALIKE = f"more than {MOST_ALIKE} keys of a dict have one hash in Python, as multiples of 2**61 - 1 have"
"""What is wrong with them."""

MAX_BITS = 13_000
"""Bits of an integer, which as digits are less than Python and the reader of JSON take."""


class Writer:
    """Takes nested data apart.

    Attributes:
        arrays: the arrays met, by name: the path that leads to them, as ``optimizer.state.0.exp_avg``.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._names: dict[int, str] = {}
        self._again: defaultdict[str, Iterator[int]] = defaultdict(partial(count, 1))
        self._labels: dict[tuple[str, ...], dict[Any, str]] = {}
        self._kept: list[Any] = []  # so that no other object gets the id of one of them

    def write(self, x: Any, path: tuple[str, ...] = ()) -> Any:
        """Return data as JSON has it; raise TypeError for what cannot be saved, ValueError if it is nested too deep."""
        if len(path) > MAX_DEPTH:
            raise ValueError(f"{'.'.join(path[:4])}… is nested too deep: more than {MAX_DEPTH} levels")
        if x is None or isinstance(x, (bool, str)):
            return x
        x = x.data if isinstance(x, Parameter) else x
        for kind, write in WRITERS:
            if isinstance(x, kind):
                return write(self, x, path)
        if is_array(x) or (library_of(x) is not None and not isinstance(x, np.ndarray)):
            return {"$array": self._array(x, path)}
        raise TypeError(f"{_named(path)} cannot be saved: it is a {type(x).__name__}: {_cure(x)}")

    def _array(self, x: Any, path: tuple[str, ...]) -> str:
        """Return the name of an array; one that stands twice has one name."""
        if id(x) not in self._names:
            found = array_of(x, _named(path), WORD)
            plain = re.sub(r"[^\w.-]", "_", ".".join(path)[:200], flags=re.ASCII) or "data"
            again = self._again[plain]
            names = (f"{plain}~{i}" if i > 1 else plain for i in again)
            name = next(name for name in names if name not in self.arrays and name != "__metadata__")
            self.arrays[name], self._names[id(x)] = found, name
            self._kept.append(x)
        return self._names[id(x)]

    def _items(self, x: Mapping[Any, Any], path: tuple[str, ...]) -> Any:
        below = (*path, "state")
        self._labels[below] = _parameter_names(x)
        labels = self._labels.get(path, {})
        values = [self.write(value, (*path, labels.get(key, str(key)))) for key, value in x.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in x):
            return dict(zip(map(str.__str__, x), values, strict=True))
        if not _are_apart(x):
            raise ValueError(f"{_named(path)} cannot be saved: {ALIKE}; let them be texts")
        return {"$items": [[self._key(key, path), value] for key, value in zip(x, values, strict=True)]}

    def _key(self, key: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(key, (str, int, float, bool, type(None), np.generic)):
            problem = f"it has a key that is a {type(key).__name__}: make a text of it"
            raise TypeError(f"{_named(path)} cannot be saved: {problem}")
        return self.write(key, path)

    def _list(self, x: Any, path: tuple[str, ...]) -> list[Any]:
        return [self.write(y, (*path, str(i))) for i, y in enumerate(x)]

    def _tuple(self, x: Any, path: tuple[str, ...]) -> Any:
        return {"$tuple": self._list(x, path)}

    def _scalar(self, x: Any, path: tuple[str, ...]) -> Any:
        if x.dtype.name not in WORD:
            raise TypeError(f"{_named(path)} cannot be saved: it is a NumPy scalar of {x.dtype}{advice(x.dtype)}")
        return {"$scalar": [x.dtype.name, to_hex(np.asarray(x))]}

    def _float(self, x: float, path: tuple[str, ...]) -> Any:
        return float(x) if math.isfinite(x) else {"$float": _bits(x)}

    def _complex(self, x: complex, path: tuple[str, ...]) -> Any:
        return {"$complex": [_bits(x.real), _bits(x.imag)]}

    def _bytes(self, x: bytes, path: tuple[str, ...]) -> Any:
        return {"$bytes": x.hex()}

    def _int(self, x: int, path: tuple[str, ...]) -> int:
        if x.bit_length() > MAX_BITS:
            raise ValueError(f"{_named(path)} cannot be saved: it is an integer of more than {MAX_BITS} bits")
        return int(x)


WRITERS: list[tuple[Any, Callable[[Any, Any, tuple[str, ...]], Any]]] = [
    (np.generic, Writer._scalar),  # before float and complex, of which NumPy's are some
    (int, Writer._int),
    (float, Writer._float),
    (complex, Writer._complex),
    (bytes, Writer._bytes),
    (Mapping, Writer._items),
    (list, Writer._list),
    (tuple, Writer._tuple),
]


def _parameter_names(x: Mapping[Any, Any]) -> dict[Any, str]:
    """Return the names of the parameters by their numbers if ``x`` is a state dict of an optimizer that has names."""
    groups = x.get("param_groups")
    found: dict[Any, str] = {}
    for group in groups if isinstance(groups, (list, tuple)) else ():
        if isinstance(group, Mapping):
            pairs = zip(*(_items_of(group.get(key)) for key in ("params", "param_names")), strict=False)
            found.update((number, name) for number, name in pairs if type(number) is int and isinstance(name, str))
    return found


def _items_of(x: Any) -> Any:
    return x if isinstance(x, (list, tuple)) else ()


def _are_apart(keys: Iterable[Any]) -> bool:
    return max(Counter(map(hash, keys)).values(), default=0) <= MOST_ALIKE


def array_of(x: Any, name: str, known: Container[str]) -> Array:
    """Return the array of NumPy or CuPy that ``x`` is, or whose memory it hands over, if its dtype is a known one.

    Raises:
        TypeError: it cannot be saved; the message says what to do.
    """
    try:
        found = x if is_array(x) else viewed(x)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise TypeError(f"{name} cannot be saved: {error}") from None
    if found is None:
        raise TypeError(f"{name} cannot be saved: it is of the type {type(x).__name__}")
    if found.dtype.name not in known:
        raise TypeError(f"{name} cannot be saved: it is an array of {found.dtype}{advice(found.dtype)}")
    return found


def advice(dtype: np.dtype[Any]) -> str:
    """Say what to do with an array, or a scalar of NumPy, of a dtype that is not saved."""
    if dtype.kind in "OSTU":
        return ": save a list, x.tolist()"
    if dtype.kind in "Mm":
        return ": save its integers, x.view('int64')"
    if dtype.fields:
        return ": save its fields one by one"
    if dtype.type is np.void:
        return ": save its bytes, x.view('uint8')"
    wider = "complex128" if dtype.kind == "c" else "float64" if dtype.itemsize > 8 else "float32"
    return f": cast it, x.astype({'int8' if 'int' in dtype.name else wider!r})"


CURES = {
    **dict.fromkeys(("set", "frozenset", "range", "deque"), "make a list of it"),
    **dict.fromkeys(("PosixPath", "WindowsPath", "datetime", "date", "Decimal", "Fraction", "UUID"), "save str(x)"),
    "Namespace": "save vars(x)",
    "RandomState": "save x.get_state(), or use a numpy.random.Generator",
    "Random": "save x.getstate()",
    "MaskedArray": "save x.data and x.mask",
}
"""What to save in the place of things that people have, by the names of their types."""


def _cure(x: Any) -> str:
    """Say what to do with something that is not saved."""
    if is_dataclass(x):
        return "save dataclasses.asdict(x)"
    if isinstance(x, np.random.BitGenerator):
        return "save x.state, or a numpy.random.Generator of it"
    return CURES.get(type(x).__name__, "save what it holds as numbers and texts")


def _named(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the data"


def _bits(x: float) -> str:
    return struct.pack(">d", x).hex()


def read(x: Any, arrays: Mapping[str, Any]) -> Any:
    """Undo ``Writer.write``; raise FormatError for what it cannot have written."""
    if isinstance(x, list):
        return [read(y, arrays) for y in x]
    if not isinstance(x, dict):
        return x
    mark = next((key for key in x if key.startswith("$")), None)
    if mark is None:
        return {key: read(y, arrays) for key, y in x.items()}
    require(len(x) == 1 and mark in READERS, f"the tree has an entry that nobody has written: {shown(x)}")
    return READERS[mark](x[mark], arrays)


def _read_array(name: Any, arrays: Mapping[str, Any]) -> Any:
    require(isinstance(name, str) and name in arrays, f"the tree names an array that is not there: {shown(name)}")
    return arrays[name]


def _read_tuple(x: Any, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    require(isinstance(x, list), f"the tree has a tuple that is no list: {shown(x)}")
    return tuple(read(y, arrays) for y in x)


def _read_items(x: Any, arrays: Mapping[str, Any]) -> dict[Any, Any]:
    pairs = isinstance(x, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in x)
    require(pairs, f"the tree has items that are no pairs: {shown(x)}")
    keys = [read(key, arrays) for key, _ in x]
    plain = all(isinstance(key, (str, int, float, bool, type(None), np.generic)) for key in keys)
    require(plain, f"the tree has keys that are none: {shown(keys)}")
    require(_are_apart(keys), f"the tree is refused: {ALIKE}")
    require(len(set(keys)) == len(keys), f"the tree has equal keys: {shown(keys)}")
    return {key: read(y, arrays) for key, (_, y) in zip(keys, x, strict=True)}


def _read_scalar(x: Any, arrays: Mapping[str, Any]) -> Any:
    fits = isinstance(x, list) and len(x) == 2 and all(isinstance(part, str) for part in x)
    require(fits and x[0] in WORD, f"the tree has a number of an unknown dtype: {shown(x)}")
    try:
        return from_hex(x[1], Layout(x[0], ()))[()]
    except ValueError:
        raise FormatError(f"the tree has a number whose bits are none: {shown(x)}") from None


def _read_float(x: Any, arrays: Mapping[str, Any]) -> float:
    found: float = struct.unpack(">d", _from_hex(x, 8))[0]
    return found


def _read_complex(x: Any, arrays: Mapping[str, Any]) -> complex:
    require(isinstance(x, list) and len(x) == 2, f"the tree has a complex number that is no pair: {shown(x)}")
    return complex(_read_float(x[0], arrays), _read_float(x[1], arrays))


def _read_bytes(x: Any, arrays: Mapping[str, Any]) -> bytes:
    return _from_hex(x, None)


def _from_hex(x: Any, size: int | None) -> bytes:
    try:
        found = bytes.fromhex(x)
    except (TypeError, ValueError):
        raise FormatError(f"the tree has bits that are no hexadecimal digits: {shown(x)}") from None
    require(size is None or len(found) == size, f"the tree has a number of another size: {shown(x)}")
    return found


READERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "$array": _read_array,
    "$tuple": _read_tuple,
    "$items": _read_items,
    "$scalar": _read_scalar,
    "$float": _read_float,
    "$complex": _read_complex,
    "$bytes": _read_bytes,
}
