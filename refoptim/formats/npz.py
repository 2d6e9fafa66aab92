"""NumPy's npz: a zip file with a member ``<name>.npy`` per array, and beside them members of text.

Members are stored, not compressed, and carry no date. NumPy has no bfloat16, which is written as the unsigned integers
of its bits. Reading uses neither NumPy's reader nor pickle: the header of a member is matched by a pattern. Files of
2 GiB and more, which Python describes in another way, are neither written nor read.

Source: NumPy Enhancement Proposal 1 (NEP 1), "A simple file format for NumPy arrays".
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from .strict import Layout, Limits, layout, require, shown

DESCR = {
    "bool": "|b1",
    "uint8": "|u1",
    "int8": "|i1",
    "uint16": "<u2",
    "int16": "<i2",
    "uint32": "<u4",
    "int32": "<i4",
    "uint64": "<u8",
    "int64": "<i8",
    "float16": "<f2",
    "bfloat16": "|V2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
DTYPE = {descr: dtype for dtype, descr in DESCR.items()} | {"<V2": "bfloat16"}

NPY = re.compile(
    rb"\{'descr': *'([^']{2,8})', *'fortran_order': *(False|True), *'shape': *\(([0-9, ]{0,600})\),? *\} *\n"
)
"""The header of an array as NumPy and others write it."""

END = struct.Struct("<4s4H2LH")
"""The end of a zip file: signature, disks, entries, size and place of the directory, length of a comment."""

MAX_DIRECTORY = 1 << 24

MAX_UNPACKED = 1 << 24
"""How many bytes more than it has itself a file may unpack to."""


class Npy(NamedTuple):
    """What the header of an array says: its layout, whether it is in Fortran's order, and its own length in bytes."""

    layout: Layout
    fortran: bool
    length: int


def member(name: str) -> zipfile.ZipInfo:
    """Return the entry of a member, stored and without a date."""
    found = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    found.create_system, found.external_attr = 3, 0o644 << 16
    return found


def npy_header(found: Layout, descr: str | None = None) -> bytes:
    """Return what stands in front of an array, version 1.0, its data at a multiple of 64 bytes."""
    shape = ", ".join(map(str, found.shape)) + ("," if len(found.shape) == 1 else "")
    text = f"{{'descr': '{descr or DESCR[found.dtype]}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def check_directory(file: BinaryIO, where: str, limits: Limits) -> None:
    """Raise FormatError unless a file ends as a small zip file does: its directory is all read into memory."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - END.size - 20))
    tail = file.read()
    require(len(tail) >= END.size and tail[-END.size :].startswith(b"PK\5\6"), f"{where} is no npz file, or cut off")
    _, _, _, _, entries, length, _, comment = END.unpack(tail[-END.size :])
    require(not tail.startswith(b"PK\6\7") and not comment, f"{where} is a zip file of a kind that no npz is")
    require(entries <= limits.arrays and length <= min(MAX_DIRECTORY, size), f"{where} has too many members")


def members(archive: zipfile.ZipFile, size: int, texts: Sequence[str], where: str) -> list[zipfile.ZipInfo]:
    """Return the members of a file of ``size`` bytes that are arrays; ``texts`` are the names of the others."""
    found = archive.infolist()
    names = [x.filename for x in found]
    require(len(set(names)) == len(names), f"{where} has two members of one name")
    total = sum(x.file_size for x in found)
    limit = f"{total} bytes, and at most {MAX_UNPACKED} more than the {size} that it has itself can be"
    require(total <= size + MAX_UNPACKED, f"{where} unpacks to more than can be read: {limit}")
    plain = all(x.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for x in found)
    require(plain and not any(x.flag_bits & 1 for x in found), f"{where} is encrypted, or compressed in a rare way")
    for text in texts:
        require(text in names, f"{where} has no {text}")
    wrong = [name for name in names if name not in texts and not name.endswith(".npy")]
    require(not wrong, f"{where} has the member {shown(wrong[:1])}, which is no array")
    return [x for x in found if x.filename not in texts]


def read_plain(archive: zipfile.ZipFile, name: str, where: str, limits: Limits) -> bytes:
    """Read a member that is no array."""
    size = archive.getinfo(name).file_size
    require(size <= limits.header, f"{where} has a header of more than {limits.header} bytes")
    with archive.open(name) as file:
        return file.read(size)


def read_npy(file: Any, size: int, where: str, limits: Limits, dtypes: Mapping[str, str] = DTYPE) -> Npy:
    """Read the header of an array from a member of ``size`` bytes, which must hold what its shape needs.

    ``dtypes`` are the storage types by what NumPy writes for them.
    """
    start = file.read(8)
    require(start[:6] == b"\x93NUMPY" and len(start) == 8, f"{where} is no npy file")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    found, fortran = _described(file.read(min(length, 1024)), where, limits, dtypes)
    whole = 8 + width + length
    fits = length <= 1024 and size - whole == found.nbytes
    require(fits, f"{where} holds another number of bytes than its shape needs")
    return Npy(found, fortran, whole)


def _described(text: bytes, where: str, limits: Limits, dtypes: Mapping[str, str]) -> tuple[Layout, bool]:
    match = NPY.fullmatch(text)
    require(match is not None, f"{where} is no plain array")
    assert match is not None
    descr, order, shape = (part.decode("latin-1") for part in match.groups())
    require(descr in dtypes, f"{where} has elements {shown(descr)}, expected one of {', '.join(dtypes)}")
    sizes = [size.strip() for size in shape.rstrip(", ").split(",")] if shape.strip() else []
    require(all(size.isdigit() and len(size) <= 20 for size in sizes), f"{where} has the shape {shown(shape)}")
    return layout(dtypes[descr], [int(size) for size in sizes], where, limits), order == "True"
