"""Measures how fast checkpoints are written and opened, against safetensors and torch, in turn and in one process."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage, rmtree
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np

import refoptim

from .. import checkpoint
from ..formats.files import settle
from ..numerics.arith import Array

ARRAYS = 16
"""Arrays of a checkpoint, one of them in 1,000 pieces."""

PIECES = 1000


class Operation(NamedTuple):
    """What is measured: its name, who does it, and how."""

    what: str
    who: str
    run: Callable[[], Any]


def made(nbytes: int) -> dict[str, Array]:
    """Return float32 arrays of about so many bytes together, large ones and many small ones, of random bits."""
    rng, n = np.random.default_rng(0), max(1, nbytes // ARRAYS // 4)
    large = {f"layer.{i}": rng.integers(0, 1 << 30, n, np.uint32).view(np.float32) for i in range(ARRAYS - 1)}
    small = rng.integers(0, 1 << 30, n, np.uint32).view(np.float32)
    return large | {f"piece.{i}": x for i, x in enumerate(np.array_split(small, min(PIECES, n)))}


@contextmanager
def folder(beside: Path, nbytes: int) -> Iterator[Path]:
    """Yield a new folder, deleted in the end, on whose disk there is room for all files."""
    found = Path(mkdtemp(prefix="refoptim-bench-", dir=beside))
    try:
        free = disk_usage(found).free
        needed = 7 * nbytes // 2
        if free < needed:
            raise RuntimeError(f"{beside} has room for {free} bytes, and {needed} are needed: choose a smaller --size")
        yield found
    finally:
        rmtree(found)


def operations(arrays: Mapping[str, Array], where: Path) -> list[Operation]:
    """Return what is measured; the files of what writes are read by what comes after it."""
    mine = where / "mine.safetensors"
    ours = [
        Operation("write", "refoptim", lambda: checkpoint.save(mine, model=arrays)),
        Operation("open", "refoptim", lambda: checkpoint.load(mine, verify=False)),
        Operation("read all", "refoptim", lambda: _touched(checkpoint.load(mine, verify=False)["model"])),
        Operation("read all, verified", "refoptim", lambda: checkpoint.load(mine)),
    ]
    peers: list[Operation] = []
    if find_spec("safetensors"):
        peers += _safetensors(arrays, where / "theirs.safetensors")
    if find_spec("torch"):
        peers += _torch(arrays, where / "theirs.pt")
    return ours + peers


def _safetensors(arrays: Mapping[str, Array], path: Path) -> list[Operation]:
    theirs = import_module("safetensors.numpy")

    def write() -> None:
        theirs.save_file(dict(arrays), path)
        _settle(path)

    return [
        Operation("write", "safetensors", write),
        Operation("open", "safetensors", lambda: theirs.load_file(path)),
        Operation("read all", "safetensors", lambda: _touched(theirs.load_file(path))),
    ]


def _torch(arrays: Mapping[str, Array], path: Path) -> list[Operation]:
    torch: Any = import_module("torch")
    tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}

    def write() -> None:
        torch.save(tensors, path)
        _settle(path)

    def read() -> Any:
        return {name: x.numpy() for name, x in torch.load(path, mmap=True, weights_only=True).items()}

    return [
        Operation("write", "torch", write),
        Operation("open", "torch", read),
        Operation("read all", "torch", lambda: _touched(read())),
    ]


def _settle(path: Path) -> None:
    """Let a file and its name reach the disk, as ours do."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    settle(path.parent)


def _touched(arrays: Mapping[str, Array]) -> int:
    """Read every byte of arrays."""
    return sum(int(np.bitwise_or.reduce(x.view(np.uint32), initial=0)) for x in arrays.values())


def measured(arrays: Mapping[str, Array], where: Path, repeats: int, turn: Callable[[int], Any]) -> dict[str, Any]:
    """Return the median seconds of each operation by each library; they take turns, in one order and in the other.

    The first turn is not counted. What others have written is on the disk before one begins.
    """
    found = operations(arrays, where)
    seconds: dict[tuple[str, str], list[float]] = {(x.what, x.who): [] for x in found}
    for k in range(repeats + 1):
        for operation in found[:: -1 if k % 2 else 1]:
            getattr(os, "sync", int)()
            start = time.perf_counter()
            operation.run()
            seconds[operation.what, operation.who].append(time.perf_counter() - start)
        turn(1)
    medians: dict[str, Any] = {}
    for (what, who), x in seconds.items():
        medians.setdefault(what, {})[who] = statistics.median(x[1:])
    return medians


def surroundings() -> dict[str, Any]:
    """Return the computer and the versions of what takes part."""
    peers = {name: import_module(name).__version__ if find_spec(name) else None for name in ("safetensors", "torch")}
    return {
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "refoptim": refoptim.__version__,
        "NumPy": np.__version__,
        **peers,
    }
