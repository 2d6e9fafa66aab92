"""What a folder of shards is: its files, its description, and how the ranges of arrays lie in the shards.

::

    checkpoint.json                         the description of a checkpoint that is one file (see single.py), and
        "arrays": {name: [dtype, shape]}, "commit": "rename" or "file", "seal": SHA-256 of the rest,
        "files": [{"file": name, "bytes": its size, "sha256": of the whole file, "ranges": {name: [begin, end]}}]
    shard-00001-of-00003.safetensors        pieces of arrays, which any reader of safetensors opens
    COMMITTED                               the seal, written last, where "commit" is "file"

A range counts elements in C order. A piece that is a whole array has its shape, any other is a vector; of complex128 it
has a last axis of 2, as float64. The digests of the arrays and of the content are those of a single file: they do not
know the number of shards.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..formats.strict import FormatError, Layout, is_count, layout, read_json, require, shown
from . import single

DESCRIPTION = "checkpoint.json"
COMMITTED = "COMMITTED"

OURS = re.compile(r"checkpoint\.json|COMMITTED|shard-\d{5}-of-\d{5}\.safetensors|\..*\.partial")
"""The names of what may stand in a folder of shards."""

MOST = 99_999
"""Shards of a folder."""

OWN_KEYS = {"arrays", "files", "commit", "seal"}
"""What a description says that is not content, beside what it says of a single file."""

KEYS = {"file", "bytes", "sha256", "ranges"}
"""What is said of a shard."""


class Part(NamedTuple):
    """Where a range of an array is: the number of the shard, and the range."""

    shard: int
    begin: int
    end: int


def file_name(rank: int, size: int) -> str:
    """Return the name of a shard, whose rank counts from 0."""
    return f"shard-{rank + 1:05}-of-{size:05}.safetensors"


def form(found: Layout, begin: int, end: int) -> Layout:
    """Return how a range of an array stands in a shard."""
    shape = found.shape if (begin, end) == (0, prod(found.shape)) else (end - begin,)
    return Layout("float64", (*shape, 2)) if found.dtype == "complex128" else Layout(found.dtype, shape)


def seal(description: Mapping[str, Any]) -> str:
    """Return the digest of all that a description says."""
    rest = {key: x for key, x in description.items() if key != "seal"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def parts_of(layouts: Mapping[str, Layout], ranges: Sequence[Mapping[str, Any]], where: str) -> dict[str, list[Part]]:
    """Return where the ranges of each array are, in order; raise FormatError unless they make it exactly once."""
    found: dict[str, list[Part]] = {name: [] for name in layouts}
    for i, own in enumerate(ranges):
        for name, (begin, end) in own.items():
            found[name].append(Part(i, begin, end))
    for name, parts in found.items():
        parts.sort(key=lambda part: part.begin)
        _check_once(parts, prod(layouts[name].shape), f"{where}: {shown(name)}")
    return found


def _check_once(parts: Sequence[Part], total: int, where: str) -> None:
    reached = 0
    for part in parts:
        overlap = f"{where} has elements {part.begin} to {reached} in two shards"
        require(part.begin >= reached, overlap)
        require(part.begin == reached, f"{where} has elements {reached} to {part.begin} in no shard")
        reached = part.end
    require(reached == total, f"{where} has elements {reached} to {total} in no shard")


class Described(NamedTuple):
    """What a folder says of itself: its description, and the dtypes and shapes of its arrays."""

    description: dict[str, Any]
    layouts: dict[str, Layout]


def described(folder: Path) -> Described:
    """Read the description of a folder, and check that shards of that size are there; raise FormatError if not."""
    where = folder.name or str(folder)
    require((folder / DESCRIPTION).exists(), f"{where} is no checkpoint: it has no {DESCRIPTION}")
    check_file(folder / DESCRIPTION, None, f"{where}/{DESCRIPTION}")
    found = read_json(folder / DESCRIPTION, single.LIMITS)
    layouts = _layouts(found, where)
    content = {key: x for key, x in found.items() if key not in OWN_KEYS}
    description = {**found, **single.checked(content, dict.fromkeys(layouts), where)}
    require(found.get("seal") == seal(found), f"{where} was altered after it was written: its seal is wrong")
    _check_committed(folder, description, where)
    _check_shards(folder, description.get("files"), layouts, where)
    return Described(description, layouts)


def check_file(path: Path, size: int | None, where: str) -> None:
    """Check that a file is one itself, not a link to one, and has as many bytes."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise FormatError(f"{where} is missing") from None
    require(stat.S_ISREG(status.st_mode), f"{where} is no file, or a link to one")
    require(size is None or status.st_size == size, f"{where} has {status.st_size} bytes, and was written with {size}")


def _layouts(found: Any, where: str) -> dict[str, Layout]:
    table = found.get("arrays") if isinstance(found, dict) else None
    require(isinstance(table, dict) and len(table) <= single.LIMITS.arrays, f"{where} has no table of arrays")
    assert isinstance(table, dict)
    pairs = all(isinstance(entry, list) and len(entry) == 2 for entry in table.values())
    require(pairs, f"{where} has arrays without dtype and shape")
    return {name: layout(x, shape, f"{where}: {shown(name)}", single.LIMITS) for name, (x, shape) in table.items()}


def _check_committed(folder: Path, description: Mapping[str, Any], where: str) -> None:
    mode, path = description.get("commit"), folder / COMMITTED
    require(mode in ("rename", "file"), f"{where} does not say how it was committed")
    if mode == "file":
        require(path.exists(), f"{where} was not committed: its writer ended before it wrote {COMMITTED}")
        check_file(path, 65, f"{where}/{COMMITTED}")
        same = path.read_bytes() == f"{description['seal']}\n".encode("ascii")
        require(same, f"{where} was not committed: its {COMMITTED} is that of another checkpoint")


def _check_shards(folder: Path, files: Any, layouts: Mapping[str, Layout], where: str) -> None:
    require(isinstance(files, list) and 0 < len(files) <= MOST, f"{where} names no files")
    for rank, entry in enumerate(files):
        require(isinstance(entry, dict) and set(entry) == KEYS, f"{where} describes a file by {shown(entry)}")
        name = file_name(rank, len(files))
        require(entry["file"] == name, f"{where} names the file {shown(entry['file'])}, expected {name}")
        require(is_count(entry["bytes"], single.LIMITS.size), f"{where}/{name} has {shown(entry['bytes'])} bytes")
        require(isinstance(entry["sha256"], str), f"{where}/{name} has no digest")
        _check_ranges(entry["ranges"], layouts, f"{where}/{name}")
        held = sum(form(layouts[x], *found).nbytes for x, found in entry["ranges"].items())
        require(held + 8 <= entry["bytes"], f"{where}/{name} has {entry['bytes']} bytes, its pieces need {held}")
        check_file(folder / name, entry["bytes"], f"{where}/{name}")


def _check_ranges(ranges: Any, layouts: Mapping[str, Layout], where: str) -> None:
    require(isinstance(ranges, dict), f"{where} has no ranges")
    for name, found in ranges.items():
        require(name in layouts, f"{where} has a piece of {shown(name)}, which is no array of the checkpoint")
        total = prod(layouts[name].shape)
        fits = isinstance(found, list) and len(found) == 2 and all(is_count(x, total) for x in found)
        require(fits and found[0] < found[1], f"{where} has the range {shown(found)} of {total} of {shown(name)}")
