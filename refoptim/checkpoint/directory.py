"""Checkpoints that are a folder of shards, written and read by any number of ranks: processes, or threads.

Nothing here talks to other ranks: what a function returns is plain data that a program sends as it likes. Rank 0 calls
``begin`` and tells the others what it returns; each calls ``write_shard`` and sends what that returns to rank 0, which
calls ``commit``::

    folder = begin("run/step-1200")                                                         # rank 0
    record = write_shard(folder, rank, size, {"model.w": Piece(mine, first, (1000, 64))})   # every rank
    tree = {"model": {"w": absent("float32", (1000, 64))}, "epoch": 3}
    commit("run/step-1200", folder, [record of rank 0, record of rank 1, …], tree)          # rank 0

    found = open_directory("run/step-1200")                                                 # any number of ranks
    mine = found.read_range("model.w", first, last)

Until the commit everything stands in a folder beside, ``.step-1200.HOST.PID.….partial``, and the commit renames it.
Where a file system does not rename a folder at once, ``begin(path, commit="file")`` lets it stand in its place from the
beginning, and a file ``COMMITTED``, written last, makes it a checkpoint.

``refoptim.checkpoint.save(path, shards=3, …)`` does it all in one process.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from math import prod
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..formats import safetensors
from ..formats.digests import AHEAD, LEAF, joined
from ..formats.files import clean, partial_name, replace, settle
from ..formats.raw import layout_of, np_dtype, words
from ..formats.strict import WORD, FormatError, Layout, read_json, shown
from ..numerics.arith import Array
from . import single
from .errors import CheckpointError
from .nested import Writer, advice
from .opened import Directory
from .shards import COMMITTED, DESCRIPTION, MOST, OURS, file_name, form, parts_of, seal

__all__ = ["CheckpointError", "Directory", "Piece", "Record", "abandon", "absent", "begin", "commit", "named"]
__all__ += ["open_directory", "write_shard"]

Record = dict[str, Any]
"""What a rank tells of its shard: plain data, of which a rank that holds b bytes of an array makes 32 bytes per MiB,
and at most 2 MiB where its range begins and ends within a MiB of the array."""


class Piece(NamedTuple):
    """Elements of an array that one rank holds: those from ``begin`` on, in C order, of an array of such a shape."""

    data: Array
    begin: int
    shape: tuple[int, ...]


def named(tree: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays of nested data by the names they have in a checkpoint, as ``optimizer.state.0.exp_avg``."""
    writer = Writer()
    writer.write(tree)
    return writer.arrays


def absent(dtype: str, shape: Sequence[int]) -> Array:
    """Return what stands for an array in nested data where it is not at hand; it takes no memory."""
    return np.broadcast_to(np.zeros((), np_dtype(dtype)), tuple(shape))


def open_directory(path: str | Path) -> Directory:
    """Open a folder of shards: its description is read and checked, and the sizes of the shards.

    Raises:
        CheckpointError: it is no checkpoint, was not committed, cut off or altered, or is of a newer version.
        OSError: it cannot be read.
    """
    return Directory(path)


# the folder


def begin(path: str | Path, commit: str = "rename") -> str:
    """Make the folder that the ranks write into, and return its path; what killed writers have left is taken away.

    Args:
        path: the checkpoint that is to be.
        commit: "rename", or "file" for file systems that do not rename a folder at once.

    Raises:
        ValueError: ``commit`` is neither.
        FileExistsError: there is something else than a checkpoint; or there is one, and ``commit`` is "file".
        OSError: the folder cannot be made.
    """
    if commit not in ("rename", "file"):
        raise ValueError(f"commit must be 'rename' or 'file', got {commit!r}")
    target = Path(path).resolve()
    _refuse_others(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    clean(target)
    if commit == "file" and target.exists():
        _take_away_uncommitted(target)
    folder = target if commit == "file" else partial_name(target)
    folder.mkdir()
    return str(folder)


def _refuse_others(target: Path) -> None:
    """Raise FileExistsError unless a path is free, or a folder that holds nothing but what is written here."""
    if target.is_dir():
        other = next((x.name for x in sorted(target.iterdir()) if not OURS.fullmatch(x.name)), None)
        if other is not None:
            raise FileExistsError(errno.EEXIST, f"the folder is no checkpoint, it holds {shown(other)}", str(target))
    elif target.exists():
        raise FileExistsError(errno.EEXIST, "a folder of shards does not replace a file", str(target))


def _take_away_uncommitted(target: Path) -> None:
    """Delete what a killed writer has left; raise FileExistsError for what may be a checkpoint."""
    if (target / COMMITTED).exists() or ((target / DESCRIPTION).exists() and not _waits(target / DESCRIPTION)):
        raise FileExistsError(errno.EEXIST, "commit='file' replaces no checkpoint: choose another name", str(target))
    shutil.rmtree(target)


def _waits(path: Path) -> bool:
    """Tell whether a description says that a file COMMITTED must be there."""
    try:
        found = read_json(path, single.LIMITS)
    except FormatError:
        return False
    return isinstance(found, dict) and found.get("commit") == "file"


def abandon(folder: str | Path) -> None:
    """Take away what ranks have written and what is not to be committed."""
    shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a checkpoint; at no time does a part of it count as one.

    Of a link only the link is deleted, and a folder that holds other files too keeps those.
    """
    if path.is_symlink():
        path.unlink()
        return
    names = sorted(x.name for x in path.iterdir())
    own = [name for name in names if OURS.fullmatch(name)]
    if own != names:
        for name in sorted(own, key=DESCRIPTION.__ne__):
            (path / name).unlink()
        return
    hidden = partial_name(path.resolve())
    path.rename(hidden)
    shutil.rmtree(hidden)


# a shard


def write_shard(
    folder: str | Path, rank: int, size: int, pieces: Mapping[str, Piece], progress: single.Progress = int
) -> Record:
    """Write what one rank holds, and return what ``commit`` has to know of it; the file is on the disk then.

    Args:
        folder: what ``begin`` returned.
        rank: the number of this rank, from 0.
        size: how many ranks there are.
        pieces: what this rank holds, by the names of the arrays. Each element of an array is held by one rank.
        progress: is told of bytes that have been written.

    Raises:
        ValueError: there is no such rank, a piece does not lie in its array, or has a dtype that is not saved.
        OSError: the file cannot be written.
    """
    if not 0 <= rank < size <= MOST:
        raise ValueError(f"rank must be an integer in [0, size), got rank {rank!r} of size {size!r}")
    held = {name: _checked(name, piece) for name, piece in pieces.items()}
    path = Path(folder) / file_name(rank, size)
    with ThreadPoolExecutor(single.THREADS) as pool, path.open("xb") as file:
        shard = _Shard(pool, file.write, progress)
        found = shard.written(held)
        file.flush()
        os.fsync(file.fileno())
        found.update(file=path.name, bytes=file.tell(), sha256=shard.whole.hexdigest())
    settle(path.parent)
    return found


def _checked(name: str, piece: Piece) -> Piece:
    """Return a piece in the memory of the computer, with Python's integers."""
    shape, begin, x = tuple(map(index, piece.shape)), index(piece.begin), piece.data
    if x.dtype.name not in WORD:
        raise ValueError(f"{name} cannot be saved: it is an array of {x.dtype}{advice(x.dtype)}")
    if not (x.ndim == 1 or tuple(x.shape) == shape) or not 0 <= begin <= prod(shape) - x.size:
        got = f"shape {tuple(x.shape)} from element {begin} on"
        raise ValueError(f"a piece of {name} must be a vector of elements of shape {shape}, got {got}")
    return Piece(single.on_host(x), begin, shape)


class _Shard:
    """Writes pieces, and digests the file and the leaves of the arrays meanwhile."""

    def __init__(self, pool: ThreadPoolExecutor, write: Callable[[Any], Any], progress: single.Progress) -> None:
        self.pool, self.write, self.progress, self.whole = pool, write, progress, sha256()
        self.waiting: list[Future[bytes]] = []

    def written(self, pieces: Mapping[str, Piece]) -> Record:
        """Write all pieces; those without elements are only known."""
        layouts = {name: Layout(x.data.dtype.name, x.shape) for name, x in pieces.items()}
        ranges = {name: [x.begin, x.begin + x.data.size] for name, x in pieces.items() if x.data.size}
        self._put(safetensors.header({}, {name: form(layouts[name], *found) for name, found in ranges.items()}))
        digests = {name: self._piece(pieces[name]) for name in ranges}
        return {
            "arrays": {name: [found.dtype, list(found.shape)] for name, found in layouts.items()},
            "ranges": ranges,
            "leaves": {name: [leaf.result() for leaf in leaves] for name, (leaves, _) in digests.items()},
            "ends": {name: ends for name, (_, ends) in digests.items()},
        }

    def _piece(self, piece: Piece) -> tuple[list[Future[bytes]], list[list[Any]]]:
        """Write a piece; return the digests of its whole leaves, and of the others where they begin and their bytes."""
        leaves: list[Future[bytes]] = []
        ends: list[list[Any]] = []
        x, size, total = piece.data, piece.data.itemsize, prod(piece.shape)
        for first, last in pairwise(_cuts(piece.begin, piece.begin + x.size, LEAF // size)):
            part = memoryview(words(_elements(x, first - piece.begin, last - piece.begin))).cast("B")
            if first * size % LEAF == 0 and (last * size % LEAF == 0 or last == total):
                leaves.append(self._leaf(part))
            else:
                ends.append([first * size, bytes(part)])
            self._put(part)
            self.progress(len(part))
        return leaves, ends

    def _leaf(self, part: memoryview) -> Future[bytes]:
        self.waiting.append(self.pool.submit(_sha256, part))
        if len(self.waiting) > AHEAD:
            self.waiting.pop(0).result()
        return self.waiting[-1]

    def _put(self, data: Any) -> None:
        self.whole.update(data)
        self.write(data)


def _cuts(begin: int, end: int, step: int) -> list[int]:
    """Return begin, the multiples of ``step`` behind it, and end."""
    return [begin, *range(begin // step * step + step, end, step), end]


def _elements(x: Array, begin: int, end: int) -> Array:
    """Return elements of a NumPy array in C order: as it has them, or a copy."""
    found: Array = x.reshape(-1)[begin:end] if x.flags.c_contiguous else x.flat[begin:end]
    return found


def _sha256(data: Any) -> bytes:
    return sha256(data).digest()


# the commit


def commit(
    path: str | Path, folder: str | Path, records: Sequence[Record], tree: Mapping[str, Any], metadata: Any = None
) -> Path:
    """Make what all ranks have written a checkpoint, and return its path.

    A checkpoint of that name is replaced at once on Linux; elsewhere, and on file systems that cannot do that, it is
    an error. After an error there is no new checkpoint, and ``abandon`` takes away what was written.

    Args:
        path: the checkpoint, as ``begin`` was given it.
        folder: what ``begin`` returned.
        records: what ``write_shard`` returned on each rank, in any order.
        tree: the parts by name, as nested data, of whose arrays only dtype and shape count (see ``absent``).
        metadata: plain data about the checkpoint, without arrays.

    Raises:
        ValueError: a record is missing, the pieces do not make each array once, or are not those of the tree.
        TypeError: the tree or the metadata hold something that cannot be saved.
        OSError: it cannot be written, or replaced.
    """
    about, writer = Writer(), Writer()
    description = {
        "refoptim": __version__,
        "metadata": about.write(metadata, ("metadata",)),
        "tree": writer.write(tree),
    }
    if about.arrays:
        raise TypeError(f"metadata must hold no arrays, got {', '.join(about.arrays)}: make a part of them")
    commit_described(Path(path), Path(folder), records, description, writer.arrays)
    return Path(path)


def commit_described(
    path: Path, folder: Path, records: Sequence[Record], description: Mapping[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Commit with a tree and metadata that have been taken apart."""
    target = path.resolve()
    mode = "file" if folder == target else "rename"
    records = sorted(records, key=lambda record: str(record["file"]))
    layouts = {name: layout_of(x) for name, x in arrays.items()}
    _check_records(records, layouts)
    digests = {name: _joined(name, found, records) for name, found in layouts.items()}
    start = {"format": single.FORMAT, "schema": single.SCHEMA, **description}
    whole = _sealed(single.with_digest(start, digests), layouts, records, mode)
    replace(folder / DESCRIPTION, json.dumps(whole, separators=(",", ":")).encode("ascii") + b"\n")
    if mode == "file":
        replace(folder / COMMITTED, f"{whole['seal']}\n".encode("ascii"))
    else:
        _take_place(folder, target)
    settle(target.parent)


def _check_records(records: Sequence[Record], layouts: Mapping[str, Layout]) -> None:
    found, size = [record["file"] for record in records], len(records)
    if not records or found != [file_name(rank, size) for rank in range(size)]:
        raise ValueError(f"there must be one record of each rank, got those of {', '.join(map(str, found)) or 'none'}")
    for record in records:
        for name, (dtype, shape) in record["arrays"].items():
            if layouts.get(name) != Layout(dtype, tuple(shape)):
                other = f"and {layouts[name]} in the tree" if name in layouts else "and is not in the tree"
                raise ValueError(f"{name} is {Layout(dtype, tuple(shape))} in {record['file']}, {other}")
    parts_of(layouts, [record["ranges"] for record in records], "the records")


def _joined(name: str, found: Layout, records: Iterable[Record]) -> str:
    """Return the digest of an array from what the ranks know of its leaves."""
    own = [record for record in records if name in record["ranges"]]
    leaves = {first: leaf for record in own for first, leaf in _leaves(record, name, found)}
    shared: dict[int, bytes] = {}
    for begin, data in sorted((begin, data) for record in own for begin, data in record["ends"][name]):
        shared[begin // LEAF] = shared.get(begin // LEAF, b"") + data
    leaves.update((first, _sha256(data)) for first, data in shared.items())
    return joined(found, (leaves[i] for i in range(-(-found.nbytes // LEAF))))


def _leaves(record: Record, name: str, found: Layout) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and digests of the leaves that lie whole in a shard."""
    begin = record["ranges"][name][0] * (found.nbytes // prod(found.shape))
    return enumerate(record["leaves"][name], -(-begin // LEAF))


def _sealed(
    description: Mapping[str, Any], layouts: Mapping[str, Layout], records: Sequence[Record], mode: str
) -> dict[str, Any]:
    arrays = {name: [found.dtype, list(found.shape)] for name, found in layouts.items()}
    files = [{key: record[key] for key in ("file", "bytes", "sha256", "ranges")} for record in records]
    whole = {**description, "complex128": [], "arrays": arrays, "files": files, "commit": mode}
    return {**whole, "seal": seal(whole)}


def _take_place(folder: Path, target: Path) -> None:
    """Give a folder its name; a checkpoint that has it is exchanged for it at once, and then taken away."""
    _refuse_others(target)
    if target.is_dir() and any(sorted(target.iterdir())):
        _exchange(folder, target)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.replace(target)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change names at once; raise FileExistsError where the system cannot."""
    library: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    call = getattr(library, "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    if call is None or call(here, os.fsencode(one), here, os.fsencode(other), exchange):
        problem = "a folder cannot be replaced at once here: choose another name, or delete it first"
        raise FileExistsError(errno.EEXIST, problem, str(other))


# all of it by one process


def check_path(path: Path, shards: int) -> None:
    """Raise ValueError unless there can be so many shards in a folder of such a name."""
    if type(shards) is not int or not 1 <= shards <= MOST:
        raise ValueError(f"shards must be an integer in [1, {MOST}], got {shards!r}")
    if path.suffix.lower() in single.WRITERS:
        raise ValueError(f"{path.name} is the name of a file: leave out {path.suffix} for a folder of shards")


def write(
    path: Path, shards: int, description: Mapping[str, Any], arrays: Mapping[str, Array], progress: single.Progress
) -> None:
    """Write everything, divided into equal shards: the folder is whole or not there.

    Raises:
        OSError: it cannot be written, or replaced.
    """
    folder = begin(path)
    try:
        parts = _divided(arrays, shards)
        records = [write_shard(folder, rank, shards, part, progress) for rank, part in enumerate(parts)]
        commit_described(path, Path(folder), records, description, arrays)
    except BaseException:
        abandon(folder)
        raise


def _divided(arrays: Mapping[str, Array], size: int) -> Iterator[dict[str, Piece]]:
    """Yield equal parts of all arrays one behind the other, cut between elements."""
    total, before = sum(x.nbytes for x in arrays.values()), 0
    starts = {}
    for name, x in arrays.items():
        starts[name], before = before, before + x.nbytes
    for rank in range(size):
        limits = total * rank // size, total * (rank + 1) // size
        pieces = {name: _between(x, *(limit - starts[name] for limit in limits)) for name, x in arrays.items()}
        yield {name: piece for name, piece in pieces.items() if piece is not None}


def _between(x: Array, first: int, last: int) -> Piece | None:
    """Return those elements of an array that begin from byte ``first`` on and before byte ``last``."""
    begin, end = (min(max(-(-byte // x.itemsize), 0), x.size) for byte in (first, last))
    if begin >= end:
        return None
    if (begin, end) == (0, x.size):
        return Piece(x, 0, tuple(x.shape))
    return Piece(
        _elements(x, begin, end) if isinstance(x, np.ndarray) else x.reshape(-1)[begin:end], begin, tuple(x.shape)
    )
