"""Trajectories as npz and as safetensors: a header as JSON, and arrays as words.

In npz the header is the member ``header.json``, in safetensors the metadata of the name ``header``.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refoptim.formats import npz, safetensors
from refoptim.numerics.arith import Array

from .strict import GOLDEN, MAX_BYTES, MAX_HEADER, check_size, parse, require, shown
from .words import from_bytes, layout_of, to_words

DESCR = {dtype: descr for dtype, descr in npz.DESCR.items() if dtype in GOLDEN.dtypes} | {"bfloat16": "<u2"}
DTYPE = {descr: dtype for dtype, descr in DESCR.items()} | {"|V2": "bfloat16", "<V2": "bfloat16"}


def encode_npz(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(npz.member("header.json"), json.dumps(header, indent=1).encode() + b"\n")
        for name, x in tensors.items():
            start = npz.npy_header(layout_of(x), DESCR[x.dtype.name])
            archive.writestr(npz.member(f"{name}.npy"), start + bytes(to_words(x).data))
    return out.getvalue()


def decode_npz(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read a file."""
    size, where = check_size(path, MAX_BYTES + MAX_HEADER), path.name
    with path.open("rb") as file:
        npz.check_directory(file, where, GOLDEN)
        with zipfile.ZipFile(file) as archive:
            arrays = npz.members(archive, size, ["header.json"], where)
            header = parse(npz.read_plain(archive, "header.json", where, GOLDEN), f"{where}: header.json")
            return header, {x.filename.removesuffix(".npy"): _array(archive, x, where) for x in arrays}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Array:
    """Read one array: its header first, then as many bytes as its shape needs."""
    with archive.open(member) as file:
        found = npz.read_npy(file, member.file_size, f"{where}: {shown(member.filename)}", GOLDEN, DTYPE)
        x = from_bytes(file.read(found.layout.nbytes), found.layout)
    return np.ascontiguousarray(x.reshape(x.shape[::-1]).T) if found.fortran else x


def encode_safetensors(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a file, or raise ValueError for complex128, which the format does not know."""
    start = safetensors.header({"header": json.dumps(header)}, {name: layout_of(x) for name, x in tensors.items()})
    return start + b"".join(to_words(x).tobytes() for x in tensors.values())


def decode_safetensors(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read a file."""
    size = check_size(path, MAX_BYTES + MAX_HEADER)
    with path.open("rb") as file:
        metadata, places = safetensors.read_header(file, size, path.name, GOLDEN)
        require(isinstance(metadata.get("header"), str), f"{path.name} has no metadata 'header'")
        header = parse(metadata["header"].encode(), f"{path.name}: the metadata 'header'")
        return header, {name: from_bytes(file.read(x.layout.nbytes), x.layout) for name, x in places.items()}
