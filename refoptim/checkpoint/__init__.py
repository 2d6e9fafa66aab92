"""Checkpoints: everything of a run in one file that is never half written, never run, and noticed when altered.

::

    save("run/step-1200.safetensors", model=params, optimizer=opt, scheduler=sched, epoch=3)
    data = restore(latest("run"), model=params, optimizer=opt, scheduler=sched)         # data["epoch"] is 3

A part is whatever has ``state_dict`` and ``load_state_dict`` (optimizers, schedulers, averages, scalers, modules of
torch); a model: an object with ``parameters()``, or a dict, list or tuple of arrays; a ``numpy.random.Generator``; or
plain data: numbers, texts, None, arrays, and dicts, lists and tuples of such.

The suffix chooses the format: ``.safetensors``, ``.npz`` or ``.json``, in which every bit is kept, the same content
makes the same bytes, and a digest of each array and of the rest is checked when it is read; ``.pt`` for torch, which
keeps no digests. ``shards=3`` writes a folder of so many files (``refoptim.checkpoint.directory`` lets many processes
write it together).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from . import collective as _collective
from . import directory as _directory
from . import opened as _opened
from . import parts as _parts
from . import pt
from .errors import CheckpointError
from .single import load_arrays as _load_arrays
from .tree import SINGLE
from .tree import kind as _kind
from .tree import read_tree as _read_tree
from .tree import write_tree as _write_tree

Data = dict[str, Any]

__all__ = ["CheckpointError", "latest", "load", "load_arrays", "prune", "pt", "restore", "save"]


def save(path: str | Path, *, metadata: Any = None, shards: int | None = None, **parts: Any) -> Path:
    """Write a checkpoint, whole or not at all, and return its path; a file that is there is replaced.

    Args:
        path: the file; its suffix is the format.
        metadata: plain data about the checkpoint, without arrays; ``refoptim checkpoint show`` prints it.
        shards: write a folder of so many shards, under a path without suffix (``refoptim.checkpoint.directory``).
        parts: what is saved, by name. If one is an optimizer that is shared out among ranks
            (``refoptim.distributed``), all ranks call this together, and write a folder with a shard of each.

    Raises:
        ValueError: the suffix stands for no format, there is no part, or a format cannot hold the parts.
        TypeError: a part holds something that cannot be saved; the message says where.
        OSError: the file cannot be written. What was there is as it was.
    """
    target, comm = Path(path), _collective.communicator(parts)
    if comm is not None:
        return _collective.save(target, comm, parts, metadata, shards)
    _kind(target) if shards is None else _directory.check_path(target, shards)
    if not parts:
        raise ValueError("a checkpoint needs parts: save(path, optimizer=...)")
    _write_tree(target, {name: _parts.saved(part) for name, part in parts.items()}, metadata, shards=shards)
    return target


def load(path: str | Path, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint: a dict of what was saved of each part.

    Args:
        path: the file, or folder of shards.
        verify: compare everything with its digests; without, the file is only mapped into memory.

    Returns:
        The parts by name. Arrays are read-only views of the file; those that lie in several shards are in memory.

    Raises:
        CheckpointError: it is no checkpoint, or was cut off or altered, or is of a newer version.
        ValueError: the suffix stands for no format.
        OSError: it cannot be read.
    """
    return _read_tree(Path(path), verify).tree


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Return the arrays of any ``.safetensors`` or ``.npz`` file, by name, whoever wrote it.

    Such a file has no digests: a cut one is noticed, an altered one is not.

    Returns:
        Read-only views of the file.

    Raises:
        CheckpointError: it is no such file, or holds arrays that NumPy has no dtype for.
        ValueError: the suffix is another one.
        OSError: it cannot be read.
    """
    return _load_arrays(Path(path))


def restore(path: str | Path, **parts: Any) -> dict[str, Any]:
    """Let parts take over what was saved of them, all or none, and return the plain data of the checkpoint.

    Args:
        path: the file, or folder of shards.
        parts: what takes over, by the names under which it was saved. Parts of the file that are not asked for are
            left alone, and returned as well. If one is an optimizer that is shared out among ranks, all ranks call
            this together; how many have written the checkpoint does not matter.

    Raises:
        CheckpointError: the file is none, or a part is missing or does not fit. Nothing has changed then.
        OSError: it cannot be read.
    """
    comm = _collective.communicator(parts)
    found = load(path) if comm is None else _collective.restore(Path(path), comm, parts)
    if comm is None:
        _parts.restore(parts, found)
    return {name: x for name, x in found.items() if name not in parts}


def latest(directory: str | Path, verify: bool = True) -> Path | None:
    """Return the newest checkpoint of a folder that is as it was written, None if there is none.

    The newest has the largest numbers in its name, compared one after the other (``step-1200``, ``2026-12-01``);
    without numbers, or with equal ones, it is the one written last. Files and folders that are no checkpoints, or are
    cut off, do not count, nor do torch's files, which do not say whose they are. A folder that is not there has none.

    Args:
        directory: the folder.
        verify: compare every byte with its digest, from the newest on until one checkpoint is whole; a UserWarning
            names those that are passed over. Without, only what describes a checkpoint is compared with its digest, and
            the arrays are measured but not read, so that this takes no time, and an altered array is not noticed.
    """
    return next(filter(_is_whole if verify else None, _newest(Path(directory))), None)


def prune(directory: str | Path, keep: int = 3, verify: bool = False) -> list[Path]:
    """Delete all checkpoints of a folder but the ``keep`` newest, and return what was deleted, oldest first.

    Of a link only the link is deleted. What a link among the newest leads to stays as well, and a link to what stays.
    Files that others have put into a folder of shards stay.

    Args:
        directory: the folder.
        keep: how many stay.
        verify: read the newest as ``latest`` does. Those that were altered stay too, but do not count.

    Raises:
        ValueError: ``keep`` is no integer from 1 on.
        OSError: a file cannot be deleted.
    """
    if type(keep) is not int or keep < 1:
        raise ValueError(f"keep must be an integer in [1, inf), got {keep!r}")
    found = [*_newest(Path(directory))]
    whole = islice((i for i, path in enumerate(found) if not verify or _is_whole(path)), keep - 1, keep)
    last = next(whole, len(found))
    kept = {path.resolve() for path in found[: last + 1]}
    old = [path for path in found[:last:-1] if path.resolve() not in kept]
    for path in old:
        _directory.remove(path) if path.is_dir() else path.unlink(missing_ok=True)
    return old


def _newest(directory: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder, newest first; each is looked at when it is asked for."""
    names = [path for path in _paths_in(directory) if not path.name.startswith(".")]
    found = [path for path in names if path.is_dir() or path.suffix.lower() in SINGLE]
    return filter(_is_checkpoint, sorted(found, key=_age, reverse=True))


def _paths_in(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:  # as before the first save
        return []


def _age(path: Path) -> tuple[list[int], int, str]:
    name, written = path.stem if path.suffix.lower() in SINGLE else path.name, -1
    with suppress(OSError):  # another process may have deleted it meanwhile
        written = path.stat().st_mtime_ns
    return [int(digits) for digits in re.findall(r"\d+", name)], written, path.name


def _is_checkpoint(path: Path) -> bool:
    try:
        _opened.Directory(path).check() if path.is_dir() else _read_tree(path, verify=False)
    except (CheckpointError, OSError):
        return False
    return True


def _is_whole(path: Path) -> bool:
    """Tell whether every byte of a checkpoint has its digest, and warn if not."""
    try:
        _opened.Directory(path).verify() if path.is_dir() else _read_tree(path)
    except FileNotFoundError:  # deleted meanwhile
        return False
    except (CheckpointError, OSError) as error:
        warnings.warn(f"a checkpoint is passed over: {error}", UserWarning, stacklevel=3)
        return False
    return True
