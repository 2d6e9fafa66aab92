"""Runs kernels on NumPy arrays: the kernel files, built by the C++ compiler that was there at installation."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..numerics.arith import Array, DType
from ..step.changes import Change
from . import threads

LIBRARY = Path(__file__).with_name("_host.so")

REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary refoptim ."
"""Builds the library anew, in a checkout: pip's cache and an index may hold a wheel without it."""

AGAIN = f"run {REBUILD} in the checkout (with -e . if that is how it was installed)"

REMEDY = f"install a C++ compiler (g++ 10 or newer, or clang++ 12 or newer), then {AGAIN}"

CHUNK, LEAST = 1 << 16, 1 << 14
"""Elements that a block updates in one go, and how few they may be; no result depends on it."""

TURNS = 4
"""Chunks that each thread should have at least, so that all are done at about the same time."""

FEW = 1 << 15
"""Elements that are worth a thread."""

SLOT = 8
"""Bytes of an argument, at which they are aligned; a struct takes several times that."""


class Host:
    """The processors of this computer."""

    def __init__(self, library: ctypes.CDLL, variant: str) -> None:
        self.kernels, self.variant, self.process = library, variant, threads.process()
        self.entries: dict[str, Any] = {}

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run a kernel; see ``Machine``."""
        self.launching(stem, entry, blocks, *arguments, elements=elements)()

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made; see ``Machine``."""
        parts = [x.tobytes() if isinstance(x, np.generic) else self._pointer(x) for x in arguments]
        table = _table(parts)
        table.used = table.used, arguments
        return self._call(entry, blocks, elements, table)

    def launchings(self, stem: str, entry: str, blocks: int, *columns: Array) -> list[Change]:
        """Return launches that are yet to be made; see ``Machine``."""
        count, width = len(columns[0]), len(columns)
        slots = np.zeros((count, width), np.uint64)
        for j, column in enumerate(columns):
            slots.view(column.dtype).reshape(count, width, SLOT // column.itemsize)[:, j, 0] = column
        addresses = self.address(slots) + slots.itemsize * np.arange(slots.size, dtype=np.uintp)
        first, used = self.address(addresses), (slots, addresses)
        tables: list[Any] = [ctypes.c_void_p(first + i * width * addresses.itemsize) for i in range(count)]
        for table in tables:
            table.used = used
        return [self._call(entry, blocks, None, table) for table in tables]

    def standing(self, entry: str, blocks: int, *arguments: Array, elements: int) -> StandingLaunch:
        """Return a launch to be made again and again, which reads its arguments from arrays when it is made."""
        table: Any = (ctypes.c_void_p * len(arguments))(*map(self.address, arguments))
        table.used = arguments
        return StandingLaunch(partial(self._call, entry, blocks, elements, table))

    def _pointer(self, x: Array | None) -> bytes:
        return (0 if x is None else self.address(x)).to_bytes(SLOT, sys.byteorder)

    def _call(self, entry: str, blocks: int, elements: int | None, table: Any) -> Change:
        """Return the call of a kernel; the table holds the addresses of its arguments."""
        if entry not in self.entries:
            self.entries[entry] = getattr(self.kernels, f"{self.variant}_{entry}")
        workers = min(self.threads(), blocks, 1 + (FEW * blocks if elements is None else elements) // FEW)
        return partial(self.entries[entry], ctypes.c_longlong(blocks), ctypes.c_int(workers), table)

    def threads(self) -> int:
        """Return the number of threads to use; a forked child cannot use those of its parent."""
        return threads.get_num_threads() if threads.process() == self.process else 1

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array."""
        return np.empty(shape, dtype)

    def upload(self, table: Array, key: tuple[Hashable, ...] | None = None) -> Array:
        """Return a table of this computer as it is."""
        return table

    def chunk(self, elements: int) -> int:
        """Return how many elements a block updates in one go: fewer where there would be too few for each thread."""
        return CHUNK if elements >= TURNS * CHUNK * self.threads() else LEAST

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
        try:
            return ctypes.addressof(ctypes.c_char.from_buffer(x))
        except (
            TypeError,
            ValueError,
            BufferError,
        ):  # read-only, empty, not in C order, or of a dtype that Python has not
            address: int = x.__array_interface__["data"][0]
            return address


class StandingLaunch:
    """A launch that stands: written down once, and anew only if there may be other threads to make it on."""

    def __init__(self, written: Callable[[], Change]) -> None:
        self._written, self._call, self._setting = written, written(), [*threads.setting.values()]

    def now(self) -> Change:
        """Return the launch, on as many threads as there are now."""
        setting = [*threads.setting.values()]
        if setting != self._setting:
            self._call, self._setting = self._written(), setting
        return self._call


def _table(parts: Sequence[bytes]) -> Any:
    """Return a table of the addresses of some values, which are kept with it."""
    padded = [x.ljust(-(-len(x) // SLOT) * SLOT) for x in parts]
    slots = ctypes.create_string_buffer(b"".join(padded))
    places = accumulate(map(len, padded[:-1]), initial=ctypes.addressof(slots))
    table: Any = (ctypes.c_void_p * len(parts))(*places)
    table.used = slots
    return table


def machine() -> Host:
    """Return this computer, or raise RuntimeError if its kernels were not built or do not fit the sources."""
    found = _machine(LIBRARY)
    if isinstance(found, str):
        raise RuntimeError(f"fused=True needs the compiled kernels, {found}")
    return found


def missing() -> str:
    """Say why there are no kernels for this computer; nothing if there are."""
    found = _machine(LIBRARY)
    return found if isinstance(found, str) else ""


def compiled() -> ctypes.CDLL | None:
    """Return the library of the kernels; None where there is none for this computer."""
    found = _machine(LIBRARY)
    return found.kernels if isinstance(found, Host) else None


@cache
def _machine(path: Path) -> Host | str:
    from ..kernels.harness.source_hash import source_hash  # so that a checkout runs without its kernels

    if not path.exists():
        return f"which were not built when refoptim was installed: {REMEDY}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"which cannot be loaded ({error}): {REMEDY}"
    if _text(library.refoptim_source_hash) != source_hash():
        return f"which were built from other sources: {AGAIN}"
    fitting = variants(library)
    if not fitting:
        return f"and this processor has none of {_text(library.refoptim_variants)}: {AGAIN}"
    return Host(library, fitting[0])


def variants(library: ctypes.CDLL) -> list[str]:
    """Return the instruction sets for which kernels were built and that this processor has, the best first."""
    return [x for x in _text(library.refoptim_variants).split() if library.refoptim_supports(x.encode())]


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    text: bytes = function()
    return text.decode()
