"""NumPy's npz: a zip file with a member ``header.json`` and a member ``<name>.npy`` per array.

Members are stored, not compressed, and carry no date. NumPy has no bfloat16, which is written as the unsigned integers
of its bits. Reading uses neither NumPy's reader nor pickle: the header of a member is matched by a pattern.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from refoptim.numerics.arith import Array

from .strict import MAX_BYTES, MAX_HEADER, MAX_TENSORS, Layout, check_size, layout, parse, require, shown
from .words import from_bytes, to_words

DESCR = {
    "float16": "<f2",
    "bfloat16": "<u2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
    "int64": "<i8",
}
DTYPE = {descr: dtype for dtype, descr in DESCR.items()} | {"|V2": "bfloat16", "<V2": "bfloat16"}

NPY = re.compile(
    rb"\{'descr': *'([^']{2,8})', *'fortran_order': *(False|True), *'shape': *\(([0-9, ]{0,600})\),? *\} *\n"
)
"""The header of an array as NumPy and others write it."""

END = struct.Struct("<4s4H2LH")
"""The end of a zip file: signature, disks, entries, size and place of the directory, length of a comment."""

MAX_DIRECTORY = 1 << 20

MAX_UNPACKED = 1 << 24
"""How many bytes more than it has itself a file may unpack to."""


def encode(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        _add(archive, "header.json", json.dumps(header, indent=1).encode() + b"\n")
        for name, x in tensors.items():
            _add(archive, f"{name}.npy", _npy(x))
    return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.create_system, member.external_attr = 3, 0o644 << 16
    archive.writestr(member, data)


def _npy(x: Array) -> bytes:
    """Return an array as an npy file, version 1.0, its data at a multiple of 64 bytes."""
    shape = ", ".join(map(str, x.shape)) + ("," if x.ndim == 1 else "")
    text = f"{{'descr': '{DESCR[x.dtype.name]}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(to_words(x).data)


def decode(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read a file."""
    size = check_size(path, MAX_BYTES + MAX_HEADER)
    with path.open("rb") as file:
        _check_directory(file, path.name)
        with zipfile.ZipFile(file) as archive:
            return _contents(archive, size, path.name)


def _check_directory(file: BinaryIO, where: str) -> None:
    """Raise GoldenError unless the file ends as a small zip file does: its directory is all read into memory."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - END.size - 20))
    tail = file.read()
    require(len(tail) >= END.size and tail[-END.size :].startswith(b"PK\5\6"), f"{where} is no npz file, or cut off")
    _, _, _, _, entries, length, _, comment = END.unpack(tail[-END.size :])
    require(not tail.startswith(b"PK\6\7") and not comment, f"{where} is a zip file of a kind that no npz is")
    require(entries <= MAX_TENSORS and length <= MAX_DIRECTORY, f"{where} has too many members")


def _contents(archive: zipfile.ZipFile, size: int, where: str) -> tuple[Any, dict[str, Array]]:
    members = archive.infolist()
    names = [member.filename for member in members]
    require(len(set(names)) == len(names), f"{where} has two members of one name")
    total = sum(x.file_size for x in members)
    limit = f"{total} bytes, and at most {MAX_UNPACKED} more than the {size} that it has itself can be"
    require(total <= size + MAX_UNPACKED, f"{where} unpacks to more than can be read: {limit}")
    plain = all(x.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for x in members)
    require(plain and not any(x.flag_bits & 1 for x in members), f"{where} is encrypted, or compressed in a rare way")
    require("header.json" in names, f"{where} has no header.json")
    wrong = [name for name in names if name != "header.json" and not name.endswith(".npy")]
    require(not wrong, f"{where} has the member {shown(wrong[:1])}, which is no array")
    require(
        archive.getinfo("header.json").file_size <= MAX_HEADER, f"{where} has a header of more than {MAX_HEADER} bytes"
    )
    header = parse(_read(archive, archive.getinfo("header.json")), f"{where}: header.json")
    arrays = [x for x in members if x.filename != "header.json"]
    return header, {x.filename.removesuffix(".npy"): _array(archive, x, where) for x in arrays}


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a member; with a number given, zipfile unpacks no more, whatever there is."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Array:
    """Read one array: its header first, then as many bytes as its shape needs."""
    here = f"{where}: {shown(member.filename)}"
    with archive.open(member) as file:
        start = file.read(8)
        require(start[:6] == b"\x93NUMPY", f"{here} is no npy file")
        size = struct.unpack("<H", file.read(2))[0] if start[6] == 1 else struct.unpack("<I", file.read(4))[0]
        found = _layout(file.read(min(size, 1024)), here)
        room = member.file_size - (10 if start[6] == 1 else 12) - size
        require(size <= 1024 and room == found[0].nbytes, f"{here} holds another number of bytes than its shape needs")
        return _ordered(from_bytes(file.read(room), found[0]), found[1])


def _layout(text: bytes, where: str) -> tuple[Layout, bool]:
    """Read the header of an array: its layout, and whether it is in Fortran's order."""
    match = NPY.fullmatch(text)
    require(match is not None, f"{where} is no plain array")
    assert match is not None
    descr, order, shape = (part.decode("latin-1") for part in match.groups())
    require(descr in DTYPE, f"{where} has elements {shown(descr)}, expected one of {', '.join(DTYPE)}")
    sizes = [size.strip() for size in shape.rstrip(", ").split(",")] if shape.strip() else []
    require(all(size.isdigit() and len(size) <= 20 for size in sizes), f"{where} has the shape {shown(shape)}")
    return layout(DTYPE[descr], [int(size) for size in sizes], where), order == "True"


def _ordered(x: Array, fortran: bool) -> Array:
    """Return an array in C order that was read from one in Fortran's."""
    return np.ascontiguousarray(x.reshape(x.shape[::-1]).T) if fortran else x
