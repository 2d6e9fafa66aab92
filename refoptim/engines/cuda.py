"""Runs kernels on CuPy arrays: compiled with NVRTC when they are first needed, and kept on disk.

CuPy itself compiles with flush-to-zero, so it is only given binaries. They lie in the folder that REFOPTIM_CACHE_DIR
names, else in ``refoptim`` in XDG_CACHE_HOME, else in ``~/.cache/refoptim``; everything there can be deleted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib import import_module
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

import numpy as np

from ..formats.files import replace
from ..numerics.arith import Array, DType
from ..step.changes import Change
from . import nvrtc
from .machine import key_of

LOG = logging.getLogger("refoptim")

GRID = (1 << 31) - 1
"""Blocks of a launch at most: all that CUDA takes, since the hardware shares them out best; no result depends on it."""

CHUNK, LEAST = 1 << 13, 1 << 10
"""Elements that a block updates in one go, and the fewest of them; the last blocks of a launch are then soon done."""

AT_ONCE = 4
"""Blocks of the elementwise harness that a multiprocessor holds at once (3 of doubles): see ``multi_tensor.cuh``."""

ROOM = 32 << 20
"""Bytes of tables kept on a GPU for the case that they are needed again."""

LEGACY, PER_THREAD = (0, 1), 2
"""Numbers of CUDA's own streams: the one that all threads share, and the one that is another in each thread."""

NO_DRIVER, NO_DEVICE = 35, 100
"""CUDA's numbers of the errors that there is no driver, or only one that is too old, and that there is no GPU."""


@dataclass(eq=False)
class Table:
    """A table on a GPU, and what its copying needs until the event has happened; None from then on.

    Its stream is held so that no other gets the same number.
    """

    array: Array
    source: Any
    stream: Any
    event: Any

    def is_there(self) -> bool:
        """Tell whether it has been copied, and give up what is not needed any more then."""
        if self.event is not None and self.event.done:
            self.source = self.event = None
        return self.event is None

    def wait(self) -> None:
        """Wait until it has been copied."""
        if self.event is not None:
            self.event.synchronize()
            self.source = self.event = None


class Cuda:
    """A GPU. Kernels are launched on CuPy's current stream of it, and nothing here waits for them."""

    def __init__(self, cupy: Any, device: int) -> None:
        self.cupy, self.device = cupy, cupy.cuda.Device(device)
        self.major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        self.capability = int(self.device.compute_capability)
        self.entries: dict[str, Any] = {}
        self.tables: dict[Any, Table] = {}
        self.copying: list[Table] = []
        self.size = 0
        self.captured: list[Array] = []
        self.kept: dict[Any, Table] = {}
        self.lock = Lock()

    @cached_property
    def arch(self) -> str:
        """What kernels are compiled for; RuntimeError says why that cannot be done."""
        return target(self.capability, self.major)

    @cached_property
    def places(self) -> int:
        """How many blocks run at once."""
        return AT_ONCE * int(self.cupy.cuda.runtime.getDeviceProperties(self.device.id)["multiProcessorCount"])

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run a kernel; see ``Machine``."""
        with self.device:
            self.launching(stem, entry, blocks, *arguments, elements=elements)()

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made, with as many threads in a block as the kernel was compiled for."""
        with self.device:
            if entry not in self.entries:
                self.entries[entry] = self.load(stem, entry)
            kernel, threads = self.entries[entry]
            slots = tuple(np.asarray(x) if isinstance(x, np.generic) else x for x in arguments)
            return partial(kernel, (min(blocks, GRID),), (threads,), slots)

    def launchings(self, stem: str, entry: str, blocks: int, *columns: Array) -> list[Change]:
        """Return launches that are yet to be made; see ``Machine``."""
        return [self.launching(stem, entry, blocks, *row) for row in zip(*columns, strict=True)]

    def load(self, stem: str, entry: str) -> tuple[Any, int]:
        """Return a kernel of a file and its threads in a block; it is compiled if that has not been done before."""
        path = binary(stem, entry, self.arch, self.major)
        module = self.cupy.RawModule(path=str(path))
        try:
            with self.device:
                module.compile()
        except self.cupy.cuda.driver.CUDADriverError as error:
            raise RuntimeError(_unloadable(path, self.major, error)) from error
        kernel = module.get_function(entry)
        return kernel, kernel.max_threads_per_block

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array; one that is made while a graph is captured is the graph's for good."""
        with self.device:
            x = self.cupy.empty(shape, dtype)
            if _is_capturing(self.cupy.cuda.get_current_stream()):
                self.captured.append(x)
            return x

    def upload(self, table: Array, key: tuple[Hashable, ...] | None = None) -> Array:
        """Copy a NumPy array to the GPU, or return the copy made when the same was copied last.

        Each stream has its own copies: what is given up goes back to the memory of its stream, whose later work comes
        after all that has read it.
        """
        with self.lock, self.device:
            stream = self.cupy.cuda.get_current_stream()
            named = _name(stream), *(key or key_of(table))
            if found := self.kept.get(named):
                return found.array
            if _is_capturing(stream):
                return self._keep(named, table).array
            found = self.tables.pop(named, None) or self._copied(table, stream)
            self.tables[named] = found
            self._forget()
            return found.array

    def _keep(self, named: Any, table: Array) -> Table:
        """Return a copy for a captured graph, which may read it whenever it likes: it stays for good.

        A graph must not copy it, nor wait for what is outside of it.
        """
        found = self.tables.pop(named, None)
        if found is None:
            with self.cupy.cuda.Stream(non_blocking=True) as stream:
                found = self._copied(table, stream)
        found.wait()
        self.size -= found.array.nbytes
        self.kept[named] = found
        return found

    def _copied(self, table: Array, stream: Any) -> Table:
        """Copy a table from pinned memory."""
        array = self.cupy.empty(table.shape, table.dtype)
        source = self.cupy.cuda.alloc_pinned_memory(max(1, table.nbytes))
        np.frombuffer(source, np.uint8, table.nbytes)[...] = np.frombuffer(table.tobytes(), np.uint8)
        array.data.copy_from_host_async(source.ptr, table.nbytes)
        found = Table(array, source, stream, stream.record(self.cupy.cuda.Event(disable_timing=True)))
        self.copying.append(found)
        self.size += array.nbytes
        return found

    def _forget(self) -> None:
        """Give up pinned memory that has been copied, and tables that were not used for longest if there are many."""
        self.copying = [x for x in self.copying if not x.is_there()]
        while self.size > ROOM and len(self.tables) > 1:
            named, oldest = next(iter(self.tables.items()))
            if not oldest.is_there():
                return
            self.size -= self.tables.pop(named).array.nbytes

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
        return int(x.data.ptr)

    def chunk(self, elements: int) -> int:
        """Return how many elements a block updates: fewer where there would not be a block for each place."""
        size = CHUNK
        while size > LEAST and elements < size * self.places:
            size //= 2
        return size


def _is_capturing(stream: Any) -> bool:
    """Tell whether a graph is captured from a stream; that which all threads share cannot be captured, or asked."""
    return stream.ptr not in LEGACY and bool(stream.is_capturing())


def _name(stream: Any) -> tuple[int, int]:
    """Return what tells a stream from others."""
    return stream.ptr, get_ident() if stream.ptr == PER_THREAD else 0


@cache
def machine(device: int = 0) -> Cuda:
    """Return a GPU, or raise RuntimeError if there is none that CuPy can use."""
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        raise RuntimeError(
            f"kernels on a GPU need CuPy: pip install 'cupy-cuda13x[ctk]>=14' 'nvidia-cuda-nvrtc==13.*', or "
            f"'cupy-cuda12x[ctk]>=14' nvidia-cuda-nvrtc-cu12 ({error})"
        ) from error
    runtime = cupy.cuda.runtime
    if runtime.is_hip:
        raise RuntimeError("the kernels are for CUDA, and this CuPy is for ROCm: choose fused=False")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(_lacking(error, runtime.runtimeGetVersion())) from error
    if device >= count:
        raise RuntimeError(f"there is no GPU cuda:{device}, only {count}")
    return Cuda(cupy, device)


def missing(device: int = 0) -> str:
    """Say why kernels cannot run on a GPU; nothing if they can."""
    try:
        _ = machine(device).arch
    except RuntimeError as error:
        return str(error)
    return ""


def _lacking(error: Any, version: int) -> str:
    """Say what CUDA lacks."""
    name = f"CUDA {version // 1000}"
    if error.status == NO_DRIVER:
        return f"there is no driver for NVIDIA's GPUs, or one too old for {name}: install a driver for {name} or newer"
    if error.status == NO_DEVICE:
        return "there is no GPU of NVIDIA's: look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"
    return f"CUDA cannot be used: {error}"


def _unloadable(path: Path, major: int, error: Exception) -> str:
    version = ".".join(map(str, nvrtc.version(major)))
    return (
        f"the driver does not load {path.name}, which NVRTC {version} has compiled: update the driver, or install an "
        f"older NVRTC, for example pip install 'nvidia-cuda-nvrtc{'-cu12' if major == 12 else ''}<{version}' ({error})"
    )


def target(capability: int, major: int) -> str:
    """Return the architecture to compile for: that of the GPU, or the nearest that it can run."""
    known = [arch for arch in nvrtc.architectures(major) if arch <= capability]
    if not known:
        version = ".".join(map(str, nvrtc.version(major)))
        raise RuntimeError(
            f"NVRTC {version} does not compile for a GPU of compute capability {capability / 10}, only from "
            f"{min(nvrtc.architectures(major)) / 10} on: pip install nvidia-cuda-nvrtc-cu12, or choose fused=False"
        )
    same = max(known) // 10 == capability // 10
    return f"sm_{max(known)}" if same else f"compute_{max(known)}"


def binary(stem: str, entry: str, arch: str, major: int) -> Path:
    """Return the file that holds a kernel of ``kernels/<stem>.cu`` for an architecture, compiled if there is none yet.

    Each kernel has a file of its own: one for all storages takes many times as long to compile.
    """
    source, flags = nvrtc.expand(stem), (*nvrtc.FLAGS, *nvrtc.only(entry))
    key = _digest(repr((source, flags, arch, nvrtc.version(major))).encode())
    with suppress(OSError, RuntimeError):
        for path in folder().glob(f"{entry}-{arch}-{key}-*"):
            if path.name.endswith(_digest(path.read_bytes())):
                return path
    LOG.info("compiling %s for %s", entry, arch)
    code = nvrtc.compile(source, arch, major=major, flags=flags)
    name = f"{entry}-{arch}-{key}-{_digest(code)}"
    try:
        replace(folder() / name, code)
        return folder() / name
    except (OSError, RuntimeError):
        replace(_temporary() / name, code)
        return _temporary() / name


def folder() -> Path:
    """Return the folder of binaries; RuntimeError says that there is no home to put it in."""
    if chosen := os.environ.get("REFOPTIM_CACHE_DIR"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "refoptim"


def _temporary() -> Path:
    """Return a folder that lasts as long as this process, for binaries that cannot be kept."""
    return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="refoptim-")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
