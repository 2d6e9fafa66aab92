"""Nested data in files of every kind: one table says who reads and who writes which suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..numerics.array_types import is_array
from . import directory, opened, pt, single
from .errors import CheckpointError
from .nested import Writer
from .nested import read as nested

Progress = single.Progress


class Found(NamedTuple):
    """What a file holds: its parts, its arrays by name, and what is said of it."""

    tree: dict[str, Any]
    arrays: dict[str, Any]
    about: dict[str, Any]


def write_tree(
    path: Path, tree: Mapping[str, Any], metadata: Any = None, progress: Progress = int, shards: int | None = None
) -> None:
    """Write nested data, whole or not at all, as the suffix says, or as a folder of so many shards.

    Raises:
        ValueError: the suffix stands for no format, or the format cannot hold the data.
        TypeError: the data hold something that cannot be saved; the message says where.
        OSError: the file cannot be written. What was there is as it was.
    """
    if shards is not None:
        directory.check_path(path, shards)
        directory.write(path, shards, *_described(tree, metadata), progress)
    else:
        kind(path).write(path, tree, metadata, progress)


def read_tree(path: Path, verify: bool = True, progress: Progress = int) -> Found:
    """Read what ``write_tree`` wrote.

    Raises:
        CheckpointError: it is no checkpoint, or was cut off or altered, or is of a newer version.
        ValueError: the suffix stands for no format.
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _found(path, opened.read(path, verify, progress))
    return kind(path).read(path, verify, progress)


def _write_single(path: Path, tree: Mapping[str, Any], metadata: Any, progress: Progress) -> None:
    single.write(path, *_described(tree, metadata), progress)


def _described(tree: Mapping[str, Any], metadata: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the description of nested data, and their arrays by name."""
    about, writer = Writer(), Writer()
    text = about.write(metadata, ("metadata",))
    if about.arrays:
        raise TypeError(f"metadata must hold no arrays, got {', '.join(about.arrays)}: make a part of them")
    return {"refoptim": __version__, "metadata": text, "tree": writer.write(tree)}, writer.arrays


def _read_single(path: Path, verify: bool, progress: Progress) -> Found:
    return _found(path, single.read(path, verify, progress))


def _found(path: Path, content: single.Content) -> Found:
    with single.damage(path.name):
        tree = nested(content.description["tree"], content.arrays)
        metadata = nested(content.description.get("metadata"), {})
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise CheckpointError(f"{path.name} has no parts")
    return Found(tree, content.arrays, {**content.description, "metadata": metadata})


def _write_torch(path: Path, tree: Mapping[str, Any], metadata: Any, progress: Progress) -> None:
    if metadata is not None:
        raise ValueError(f"torch's files have no place for metadata: make a part of it, or choose {SINGLE[0]}")
    pt.save(path, dict(tree))


def _read_torch(path: Path, verify: bool, progress: Progress) -> Found:
    tree = pt.load(path, verify)
    tree = tree if isinstance(tree, dict) and all(isinstance(name, str) for name in tree) else {"data": tree}
    return Found(tree, dict(_arrays(tree, ())), {"format": "torch", "metadata": None})


def _arrays(x: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of nested data, by the paths that lead to them."""
    if isinstance(x, (Mapping, list, tuple)):
        for key, y in x.items() if isinstance(x, Mapping) else enumerate(x):
            yield from _arrays(y, (*path, str(key)))
    elif is_array(x):
        yield ".".join(path), x


class Kind(NamedTuple):
    """Who reads and who writes one kind of file, and whether it has a place for metadata."""

    read: Callable[[Path, bool, Progress], Found]
    write: Callable[[Path, Mapping[str, Any], Any, Progress], None]
    metadata: bool = True


SINGLE = (*single.WRITERS,)
KINDS = {
    **dict.fromkeys(SINGLE, Kind(_read_single, _write_single)),
    **dict.fromkeys((".pt", ".pth"), Kind(_read_torch, _write_torch, metadata=False)),
}
"""The kinds of files by suffix."""


def kind(path: Path) -> Kind:
    """Return the kind of a file, or raise ValueError."""
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise ValueError(f"the suffix of {path.name} stands for no checkpoint: use one of {', '.join(KINDS)}")
    return KINDS[suffix]
