"""A PTX text whose kernels can be launched."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from .faults import Fault, NotKnown
from .memory import Arrays
from .program import Program
from .text import Function, read, split
from .threads import Launch

LANES = 4096
"""Threads that run side by side, in whole blocks."""


class Module:
    """The kernels of a PTX text.

    Attributes:
        steps: instructions executed by all launches so far, each for any number of threads at once.
    """

    def __init__(self, text: str) -> None:
        self._texts = split(text)
        self.entries = [name for name, (head, _) in self._texts.items() if head[1] == "entry"]
        self.function = cache(self._function)
        self.program = cache(self._program)
        self.steps = 0

    def _function(self, name: str) -> Function:
        if name not in self._texts:
            raise NotKnown(f"{name} is not in this module")
        return read(*self._texts[name])

    def _program(self, entry: str) -> Program:
        if entry not in self.entries:
            raise Fault(f"{entry} is no kernel of this module")
        return Program(self.function(entry), self.function)

    def threads(self, entry: str) -> int:
        """Return how many threads a block of a kernel has at most; 0 if that was not said."""
        return self.function(entry).threads

    def launch(self, entry: str, grid: int, block: int, *arguments: Any, memory: Iterable[Any] = ()) -> None:
        """Run a kernel on ``grid`` blocks of ``block`` threads; see the package for what arguments may be."""
        arrays = [x for x in (*arguments, *memory) if isinstance(x, np.ndarray)]
        self.launch_on(Arrays.of(arrays), entry, grid, block, [passed(x) for x in arguments])

    def launch_on(self, arrays: Arrays, entry: str, grid: int, block: int, arguments: list[bytes]) -> None:
        """Run a kernel that may touch ``arrays``; ``arguments`` are bytes as they are passed."""
        program = self.program(entry)
        sizes = [variable.size for variable in program.kernel.parameters.values()]
        if [len(x) for x in arguments] != sizes:
            raise Fault(f"{entry} takes arguments of {sizes} bytes, got {[len(x) for x in arguments]}")
        if not (0 < grid < 1 << 31 and 0 < block <= (program.kernel.threads or 1024)):
            raise Fault(f"{entry} is not launched on {grid} blocks of {block} threads")
        launch = Launch(program, arrays, grid, block, dict(zip(program.kernel.parameters, arguments, strict=True)))
        with np.errstate(all="ignore"):
            self.steps += launch.run(max(1, LANES // block))


def passed(x: Any) -> bytes:
    """Return the bytes by which an argument is passed."""
    if x is None:
        return bytes(8)
    return x.tobytes() if isinstance(x, np.generic) else np.uint64(x.__array_interface__["data"][0]).tobytes()
