"""torch's ``.pt`` files, read and written without torch, and without running what stands in them.

The file is a zip file with the members ``<root>/data.pkl``, a pickle of the data without the numbers of the tensors,
``<root>/data/<key>``, the numbers of each storage, ``<root>/byteorder`` and ``<root>/version``.

Source: ``torch/serialization.py`` and ``torch/_utils.py`` of torch 2.13.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..formats.files import replacing
from ..formats.raw import from_words, pieces
from ..formats.strict import Layout, shown
from ..formats.visible import visible
from ..numerics.arith import Array
from ..numerics.array_types import HOST, moved, place, plain
from . import pickled
from .errors import CheckpointError
from .pickling import Pickle
from .stored import Member, Writer, check, check_plain, members, require
from .torch_names import Torch, aligned, check_bools

SHARED = 16
"""How many times the bytes of a file its tensors may hold in all, as far as they are more than ``SMALL``."""

SMALL = 1 << 26

NEWEST = 10
"""The last version of the format that torch 2.13 reads."""

AGAIN = "load it with torch 1.6 or later and save it again: torch.save(torch.load(path, weights_only=True), path)"

OTHERS = {
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": f"is in torch's format from before 1.6: {AGAIN}",
    b"\x80": "is a pickle and no file of torch.save: load it where you trust it, and save its arrays and numbers",
    b"\x1f\x8b": "is compressed: gunzip it first",
    b"\x89HDF": "is an HDF5 file: no file of torch.save",
    b"\x93NUMPY": "is a .npy file: use numpy.load",
}
"""What files that are no zip files begin with."""


def load(path: str | Path, verify: bool = True) -> Any:
    """Read a file that ``torch.save`` or ``save`` wrote; nothing in it is run, and torch is not needed.

    Args:
        path: the file, whatever its suffix: ``.pt``, ``.pth``, ``.bin``, ``.ckpt``.
        verify: compare everything with its checksums, CRC-32; without, the file is only mapped into memory.

    Returns:
        What was saved: dicts, lists, tuples, texts, numbers, None. Tensors and Parameters are read-only NumPy arrays,
        which look at one memory map of the file (copy what you keep if another program may write over it); bfloat16 is
        that of ml_dtypes. Devices and dtypes are texts; attributes of tensors and of OrderedDicts are left out.

    Raises:
        CheckpointError: it is no such file, was cut off or altered, or holds more than tensors and plain data. The
            message says how to go on.
        OSError: it cannot be read.
    """
    path = Path(path)
    with _refused(path):
        require(not path.is_dir(), _folder(path))
        require(path.is_file() or not path.exists(), "is no file")
        with path.open("rb") as file:
            start = file.read(512)
            _check_start(start)
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _data(memory, verify)


def save(path: str | Path, nested: Any) -> None:
    """Write a file that ``torch.load`` reads, with ``weights_only=True``, whole or not at all.

    The same data make the same bytes. Arrays become tensors in C order, each with a storage of its own; arrays that
    are the same memory share one.

    Args:
        path: the file; one that is there is replaced.
        nested: dicts, lists, tuples and sets of texts, numbers, bytes, None, and of arrays of NumPy, CuPy, torch, or of
            any library that hands its memory over by DLPack. A number of NumPy becomes a tensor without axes, a
            Parameter its array.

    Raises:
        TypeError: it holds something else; the message says where.
        ValueError: it is nested too deep, or holds too much that is no array.
        OSError: the file cannot be written. What was there is as it was.
    """
    pickle = Pickle(nested)
    with replacing(Path(path)) as file:
        archive = Writer(file)
        archive.add("archive/data.pkl", len(pickle.data), [pickle.data])
        archive.add("archive/byteorder", 6, [b"little"])
        for key, x in enumerate(pickle.arrays):
            archive.add(f"archive/data/{key}", x.nbytes, pieces(_on_host(x)))
        archive.add("archive/version", 2, [b"3\n"])
        archive.close()


def _on_host(x: Array) -> Array:
    return plain(x) if place(x) is HOST else moved(x, HOST)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Let what is wrong with a file begin with its name."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{visible(path.name)} {error}") from None
    except ImportError:
        advice = "pip install ml_dtypes"
        raise CheckpointError(f"{visible(path.name)} holds bfloat16, which needs ml_dtypes: {advice}") from None


def _folder(path: Path) -> str:
    if (path / ".metadata").exists():
        command = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        return f"is a folder of shards, whose description is a pickle of classes: make a file of it with '{command}'"
    return "is a folder"


def _check_start(start: bytes) -> None:
    """Raise CheckpointError for files that are none of torch's, and say what they are."""
    for mark, problem in OTHERS.items():
        require(not start.startswith(mark), problem)
    require(start[257:262] != b"ustar", f"is in torch's first format: {AGAIN}")
    require(start[8:9] != b"{", "is perhaps a safetensors file: if refoptim wrote it, use refoptim.checkpoint.load")
    require(start.startswith(b"PK\x03\x04"), "is no file of torch.save, or its beginning is lost")


def _data(memory: mmap.mmap, verify: bool) -> Any:
    found = members(memory)
    root = _root(found)
    check_plain(found)
    for name, member in found.items() if verify else ():
        check(memory, name, member)
    _check_records({name: memory[x.begin : min(x.end, x.begin + 16)] for name, x in found.items()}, root)
    pickle = found[f"{root}/data.pkl"]
    require(pickle.end - pickle.begin <= pickled.MOST_BYTES, f"has a pickle of more than {pickled.MOST_BYTES} bytes")
    data = memory[pickle.begin : pickle.end]
    find = _Storages(memory, found, root).find
    meaning = Torch(find, 2 * len(data), SHARED * len(memory) + SMALL)
    return pickled.read(data, meaning, pickled.allowed(len(memory)))


def _root(found: Mapping[str, Member]) -> str:
    """Return the folder that all members stand in."""
    roots = [name.removesuffix("/data.pkl") for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    require(len(roots) == 1, "is a zip file, but torch.save did not write it: it has no data.pkl")
    program = "is a program of TorchScript: load it with torch.jit.load, and save its state_dict()"
    require(f"{roots[0]}/constants.pkl" not in found, program)
    return roots[0]


def _check_records(records: Mapping[str, bytes], root: str) -> None:
    order = records.get(f"{root}/byteorder", b"little")
    require(
        order.startswith(b"little"), f"holds numbers of the byte order {shown(order)}: load it with torch, save it here"
    )
    version = records.get(f"{root}/version", b"1").split()
    require(len(version) > 0 and version[0].isdigit(), "has no version")
    newer = f"has version {shown(version[0])} of torch's format, and this reads {NEWEST}: install a newer refoptim"
    require(int(version[0]) <= NEWEST, newer)


class _Storages:
    """The storages of a file, each read once."""

    def __init__(self, memory: mmap.mmap, found: Mapping[str, Member], root: str) -> None:
        self.memory, self.members, self.root = memory, found, root
        self.vectors: dict[str, tuple[str, Array]] = {}

    def find(self, key: str, dtype: str, count: int) -> Array:
        """Return a storage as a vector of ``count`` elements, read-only."""
        if key not in self.vectors:
            self.vectors[key] = dtype, self._read(key, dtype, count)
        kind, vector = self.vectors[key]
        if (kind, len(vector)) != (dtype, count):
            raise CheckpointError(f"has the storage {shown(key)} twice, and they differ")
        return vector

    def _read(self, key: str, dtype: str, count: int) -> Array:
        member = self.members.get(f"{self.root}/data/{key}")
        if member is None:
            raise CheckpointError(f"lacks the storage {shown(key)}")
        layout = Layout(dtype, (count,))
        if layout.nbytes != member.end - member.begin:
            raise CheckpointError(f"was altered: the storage {shown(key)} has other bytes than it says")
        return check_bools(aligned(from_words(self.memory, layout, member.begin)))
