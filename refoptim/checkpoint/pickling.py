"""Writes nested data as a pickle of protocol 2 that makes tensors of torch; their numbers stand beside it."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pickle import encode_long
from struct import pack
from typing import Any

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import HOST, bounds, is_array, place, plain
from ..numerics.libraries import library_of
from ..step.parameter import Parameter
from .nested import array_of
from .pickled import DEEPEST, LONGEST, MOST_BYTES, WIDEST, allowed
from .torch_names import NEWER, STORAGES, UNTYPED

CLASSES = {dtype: name for name, dtype in STORAGES.items()} | dict.fromkeys(NEWER.values(), UNTYPED)
"""The class of the storage of each dtype."""

Path = tuple[Any, ...]


class Pickle:
    """The pickle of nested data.

    Attributes:
        data: its bytes.
        arrays: the arrays whose elements, in C order, are the storages; the number of each is its key.
    """

    def __init__(self, nested: Any) -> None:
        self.arrays: list[Array] = []
        self._pieces = [b"\x80\x02"]
        self._memo: dict[bytes, int] = {}
        self._met: dict[Any, int] = {}
        self._write(nested, ())
        self.data = b"".join([*self._pieces, b"."])
        self._check_length(allowed(sum(x.nbytes for x in self.arrays)))

    def _check_length(self, most: int) -> None:
        if len(self._pieces) >= most or sum(map(len, self._pieces)) > MOST_BYTES:
            raise ValueError(f"{most} numbers and texts or more are too many: put long lists of numbers into arrays")

    def _write(self, x: Any, path: Path) -> None:
        if len(path) > DEEPEST:
            raise ValueError(f"{_named(path[:4])}… is nested too deep: more than {DEEPEST} levels")
        if len(self._pieces) > MOST_BYTES // 8:  # the same list in lists in lists
            self._check_length(MOST_BYTES // 8)
        for kind, write in WRITERS:
            if isinstance(x, kind):
                return write(self, x, path)
        return self._array(x, path)

    def _put(self, *opcodes: bytes) -> None:
        self._pieces += opcodes

    def _once(self, opcode: bytes) -> None:
        """Write what may be met again: the first time as it is, and then by its number in the memo."""
        known = opcode in self._memo
        number = self._memo.setdefault(opcode, len(self._memo))
        codes = "hj" if known else "qr"
        self._put(*([] if known else [opcode]), _counted(codes, number))

    def _name(self, name: str) -> None:
        self._once(f"c{name}\n".replace(" ", "\n").encode())

    def _none(self, x: None, path: Path) -> None:
        self._put(b"N")

    def _bool(self, x: bool, path: Path) -> None:
        self._put(b"\x88" if x else b"\x89")

    def _text(self, x: str, path: Path = ()) -> None:
        data = x.encode("utf-8", "surrogatepass")
        self._once(b"X" + pack("<I", len(data)) + data)

    def _int(self, x: int, path: Path = ()) -> None:
        if 0 <= x < 1 << 16:
            self._put(pack("<cB", b"K", x) if x < 256 else pack("<cH", b"M", x))
        elif -1 << 31 <= x < 1 << 31:
            self._put(pack("<ci", b"J", x))
        else:
            data = encode_long(int(x))
            if len(data) > LONGEST:
                raise ValueError(f"{_named(path)} cannot be saved: an integer of more than {LONGEST} bytes")
            self._put(pack("<cB", b"\x8a", len(data)) + data)

    def _float(self, x: float, path: Path = ()) -> None:
        self._put(pack(">cd", b"G", x))

    def _complex(self, x: complex, path: Path) -> None:
        self._name("__builtin__ complex")
        self._float(x.real)
        self._float(x.imag)
        self._put(b"\x86", b"R")

    def _bytes(self, x: bytes, path: Path) -> None:
        self._name("_codecs encode")
        self._text(x.decode("latin-1"))
        self._text("latin1")
        self._put(b"\x86", b"R")

    def _items(self, x: Mapping[Any, Any], path: Path) -> None:
        """Put keys and values into the dict that is on the stack."""
        self._put(b"(")
        for key, y in x.items():
            self._write(_key(key, path), path)
            self._write(y, (*path, key))
        self._put(b"u")

    def _dict(self, x: Mapping[Any, Any], path: Path) -> None:
        self._put(b"}")
        self._items(x, path)

    def _ordered(self, x: Mapping[Any, Any], path: Path) -> None:
        self._empty_ordered()
        self._items(x, path)

    def _empty_ordered(self) -> None:
        self._name("collections OrderedDict")
        self._put(b")", b"R")

    def _counter(self, x: Mapping[Any, Any], path: Path) -> None:
        self._name("collections Counter")
        self._dict(x, path)
        self._put(b"\x85", b"R")

    def _list(self, x: Iterable[Any], path: Path) -> None:
        self._put(b"]", b"(")
        for i, y in enumerate(x):
            self._write(y, (*path, i))
        self._put(b"e")

    def _tuple(self, x: Iterable[Any], path: Path = ()) -> None:
        self._put(b"(")
        for i, y in enumerate(x):
            self._write(y, (*path, i))
        self._put(b"t")

    def _set(self, x: Iterable[Any], path: Path) -> None:
        self._name("__builtin__ set")
        self._list(sorted((_key(y, path) for y in x), key=repr), path)
        self._put(b"\x85", b"R")

    def _parameter(self, x: Parameter, path: Path) -> None:
        self._array(x.data, path)

    def _array(self, x: Any, path: Path) -> None:
        found = _as_array(x, path)
        dtype = found.dtype.name
        newer = CLASSES[dtype] == UNTYPED
        self._name(f"torch._utils _rebuild_tensor_v{3 if newer else 2}")
        self._put(b"(", b"(")
        self._text("storage")
        self._name(CLASSES[dtype])
        self._text(str(self._number(found)))
        self._text("cpu")
        self._int(found.nbytes if newer else found.size)
        self._put(b"t", b"Q", b"K\0")
        self._tuple(found.shape)
        self._tuple(math.prod(found.shape[i + 1 :]) for i in range(found.ndim))
        self._put(b"\x89")
        self._empty_ordered()
        if newer:
            self._name(f"torch {dtype}")
        self._put(b"t", b"R")

    def _number(self, x: Array) -> int:
        """Return the number of an array, the same for arrays that are the same memory."""
        same = (place(x), bounds(x), x.shape, x.strides, x.dtype.name) if x.size else len(self.arrays)
        number = self._met.setdefault(same, len(self.arrays))
        if number == len(self.arrays):
            self.arrays.append(x)
        return number


Write = Callable[[Pickle, Any, Path], None]

WRITERS: list[tuple[Any, Write]] = [
    (type(None), Pickle._none),
    (bool, Pickle._bool),
    (str, Pickle._text),
    (bytes, Pickle._bytes),
    (np.generic, Pickle._array),  # before float and complex, of which NumPy's are some
    (int, Pickle._int),
    (float, Pickle._float),
    (complex, Pickle._complex),
    (OrderedDict, Pickle._ordered),
    (Counter, Pickle._counter),
    (Mapping, Pickle._dict),
    (list, Pickle._list),
    (tuple, Pickle._tuple),
    (set, Pickle._set),
    (Parameter, Pickle._parameter),
]


def _counted(codes: str, number: int) -> bytes:
    """Return the opcode of a place in the memo, which is another one for large numbers."""
    short, long = codes.encode()[:1], codes.encode()[1:]
    return pack("<cB", short, number) if number < 256 else pack("<cI", long, number)


def _key(key: Any, path: Path) -> Any:
    """Return a key as Python's own number or text; raise TypeError for another."""
    plain = key.item() if isinstance(key, np.generic) else key
    if not isinstance(plain, (str, int, float, bool, type(None))):
        raise TypeError(f"{_named(path)} cannot be saved: it has a key that is no text and no number, but {key!r:.60}")
    if isinstance(plain, int) and plain.bit_length() > WIDEST:
        raise TypeError(f"{_named(path)} cannot be saved: it has a key of more than {WIDEST} bits: make a text of it")
    return plain


def _as_array(x: Any, path: Path) -> Array:
    """Return an array of NumPy or CuPy whose dtype torch knows, or raise TypeError."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{_named(path)} cannot be saved: it is a masked array")
    if isinstance(x, np.generic):
        x = np.asarray(x)
    if not is_array(x) and library_of(x) is None:
        raise TypeError(f"{_named(path)} cannot be saved: it is of the type {type(x).__name__}")
    found = array_of(x, _named(path), CLASSES)
    if found.dtype == np.bool_ and place(found) is HOST and plain(found).view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"{_named(path)} cannot be saved: it has bools whose bytes are neither 0 nor 1")
    return found


def _named(path: Path) -> str:
    return ".".join(map(str, path)) or "the data"
