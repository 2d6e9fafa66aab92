"""Checkpoints of parts that are shared out among ranks: all ranks write one together, and read what each needs.

A part that is a ``refoptim.distributed.Sharded`` is written by all ranks, each its share. Other parts are the same on
all ranks: of their arrays each rank writes an equal part, and what is no array is taken from rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..distributed import facts, share_dict
from ..distributed.comm import Communicator, together
from ..distributed.sharded import Sharded
from ..numerics.arith import Array
from . import directory, parts
from .errors import CheckpointError
from .tree import read_tree


def communicator(found: Mapping[str, Any]) -> Communicator | None:
    """Return what the ranks of parts talk through; None where no part is shared out."""
    return next((x.comm for x in found.values() if isinstance(x, Sharded) and x.comm.size > 1), None)


def save(path: Path, comm: Communicator, found: Mapping[str, Any], metadata: Any, shards: int | None) -> Path:
    """Write a checkpoint, all ranks together.

    Raises:
        ValueError, TypeError, OSError: as of a checkpoint that one process writes.
        RankError: something is wrong on another rank; there is no new checkpoint.
    """

    def ready() -> tuple[dict[str, Any], dict[str, directory.Piece]]:
        if shards not in (None, comm.size):
            raise ValueError(f"{comm.size} ranks write as many shards, got shards={shards!r}")
        directory.check_path(path, comm.size)
        return _described(comm, found)

    tree, pieces = _agreed(comm, ready, {"path": str(path), "parts": list(found)})
    folder = comm.gather(together(comm, lambda: directory.begin(path) if comm.rank == 0 else None))[0]
    try:
        record = together(comm, lambda: directory.write_shard(folder, comm.rank, comm.size, pieces))
        records = comm.gather(record)
        together(comm, lambda: directory.commit(path, folder, records, tree, metadata) if comm.rank == 0 else None)
    except BaseException:
        if comm.rank == 0:
            directory.abandon(folder)
        raise
    return path


def _agreed(comm: Communicator, local: Callable[[], Any], told: facts.Facts) -> Any:
    """Return what a function returns, if it returns on all ranks and they want the same."""
    value, error = None, None
    try:
        value = local()
    except BaseException as raised:
        error = raised
    facts.agree(comm, error, told)
    return value


def _described(comm: Communicator, found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, directory.Piece]]:
    """Return what is saved as nested data, and what this rank writes of its arrays."""
    own: dict[int, directory.Piece] = {}

    def described(part: Any) -> Any:
        return _shared(part, own) if isinstance(part, Sharded) and part.comm.size > 1 else parts.saved(part)

    tree = {name: described(part) for name, part in found.items()}
    arrays = directory.named(tree)
    pieces = {name: own.get(id(x)) or _equal_part(comm, x) for name, x in arrays.items()}
    return tree, pieces


def _shared(opt: Sharded, own: dict[int, directory.Piece]) -> dict[str, Any]:
    """Return the state dict of what is shared out, and note by the arrays in it what this rank has of them."""

    def absent(x: Array, i: int, name: str) -> Array:
        shape, begin, end = share_dict.places(opt, i, name)[opt.comm.rank]
        stands = np.broadcast_to(np.zeros((), x.dtype), shape)
        own[id(stands)] = directory.Piece(x.reshape(-1)[: end - begin], begin, shape)
        return stands

    return {"state": share_dict.collected(opt, absent), "param_groups": share_dict.groups(opt)}


def _equal_part(comm: Communicator, x: Array) -> directory.Piece:
    begin, end = (x.size * r // comm.size for r in (comm.rank, comm.rank + 1))
    return directory.Piece(x.reshape(-1)[begin:end], begin, tuple(x.shape))


class _Stored:
    """An array of a checkpoint, of which a rank reads what it needs."""

    def __init__(self, folder: directory.Directory, name: str) -> None:
        self.folder, self.name, self.shape = folder, name, tuple(folder.layouts[name].shape)

    def read(self, begin: int, end: int) -> Array:
        """Read elements."""
        return self.folder.read_range(self.name, begin, end)


def restore(path: Path, comm: Communicator, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Let parts take over what was saved of them, on all ranks or on none; return everything that was saved.

    Of a folder each rank reads what it needs, and the ranks share out the digests that are compared.

    Raises:
        CheckpointError, OSError: as where one process restores.
        RankError: something is wrong on another rank.
    """
    shared = [name for name, x in asked.items() if isinstance(x, Sharded) and x.comm.size > 1]
    found = together(comm, partial(_read, path, comm, shared))
    parts.restore(asked, found, partial(together, comm), shared)
    return dict(found)


def _read(path: Path, comm: Communicator, shared: list[str]) -> dict[str, Any]:
    """Read a checkpoint; arrays of parts that are shared out are read when it is known what of them is needed."""
    if not path.is_dir():
        return read_tree(path, True).tree
    folder = directory.open_directory(path)
    folder.verify(comm.rank, comm.size)
    starts = tuple(f"{name}." for name in shared)

    def array(name: str) -> Any:
        if not name.startswith(starts) or not prod(folder.layouts[name].shape):
            return folder.array(name)
        return _Stored(folder, name)

    found = folder.tree(array)
    missing = [name for name in shared if name not in found]
    if missing:
        raise CheckpointError(f"the checkpoint has no part {missing[0]!r}, it has {', '.join(map(repr, found))}")
    return found
