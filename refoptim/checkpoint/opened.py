"""A folder of shards, opened: reads those ranges of arrays that are asked for."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import safetensors
from ..formats.raw import CHUNK, from_words
from ..formats.strict import Layout, require
from ..numerics.arith import Array
from . import single
from .nested import read as nested
from .shards import DESCRIPTION, check_file, described, form, parts_of


class Directory:
    """A checkpoint that is a folder of shards, of which only the description was read.

    Attributes:
        path: the folder.
        description: what ``checkpoint.json`` says.
        layouts: the dtypes and shapes of the arrays, by name.
        files: the names of the shards.
        bytes_read: how many bytes of arrays ``read_range`` and ``array`` have read; what is only mapped does not count.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.bytes_read = Path(path), 0
        self._identity = _identity(self.path)
        with single.damage(self.path.name):
            self.description, self.layouts = described(self.path)
            self.files: list[str] = [x["file"] for x in self.description["files"]]
            ranges = [x["ranges"] for x in self.description["files"]]
            self._parts = parts_of(self.layouts, ranges, self.path.name)
        self._tables: dict[int, dict[str, safetensors.Place]] = {}
        self._memory: dict[int, mmap.mmap] = {}

    def tree(self, array: Callable[[str], Any]) -> dict[str, Any]:
        """Return the parts by name, with what a function returns for the name of an array in the place of each.

        ``directory.tree(directory.array)`` reads everything.
        """
        with single.damage(self.path.name):
            found = nested(self.description["tree"], _Asked(self.layouts, array))
            require(isinstance(found, dict), f"{self.path.name} has no parts")
            return dict(found)

    def array(self, name: str) -> Array:
        """Return a whole array, read-only; one that lies in one shard looks at the file, and is not read yet.

        Raises:
            KeyError: there is no such array.
            CheckpointError: a shard is not what the description says.
            OSError: it cannot be read.
        """
        found, parts = self.layouts[name], self._parts[name]
        if len(parts) == 1:
            with single.damage(self.path.name):
                return from_words(self._mapped(parts[0].shard), found, self._begin(parts[0].shard, name))
        x = self.read_range(name, 0, prod(found.shape)).reshape(found.shape)
        x.flags.writeable = False
        return x

    def read_range(self, name: str, begin: int, end: int) -> Array:
        """Read the elements of an array from ``begin`` to ``end``, in C order, and no others, as a new vector.

        Raises:
            KeyError: there is no such array.
            ValueError: the range does not lie in it.
            CheckpointError: a shard is not what the description says.
            OSError: it cannot be read.
        """
        found = self.layouts[name]
        if not 0 <= begin <= end <= prod(found.shape):
            raise ValueError(f"the range [{begin}, {end}) does not lie in {name}, which has shape {found.shape}")
        wanted, size = Layout(found.dtype, (end - begin,)), Layout(found.dtype, ()).nbytes
        memory: Array = np.empty(wanted.nbytes, np.uint8)
        data = memoryview(memory)
        with single.damage(self.path.name):
            for part in self._parts[name]:
                first, last = max(part.begin, begin), min(part.end, end)
                if first < last:
                    where = self._begin(part.shard, name) + (first - part.begin) * size
                    self._read(part.shard, where, data[(first - begin) * size : (last - begin) * size])
        return from_words(data, wanted)

    def check(self) -> None:
        """Compare the headers of all shards with the description, without reading arrays.

        Raises:
            CheckpointError: a shard is not what the description says.
            OSError: one cannot be read.
        """
        with single.damage(self.path.name):
            for i in range(len(self.files)):
                self._table(i)

    def verify(self, rank: int = 0, size: int = 1, progress: single.Progress = int) -> None:
        """Compare whole shards with their digests: those with the numbers rank, rank + size, rank + 2 size ….

        Raises:
            ValueError: there is no such rank.
            CheckpointError: a shard was altered.
            OSError: one cannot be read.
        """
        if not 0 <= rank < size:
            raise ValueError(f"rank must be an integer in [0, size), got rank {rank!r} of size {size!r}")
        for i in range(rank, len(self.files), size):
            with single.damage(self.path.name):
                self._table(i)
                altered = f"{self._named(i)} was altered: its digest is wrong"
                require(self._digest(i, progress) == self.description["files"][i]["sha256"], altered)

    def _digest(self, i: int, progress: single.Progress) -> str:
        whole = sha256()
        with self._open(i) as file:
            while data := file.read(CHUNK):
                whole.update(data)
                progress(len(data))
        return whole.hexdigest()

    def _named(self, i: int) -> str:
        return f"{self.path.name}/{self.files[i]}"

    @contextmanager
    def _open(self, i: int) -> Iterator[io.FileIO]:
        """Open a shard, to read the bytes that are asked for alone, and none of a checkpoint in its place."""
        with (self.path / self.files[i]).open("rb", buffering=0) as file:
            require(_identity(self.path) == self._identity, f"{self.path.name} was replaced after it was opened")
            yield file

    def _begin(self, i: int, name: str) -> int:
        """Return where in a shard its piece of an array begins."""
        return self._table(i)[name].begin

    def _table(self, i: int) -> dict[str, safetensors.Place]:
        """Return where the pieces lie in a shard, whose header must say what the description says."""
        if i not in self._tables:
            entry, where = self.description["files"][i], self._named(i)
            check_file(self.path / self.files[i], entry["bytes"], where)
            with self._open(i) as file:
                _, table = safetensors.read_header(file, entry["bytes"], where, single.LIMITS)
            forms = {name: form(self.layouts[name], *found) for name, found in entry["ranges"].items()}
            same = {name: place.layout for name, place in table.items()} == forms
            require(same, f"{where} holds other pieces than {DESCRIPTION} says")
            self._tables[i] = table
        return self._tables[i]

    def _mapped(self, i: int) -> mmap.mmap:
        if i not in self._memory:
            self._table(i)
            with self._open(i) as file:
                self._memory[i] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._memory[i]

    def _read(self, i: int, begin: int, into: memoryview) -> None:
        with self._open(i) as file:
            file.seek(begin)
            while into:
                count = file.readinto(into[:CHUNK])
                require(bool(count), f"{self._named(i)} is cut off")
                self.bytes_read += count or 0
                into = into[count:]


class _Asked(Mapping[str, Any]):
    """The arrays of a folder: a function is asked for each when the tree comes to it."""

    def __init__(self, names: Mapping[str, Any], array: Callable[[str], Any]) -> None:
        self.names, self.ask = names, array

    def __getitem__(self, name: str) -> Any:
        return self.ask(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _identity(folder: Path) -> Any:
    """Return what tells a folder from one that takes its place."""
    try:
        status = (folder / DESCRIPTION).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read(path: Path, verify: bool, progress: single.Progress) -> single.Content:
    """Read everything: arrays that are not divided look at their files, others are put together.

    Raises:
        CheckpointError: it is no checkpoint, cut off, altered, or of a newer version.
        OSError: it cannot be read.
    """
    found = Directory(path)
    arrays = {name: found.array(name) for name in found.layouts}
    if verify:
        with single.damage(path.name), ThreadPoolExecutor(single.THREADS) as pool:
            single.verify_arrays(found.description, arrays, path.name, single.Hashing(pool, progress))
    return single.Content(found.description, arrays)
