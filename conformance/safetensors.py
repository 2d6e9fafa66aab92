"""safetensors: the length of a header as eight bytes, little-endian, the header as JSON, the bytes of the arrays.

The format knows strings of metadata only: our header is the one of the name ``header``, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refoptim.numerics.arith import Array

from .strict import MAX_BYTES, MAX_HEADER, MAX_TENSORS, check_size, layout, parse, require, shown
from .words import from_bytes, layout_of, to_words

CODE = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "int64": "I64",
}
DTYPE = {code: dtype for dtype, code in CODE.items()}


def encode(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a file, or raise ValueError for complex128, which the format does not know."""
    table: dict[str, Any] = {"__metadata__": {"header": json.dumps(header)}}
    end = 0
    for name, x in tensors.items():
        if x.dtype.name not in CODE:
            raise ValueError(f"safetensors holds no {x.dtype.name}: choose npz, json or csv")
        begin, end = end, end + layout_of(x).nbytes
        table[name] = {"dtype": CODE[x.dtype.name], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(to_words(x).tobytes() for x in tensors.values())


def decode(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read a file."""
    size = check_size(path, MAX_BYTES + MAX_HEADER)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        require(size >= 8 and length <= min(MAX_HEADER, size - 8), f"{path.name} is no safetensors file, or cut off")
        table = parse(file.read(length), f"{path.name}: its header")
        require(isinstance(table, dict) and len(table) <= MAX_TENSORS, f"{path.name} has no table of arrays")
        header = parse(_metadata(table, path.name), f"{path.name}: the metadata 'header'")
        layouts = _layouts(table, size - 8 - length, path.name)
        return header, {name: from_bytes(file.read(x.nbytes), x) for name, x in layouts.items()}


def _metadata(table: dict[str, Any], where: str) -> bytes:
    found = table.pop("__metadata__", None)
    require(isinstance(found, dict) and isinstance(found.get("header"), str), f"{where} has no metadata 'header'")
    return str(found["header"]).encode()


def _layouts(table: Mapping[str, Any], room: int, where: str) -> dict[str, Any]:
    """Check that the arrays lie one behind the other and fill the file, and return their layouts in that order."""
    layouts, place = {}, 0
    for name, entry in sorted(table.items(), key=lambda item: _begin(item, where)):
        here = f"{where}: {shown(name)}"
        require(set(entry) == {"dtype", "shape", "data_offsets"}, f"{here} is described by {shown(sorted(entry))}")
        code = entry["dtype"]
        require(isinstance(code, str) and code in DTYPE, f"{here} has dtype {shown(code)}")
        layouts[name] = layout(DTYPE[code], entry["shape"], here)
        begin, place = place, place + layouts[name].nbytes
        require(entry["data_offsets"] == [begin, place], f"{here} does not lie where its shape says")
    require(place == room, f"{where} holds {room} bytes of arrays, its table says {place}")
    return layouts


def _begin(item: tuple[str, Any], where: str) -> tuple[int, int]:
    """Return where an array begins and ends."""
    offsets = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    fits = isinstance(offsets, list) and len(offsets) == 2 and all(type(x) is int for x in offsets)
    require(fits, f"{where}: {shown(item[0])} has no data_offsets")
    assert isinstance(offsets, list)
    return offsets[0], offsets[1]
