"""Checkpoints that are one file: ``.safetensors``, ``.npz`` or ``.json``.

Each holds arrays by name and one description as JSON: in safetensors under the metadata ``refoptim``, in npz as the
member ``checkpoint.json``, in JSON as everything but ``arrays``::

    {"format": "refoptim checkpoint", "schema": 1, "refoptim": version, "metadata": …, "tree": …, "complex128": [names],
     "sha256": {name: digest of the array}, "digest": SHA-256 of the rest as JSON with sorted keys and no spaces}

safetensors knows no complex128: such an array is float64 there, with a last axis of 2, and named in ``complex128``.
That is left out of the digest, which is therefore the same in all formats.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..formats import npz, safetensors
from ..formats.digests import Digest
from ..formats.files import replacing
from ..formats.raw import CHUNK, from_hex, from_words, layout_of, pieces, to_hex
from ..formats.strict import WORD, FormatError, Layout, Limits, check_size, layout, parse, read_json, require, shown
from ..numerics.arith import Array
from ..numerics.array_types import HOST, moved, place, plain
from .errors import CheckpointError

FORMAT = "refoptim checkpoint"
SCHEMA = 1

LIMITS = Limits(
    size=1 << 62,
    json=1 << 32,
    header=100_000_000,
    arrays=1 << 20,
    entries=4_000_000,
    digits=4000,
    dtypes=tuple(WORD),
    beyond_ascii=1 << 32,
)
"""What is read and written. Other readers of safetensors take no longer header."""

MOST_MEMBERS = zipfile.ZIP_FILECOUNT_LIMIT - 1
"""Arrays of an npz file, at most: with more, or with more bytes, Python writes a zip file of another kind."""

THREADS = min(4, os.cpu_count() or 1)
"""Threads that digest while another one reads or writes."""

AT_ONCE = 1 << 26
"""Bytes after which what has been written is sent to the disk, while more is written."""

Description = Mapping[str, Any]
Arrays = Mapping[str, Array]

Progress = Callable[[int], Any]
"""Is told of bytes that have been read or written."""


class Content(NamedTuple):
    """What a file holds: its description, and its arrays by name, which look at the file."""

    description: dict[str, Any]
    arrays: dict[str, Array]


def write(path: Path, description: Mapping[str, Any], arrays: Mapping[str, Array], progress: Progress) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written; the old one is as it was.
        ValueError: the format does not hold such arrays, or not so many bytes.
    """
    writer = WRITERS[suffix_of(path)]
    if len(arrays) >= LIMITS.arrays:
        raise ValueError(f"a checkpoint holds less than {LIMITS.arrays} arrays, got {len(arrays)}")
    whole = {"format": FORMAT, "schema": SCHEMA, **description}
    encoded(
        with_digest(whole, dict.fromkeys(arrays, "0" * 64))
    )  # if nobody can read it, say so before anything is written
    with ThreadPoolExecutor(THREADS) as pool, replacing(path) as file, Sending(file) as sending:
        writer(file, whole, arrays, Hashing(pool, sending.telling(progress)))


def read(path: Path, verify: bool, progress: Progress) -> Content:
    """Map a file into memory; with ``verify`` everything is read once, and compared with its digests.

    Raises:
        CheckpointError: it is no checkpoint, cut off, altered, or of a newer version.
        OSError: it cannot be read.
    """
    where, reader = path.name, READERS[suffix_of(path)]
    with _opened(path) as (file, size):
        description, arrays = reader(file, size, where)
        complete = checked(description, arrays, where)
        found = {name: _as_complex(name, x, complete) for name, x in arrays.items()}
        if verify:
            with ThreadPoolExecutor(THREADS) as pool:
                verify_arrays(complete, found, where, Hashing(pool, progress))
    return Content(complete, found)


def encoded(description: Description) -> bytes:
    """Return a description as JSON; raise ValueError for one that is too large or too deep to be read again."""
    text = json.dumps(description, separators=(",", ":")).encode("ascii")
    if len(text) > LIMITS.header // 2:  # as a text in JSON it is longer
        raise ValueError(
            f"what is no array takes {len(text)} bytes, more than the {LIMITS.header // 2} that can be read"
        )
    try:
        parse(text, "the checkpoint", LIMITS)
    except FormatError as error:
        raise ValueError(f"this cannot be saved: {error}") from None
    return text


def load_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of any safetensors or npz file; see ``refoptim.checkpoint.load_arrays``."""
    where, suffix = path.name, path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"the suffix of {where} stands for no arrays: use .safetensors or .npz")
    with _opened(path) as (file, size):
        if suffix == ".safetensors":
            return _safetensors_arrays(file, size, where)[1]
        npz.check_directory(file, where, LIMITS)
        with zipfile.ZipFile(file) as archive:
            return _npz_arrays(file, archive, size, (), where)


def suffix_of(path: Path) -> str:
    """Return the suffix that says what format a file has, or raise ValueError."""
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"the suffix of {path.name} stands for no checkpoint: use one of {', '.join(WRITERS)}")
    return path.suffix.lower()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file that is not empty, and measure it; to open a pipe would wait for who writes into it."""
    with damage(path.name):
        require(path.is_file() or not path.exists(), f"{path.name} is no file")
        with path.open("rb") as file:
            size = check_size(path, LIMITS.size)
            require(size > 0, f"{path.name} is empty")
            yield file, size


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Say in one line what is wrong with a file."""
    try:
        yield
    except CheckpointError:
        raise
    except FormatError as error:
        raise CheckpointError(str(error)) from None
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOVERFLOW):  # of places that no file can have
            raise
        raise CheckpointError(f"{where} cannot be read: it says that something lies outside of it") from None
    except ImportError:
        advice = "pip install ml_dtypes"
        raise CheckpointError(f"{where} holds bfloat16, which needs ml_dtypes: {advice}") from None
    except Exception as error:  # of damaged files zipfile alone raises errors of a dozen kinds
        raise CheckpointError(f"{where} cannot be read: {shown(str(error) or type(error).__name__)}") from None


class Hashing:
    """Digests arrays while their bytes pass by."""

    def __init__(self, pool: ThreadPoolExecutor, progress: Progress) -> None:
        self.pool, self.progress = pool, progress
        self.waiting: deque[Future[bytes]] = deque()

    def pass_by(self, x: Array, write: Callable[[Any], Any] | None = None) -> Digest:
        """Return the digest of an array whose bytes are written somewhere, or only read; it may not be ready yet."""
        digest = Digest(layout_of(x), self.pool, self.waiting)
        for piece in pieces(x) if place(x) is HOST else _from_gpu(x):
            digest.update(piece)
            if write is not None:
                write(piece)
            self.progress(len(piece))
        return digest


def _from_gpu(x: Array) -> Iterator[memoryview]:
    """Yield the bytes of an array on a GPU, piece by piece."""
    flat, n = x.reshape(-1), CHUNK // x.itemsize
    for i in range(0, x.size, n):
        yield from pieces(moved(flat[i : i + n], HOST))


class Sending:
    """Lets what is written to a file go to the disk meanwhile, so that little is left to wait for at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.pool, self.waiting = file, ThreadPoolExecutor(1), 0
        self.last: Future[Any] | None = None

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def telling(self, progress: Progress) -> Progress:
        """Return what is told of bytes that were written, and tells ``progress``."""

        def told(count: int) -> None:
            self._sent(count)
            progress(count)

        return told

    def _sent(self, count: int) -> None:
        self.waiting += count
        if self.waiting >= AT_ONCE and (self.last is None or self.last.done()):
            self.last, self.waiting = self.pool.submit(_send, self.file), 0


def _send(file: BinaryIO) -> None:
    """Send a file to the disk; if that fails it is the last fsync, whose failure counts, that says so."""
    with suppress(OSError, ValueError):
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def _digest(description: Mapping[str, Any]) -> str:
    content = {key: x for key, x in description.items() if key not in ("digest", "complex128")}
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def with_digest(description: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Return a description with the digests of the arrays and its own."""
    whole = {**description, "sha256": dict(digests)}
    return {**whole, "digest": _digest(whole)}


def on_host(x: Array) -> Array:
    """Return an array in the memory of the computer, a plain one."""
    return plain(x) if place(x) is HOST else moved(x, HOST)


# safetensors


def _write_safetensors(file: BinaryIO, description: Description, arrays: Arrays, by: Hashing) -> None:
    """Write the header without digests, the arrays, the widest words first so that all are aligned, and the header."""
    arrays = dict(sorted(arrays.items(), key=lambda item: -WORD[item[1].dtype.name]))
    twos = sorted(name for name, x in arrays.items() if x.dtype.name == "complex128")
    layouts = {name: _as_pairs(layout_of(x)) for name, x in arrays.items()}
    description = {**description, "complex128": twos}

    def header(digests: Mapping[str, str]) -> bytes:
        text = json.dumps(with_digest(description, digests), separators=(",", ":"))
        return safetensors.header({"refoptim": text}, layouts)

    first = header(dict.fromkeys(arrays, "0" * 64))
    if len(first) > LIMITS.header:
        raise ValueError(f"what is no array takes {len(first)} bytes, more than the {LIMITS.header} that can be read")
    file.write(first)
    digests = {name: by.pass_by(x, file.write) for name, x in arrays.items()}
    file.seek(0)
    file.write(header(_ready(digests)))


def _as_pairs(found: Layout) -> Layout:
    return Layout("float64", (*found.shape, 2)) if found.dtype == "complex128" else found


def _as_complex(name: str, x: Array, description: Mapping[str, Any]) -> Array:
    return x.view(np.complex128)[..., 0] if name in description["complex128"] else x


def _read_safetensors(file: BinaryIO, size: int, where: str) -> tuple[Any, dict[str, Array]]:
    metadata, arrays = _safetensors_arrays(file, size, where)
    text = metadata.get("refoptim")
    advice = "checkpoint.load_arrays reads its arrays"
    require(isinstance(text, str), f"{where} is no checkpoint of refoptim: it has no metadata 'refoptim'; {advice}")
    return parse(str(text).encode(), f"{where}: the metadata 'refoptim'", LIMITS), arrays


def _safetensors_arrays(file: BinaryIO, size: int, where: str) -> tuple[dict[str, Any], dict[str, Array]]:
    metadata, places = safetensors.read_header(file, size, where, LIMITS)
    memory = _mapped(file)
    return metadata, {name: from_words(memory, place.layout, place.begin) for name, place in places.items()}


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# npz


def _write_npz(file: BinaryIO, description: Description, arrays: Arrays, by: Hashing) -> None:
    total = sum(x.nbytes for x in arrays.values())
    if total + 4096 * (len(arrays) + 1) + LIMITS.header > zipfile.ZIP64_LIMIT or len(arrays) >= MOST_MEMBERS:
        raise ValueError(f"npz holds less than 2 GiB in less than {MOST_MEMBERS} arrays: choose .safetensors")
    with zipfile.ZipFile(file, "w") as archive:
        digests = {}
        for name, x in arrays.items():
            with archive.open(npz.member(f"{name}.npy"), "w") as member:
                member.write(npz.npy_header(layout_of(x)))
                digests[name] = by.pass_by(x, member.write)
        whole = with_digest({**description, "complex128": []}, _ready(digests))
        archive.writestr(npz.member("checkpoint.json"), encoded(whole))


def _read_npz(file: BinaryIO, size: int, where: str) -> tuple[Any, dict[str, Array]]:
    npz.check_directory(file, where, LIMITS)
    with zipfile.ZipFile(file) as archive:
        foreign = f"{where} is no checkpoint of refoptim: it has no checkpoint.json"
        require("checkpoint.json" in archive.namelist(), f"{foreign}; checkpoint.load_arrays reads its arrays")
        arrays = _npz_arrays(file, archive, size, ["checkpoint.json"], where)
        found = parse(npz.read_plain(archive, "checkpoint.json", where, LIMITS), f"{where}: checkpoint.json", LIMITS)
        return found, arrays


def _npz_arrays(
    file: BinaryIO, archive: zipfile.ZipFile, size: int, texts: Sequence[str], where: str
) -> dict[str, Array]:
    memory, members = _mapped(file), npz.members(archive, size, texts, where)
    return {x.filename.removesuffix(".npy"): _member(archive, memory, x, where) for x in members}


def _member(archive: zipfile.ZipFile, memory: mmap.mmap, member: zipfile.ZipInfo, where: str) -> Array:
    """Return an array of a zip file: where it lies, or unpacked."""
    with archive.open(member) as file:
        found = npz.read_npy(file, member.file_size, f"{where}: {shown(member.filename)}", LIMITS)
        if member.compress_type == zipfile.ZIP_STORED:
            x = from_words(memory, found.layout, _begin(memory, member, where) + found.length)
        else:
            x = from_words(file.read(found.layout.nbytes), found.layout)
    return x.reshape(x.shape[::-1]).T if found.fortran else x


def _begin(memory: mmap.mmap, member: zipfile.ZipInfo, where: str) -> int:
    """Return where the data of a member begin: behind its own header, its name, and what else stands there."""
    start = memory[member.header_offset : member.header_offset + 30]
    begin = member.header_offset + 30 + int.from_bytes(start[26:28], "little") + int.from_bytes(start[28:30], "little")
    require(begin + member.file_size <= len(memory), f"{where}: {shown(member.filename)} does not lie in the file")
    return begin


# JSON


def _write_json(file: BinaryIO, description: Description, arrays: Arrays, by: Hashing) -> None:
    """Write a line per array, and the description."""
    if 2 * sum(x.nbytes for x in arrays.values()) > LIMITS.json - 2 * LIMITS.header:
        raise ValueError(f"json holds less than {LIMITS.json >> 31} GiB: choose .safetensors")
    digests, before = {}, b'{"arrays": {\n'
    for name, x in arrays.items():
        digests[name] = by.pass_by(x)
        entry = {"dtype": x.dtype.name, "shape": list(x.shape), "bits": to_hex(on_host(x))}
        file.write(before + f"{json.dumps(name)}: {json.dumps(entry)}".encode("ascii"))
        before = b",\n"
    whole = json.dumps(with_digest({**description, "complex128": []}, _ready(digests)))
    file.write((b'{"arrays": {' if not arrays else b"") + b"\n},\n" + whole[1:].encode("ascii") + b"\n")


def _read_json(file: BinaryIO, size: int, where: str) -> tuple[Any, dict[str, Array]]:
    found = read_json(Path(file.name), LIMITS._replace(entries=5 * LIMITS.entries))  # arrays stand in it as well
    table = found.pop("arrays", None) if isinstance(found, dict) else None
    require(isinstance(table, dict), f"{where} is no checkpoint of refoptim: it has no object 'arrays'")
    assert isinstance(table, dict)
    return found, {name: _from_json(table.pop(name), f"{where}: {shown(name)}") for name in [*table]}


def _from_json(entry: Any, where: str) -> Array:
    fits = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "bits"} and isinstance(entry["bits"], str)
    require(fits, f"{where} needs dtype, shape, and bits as a text")
    found = layout(entry["dtype"], entry["shape"], where, LIMITS)
    try:
        x = from_hex(entry["bits"], found)
    except ValueError:
        raise FormatError(f"{where} has other bits than its shape needs") from None
    x.flags.writeable = False
    return x


WRITERS = {".safetensors": _write_safetensors, ".npz": _write_npz, ".json": _write_json}
READERS = {".safetensors": _read_safetensors, ".npz": _read_npz, ".json": _read_json}


def checked(found: Any, arrays: Mapping[str, Array], where: str) -> dict[str, Any]:
    """Return a description that is one, and fits the arrays; raise FormatError for any other."""
    require(isinstance(found, dict) and found.get("format") == FORMAT, f"{where} is no checkpoint of refoptim")
    schema = found.get("schema")
    require(type(schema) is int and schema >= 1, f"{where} has no schema")
    newer = f"{where} has schema {shown(schema)}, this version reads {SCHEMA}: install a newer refoptim"
    require(schema <= SCHEMA, newer)
    require("tree" in found and isinstance(found.get("sha256"), dict), f"{where} has no tree, or no digests")
    altered = f"{where} was altered after it was written: its digest is wrong"
    require(found.get("digest") == _digest(found), altered)
    require(set(found["sha256"]) == set(arrays), f"{where} holds other arrays than it describes")
    twos = found.get("complex128")
    pairs = isinstance(twos, list) and all(isinstance(name, str) and _is_pairs(arrays.get(name)) for name in twos)
    require(pairs, f"{where} has complex numbers that are no pairs")
    return dict(found)


def _is_pairs(x: Any) -> bool:
    return x is not None and x.dtype == np.float64 and x.ndim > 0 and x.shape[-1] == 2


def verify_arrays(description: Mapping[str, Any], arrays: Mapping[str, Array], where: str, by: Hashing) -> None:
    """Raise FormatError unless arrays have the digests that a description says."""
    for name, found in _ready({name: by.pass_by(x) for name, x in arrays.items()}).items():
        require(found == description["sha256"][name], f"{where}: {shown(name)} was altered: its digest is wrong")


def _ready(digests: Mapping[str, Digest]) -> dict[str, str]:
    return {name: digest.hexdigest() for name, digest in digests.items()}
