"""Trajectory files: a header and named arrays, in a format chosen by the suffix of the file's name.

The header says what was run (``case``), who computed it (``provenance``), and a digest of everything (``sha256``),
which a file made by another program may leave out. ``read`` takes files from anybody: everything is checked before it
is believed, and a file that is not what it must be is a GoldenError of one line. ``write`` makes the same bytes from
the same contents, whole or not at all. ``docs/check/goldens.md`` describes the formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from refoptim.formats.files import replace
from refoptim.numerics.arith import Array

from . import binary, text
from .strict import MAX_TENSORS, GoldenError, layout, read_json, require, shown
from .words import digest, from_hex, to_hex

FORMAT = "refoptim trajectory"
SCHEMA = 1

KEYS = frozenset({"format", "schema", "case", "provenance", "sha256"})
"""What a header holds: ``provenance``, any object, and ``sha256`` may be missing."""

NAME = re.compile(r"(param|grad|rows)\.\d{1,4}|state\.\d{1,4}\.[A-Za-z]\w{0,40}|lr|momentum|metric|loss", re.ASCII)
"""The names that arrays have."""


class Trajectory(NamedTuple):
    """What a file holds: its header without format, schema and digest, and its arrays by name."""

    header: dict[str, Any]
    tensors: dict[str, Array]


def _encode_json(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    table = {name: {"dtype": x.dtype.name, "shape": list(x.shape), "bits": to_hex(x)} for name, x in tensors.items()}
    lines = [f" {json.dumps(key)}: {json.dumps(x)}" for key, x in header.items()]
    arrays = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table.items()]
    return ("{\n" + ",\n".join([*lines, ' "tensors": {\n' + ",\n".join(arrays) + "\n }"]) + "\n}\n").encode("ascii")


def _decode_json(path: Path) -> tuple[Any, dict[str, Array]]:
    header = read_json(path)
    table = header.pop("tensors", None) if isinstance(header, dict) else None
    require(isinstance(table, dict) and len(table) <= MAX_TENSORS, f"{path.name} has no object 'tensors'")
    assert isinstance(table, dict)
    # each text goes as soon as it is an array
    return header, {name: _from_json(table.pop(name), f"{path.name}: {shown(name)}") for name in [*table]}


def _from_json(entry: Any, where: str) -> Array:
    fits = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "bits"} and isinstance(entry["bits"], str)
    require(fits, f"{where} needs dtype, shape, and bits as a text")
    return from_hex(entry["bits"], layout(entry["dtype"], entry["shape"], where), where)


ENCODERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Array]], bytes]] = {
    "npz": binary.encode_npz,
    "json": _encode_json,
    "safetensors": binary.encode_safetensors,
    "c-header": text.encode_c,
    "csv": text.encode_csv,
}

DECODERS: dict[str, Callable[[Path], tuple[Any, dict[str, Array]]]] = {
    "npz": binary.decode_npz,
    "json": _decode_json,
    "safetensors": binary.decode_safetensors,
    "csv": text.decode_csv,
}

SUFFIXES = {".npz": "npz", ".json": "json", ".safetensors": "safetensors", ".h": "c-header", ".csv": "csv"}


def format_of(path: Path) -> str:
    """Return the format that the suffix of a file's name stands for, or raise ValueError."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the suffix of {path.name} stands for no format: use one of {', '.join(SUFFIXES)}")
    return SUFFIXES[path.suffix.lower()]


def write(path: Path, trajectory: Trajectory, form: str | None = None, name: str | None = None) -> bytes:
    """Write a trajectory in a format, by default that of the file's suffix; return what was written.

    ``name`` is what the names in a C header begin with, by default the name of the file.

    Raises:
        ValueError: the name is none in C, or the format has no names.
    """
    form = form or format_of(path)
    if name is not None and form != "c-header":
        raise ValueError(f"only a C header has names, got {name!r} for {form}")
    prefix = text.identifier(path, name)
    header, tensors = trajectory
    full = {"format": FORMAT, "schema": SCHEMA, **header}
    full["sha256"] = digest(full, tensors)
    data = text.encode_c(full, tensors, prefix) if form == "c-header" else ENCODERS[form](full, tensors)
    replace(path, data)
    return data


def read(path: Path) -> Trajectory:
    """Read a trajectory file, or raise GoldenError if it is none, cut off, altered, or of another version."""
    form = SUFFIXES.get(path.suffix.lower(), "")
    readable = ", ".join(suffix for suffix, form in SUFFIXES.items() if form in DECODERS)
    require(form in DECODERS, f"{path.name} cannot be read: its suffix is none of {readable}")
    try:
        header, tensors = DECODERS[form](path)
    except GoldenError:
        raise
    except ImportError:
        raise GoldenError(f"{path.name} holds bfloat16, which needs ml_dtypes: pip install ml_dtypes") from None
    except Exception as error:  # of damaged files zipfile alone raises errors of a dozen kinds
        raise GoldenError(f"{path.name} cannot be read: {shown(str(error) or type(error).__name__)}") from None
    return _checked(header, tensors, path.name)


def _checked(header: Any, tensors: dict[str, Array], where: str) -> Trajectory:
    """Check what all formats have in common."""
    require(isinstance(header, dict) and header.get("format") == FORMAT, f"{where} is no trajectory of refoptim")
    version = header.get("schema")
    require(
        type(version) is int and version == SCHEMA, f"{where} has schema {shown(version)}, this version reads {SCHEMA}"
    )
    wrong = [name for name in tensors if not NAME.fullmatch(name)]
    require(not wrong, f"{where} holds an array of an unknown name: {shown(wrong[:1])}")
    unknown = sorted(set(header) - KEYS)
    require(not unknown, f"{where} has a header with an unknown entry: {shown(unknown[:1])}")
    found = header.pop("sha256", None)
    altered = f"{where} was altered after it was made: its sha256 is wrong (leave it out of a file of your own)"
    require(found is None or found == digest(header, tensors), altered)
    require(isinstance(header.get("case"), dict), f"{where} does not say in 'case' what was run")
    require(isinstance(header.get("provenance", {}), dict), f"{where} has a 'provenance' that is no object")
    return Trajectory({key: x for key, x in header.items() if key not in ("format", "schema")}, tensors)


__all__ = ["ENCODERS", "SUFFIXES", "GoldenError", "Trajectory", "format_of", "read", "replace", "write"]
