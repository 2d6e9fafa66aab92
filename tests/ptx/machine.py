"""What refoptim's engine launches kernels on in tests: PTX in place of the library for this computer."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refoptim.engines import host, nvrtc

from . import compiled
from .memory import GARBAGE, Arrays
from .module import Module, passed

CHUNK = 1 << 12
"""Elements that a block updates in one go; no result depends on it."""


class Known:
    """The arrays whose addresses were handed out, as long as they live."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[int, int, int], tuple[bool, Any]] = {}

    def add(self, x: Any) -> None:
        """Take note of an array of NumPy's; of a view, only what it shows may be touched."""
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if x.size:
            key = (*np.lib.array_utils.byte_bounds(x), id(owner))
            self._ranges[key] = x.flags.writeable, weakref.ref(owner)

    def arrays(self) -> Arrays:
        """Return what a kernel may touch now."""
        self._ranges = {key: x for key, x in self._ranges.items() if x[1]() is not None}
        return Arrays((low, high, writeable) for (low, high, _), (writeable, _) in self._ranges.items())


@dataclass(eq=False)
class Machine:
    """Executes the PTX of refoptim's kernels on NumPy arrays.

    Attributes:
        arch: the architecture to compile for.
        folder: where PTX is kept.
        blocks: how many blocks a launch has at most; None for as many as it asks for.
        threads: how many threads a block has; 0 for as many as the kernel was compiled for.
        change: what is done to a source before it is compiled.
        flags: options of the compiler beside those of the engine.
        launched: the kernels that have run.
    """

    arch: str
    folder: Path
    blocks: int | None = None
    threads: int = 0
    change: Callable[[str], str] = str
    flags: tuple[str, ...] = ()
    launched: set[str] = field(default_factory=set)
    known: Known = field(default_factory=Known)
    uploaded: deque[Any] = field(default_factory=partial(deque, maxlen=64))

    def module(self, stem: str) -> Module:
        """Return the kernels of ``kernels/<stem>.cu``."""
        return compiled.module(self.change(nvrtc.expand(stem)), self.arch, self.folder, self.flags)

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run a kernel; see the engine's ``Machine``."""
        self.launching(stem, entry, blocks, *arguments, elements=elements)()

    def launching(
        self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None
    ) -> partial[Any]:
        """Return a launch that is yet to be made."""
        for x in arguments:
            if isinstance(x, np.ndarray):
                self.known.add(x)
        return partial(self._run, self.module(stem), entry, blocks, arguments)

    def launchings(self, stem: str, entry: str, blocks: int, *columns: Any) -> list[partial[Any]]:
        """Return launches that are yet to be made; see the engine's ``Machine``."""
        return [self.launching(stem, entry, blocks, *row) for row in zip(*columns, strict=True)]

    def _run(self, module: Module, entry: str, blocks: int, arguments: tuple[Any, ...]) -> None:
        grid = min(blocks, self.blocks or blocks)
        self.launched.add(entry)
        given = [passed(x) for x in arguments]
        module.launch_on(self.known.arrays(), entry, grid, self.threads or module.threads(entry), given)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Make an array that holds garbage."""
        x = np.empty(shape, dtype)
        x.reshape(-1).view(np.uint8)[...] = GARBAGE
        return x

    def upload(self, table: Any, key: Any = None) -> Any:
        """Copy a table; the copy is not to be written, and lives until others have taken its place."""
        copy = table.copy()
        copy.flags.writeable = False
        self.uploaded.append(copy)
        return copy

    def chunk(self, elements: int) -> int:
        """Return how many elements a block updates in one go."""
        return CHUNK

    def address(self, x: Any) -> int:
        """Return where an array lies, and let kernels touch it from now on."""
        self.known.add(x)
        return int(x.__array_interface__["data"][0])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run kernels here that are meant for this computer; what a GPU rounds, this rounds without warnings."""
        found = host._machine
        host._machine = lambda path: self  # type: ignore[assignment]
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            host._machine = found
