"""safetensors: the length of a header as eight bytes, little-endian, the header as JSON, the bytes of the arrays.

The header says of each array its dtype, its shape, and where its bytes lie behind the header; under ``__metadata__`` it
holds texts by name. The arrays lie one behind the other, in C order, and fill the file.

Source: the format's description at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from .strict import Layout, Limits, layout, parse, require, shown

CODE = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
DTYPE = {code: dtype for dtype, code in CODE.items()}


class Place(NamedTuple):
    """An array of a file: its layout, and where in the file it begins."""

    layout: Layout
    begin: int


def header(metadata: Mapping[str, str], layouts: Mapping[str, Layout]) -> bytes:
    """Return what stands in front of the arrays; raise ValueError for a dtype that the format does not know."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, found in layouts.items():
        if found.dtype not in CODE:
            raise ValueError(f"safetensors holds no {found.dtype}: choose npz or json")
        begin, end = end, end + found.nbytes
        table[name] = {"dtype": CODE[found.dtype], "shape": list(found.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(file: BinaryIO, size: int, where: str, limits: Limits) -> tuple[dict[str, Any], dict[str, Place]]:
    """Return the metadata of a file of ``size`` bytes, and where its arrays lie, in that order."""
    length = int.from_bytes(file.read(8), "little")
    require(size >= 8 and length <= min(limits.header, size - 8), f"{where} is no safetensors file, or cut off")
    table = parse(file.read(length), f"{where}: its header", limits)
    require(isinstance(table, dict) and len(table) <= limits.arrays, f"{where} has no table of arrays")
    metadata = table.pop("__metadata__", {})
    require(isinstance(metadata, dict), f"{where} has metadata that are no object")
    return metadata, _places(table, 8 + length, size, where, limits)


def _places(table: Mapping[str, Any], start: int, size: int, where: str, limits: Limits) -> dict[str, Place]:
    """Check that the arrays lie one behind the other and fill the file."""
    places, end = {}, 0
    for name, entry in sorted(table.items(), key=lambda item: _offsets(item, where)):
        here = f"{where}: {shown(name)}"
        require(set(entry) == {"dtype", "shape", "data_offsets"}, f"{here} is described by {shown(sorted(entry))}")
        code = entry["dtype"]
        require(isinstance(code, str) and code in DTYPE, f"{here} has dtype {shown(code)}")
        places[name] = Place(layout(DTYPE[code], entry["shape"], here, limits), start + end)
        begin, end = end, end + places[name].layout.nbytes
        require(entry["data_offsets"] == [begin, end], f"{here} does not lie where its shape says")
    require(start + end == size, f"{where} holds {size - start} bytes of arrays, its table says {end}")
    return places


def _offsets(item: tuple[str, Any], where: str) -> tuple[int, int]:
    """Return where an array begins and ends."""
    offsets = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    fits = isinstance(offsets, list) and len(offsets) == 2 and all(type(x) is int for x in offsets)
    require(fits, f"{where}: {shown(item[0])} has no data_offsets")
    assert isinstance(offsets, list)
    return offsets[0], offsets[1]
