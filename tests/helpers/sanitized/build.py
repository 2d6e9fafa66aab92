"""Builds the kernels with a sanitizer, and runs them in place of the library for this computer."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from helpers import ROOT
from refoptim.engines import host
from refoptim.step.changes import Change

COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), "")
HERE = Path(__file__).parent
KERNELS = ROOT / "kernels"
HOST = KERNELS / "host"
FLAGS = ("-std=c++20", "-O0", "-ffp-contract=off", "-Wall", "-Werror", "-fPIC", "-shared", "-pthread")


def build(library: Path, *flags: str, kernels: str = "*.cu") -> Path:
    """Build a library of kernels, and of the broken ones; CalledProcessError holds what the compiler says.

    With ``-DHOST -DVARIANT=sanitized`` it is the library for this computer, under the same names.
    """
    chosen = [Path(kernels)] if "/" in kernels else sorted(KERNELS.rglob(kernels))
    chosen.insert(0, HOST / "layouts.cpp")  # which both need, for its code runs in each step
    of_host = [HOST / "cuda.h", HOST / "packed_storage.h", *chosen]
    files = of_host if "-DHOST" in flags else [HERE / "cuda.h", *chosen, HERE / "broken.cu"]
    source = library.with_suffix(".cpp")
    source.write_text("".join(f'#include "{file}"\n' for file in files))
    subprocess.run([COMPILER, *FLAGS, *flags, source, "-o", library], check=True, capture_output=True, text=True)
    return library


class Sanitized(host.Host):
    """A device that runs no more than ``blocks`` blocks, of ``size`` threads each."""

    def __init__(self, library: Path, blocks: int, size: int) -> None:
        super().__init__(ctypes.CDLL(str(library)), "sanitized")
        self.blocks, self.size = blocks, size

    def _call(self, entry: str, blocks: int, elements: int | None, table: Any) -> Change:
        """Return the call of a kernel; the table holds the addresses of its arguments."""
        function = getattr(self.kernels, f"sanitized_{entry}")
        return partial(function, ctypes.c_longlong(min(blocks, self.blocks)), ctypes.c_int(self.size), table)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run kernels here that are meant for this computer."""
        found = host._machine
        host._machine = lambda path: self
        try:
            yield
        finally:
            host._machine = found
