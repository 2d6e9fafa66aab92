"""Runs kernels on CuPy arrays: compiled with NVRTC when they are first needed, and kept on disk.

CuPy itself compiles with flush-to-zero, so it is only given binaries. They lie in the folder that REFOPTIM_CACHE_DIR
names, else in ``refoptim`` in XDG_CACHE_HOME, else in ``~/.cache/refoptim``; everything there can be deleted.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..formats.files import replace
from ..numerics.arith import Array, DType
from ..step.changes import Change
from . import nvrtc

GRID = (1 << 31) - 1
"""Blocks of a launch at most: all that CUDA takes, since the hardware shares them out best; no result depends on it."""

TABLES = 64
"""Tables kept on a GPU for the case that they are needed again."""

NO_DRIVER, NO_DEVICE = 35, 100
"""CUDA's numbers of the errors that there is no driver, or only one that is too old, and that there is no GPU."""


@dataclass
class Table:
    """A table on a GPU, and what its copying needs until the event has happened.

    A table that another stream uses too, or a captured graph, is ``kept`` for good.
    """

    array: Array
    source: Any
    stream: Any
    event: Any
    kept: bool = False


class Cuda:
    """A GPU. Kernels are launched on CuPy's current stream of it, and nothing here waits for them."""

    def __init__(self, cupy: Any, device: int) -> None:
        self.cupy, self.device = cupy, cupy.cuda.Device(device)
        self.major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        self.capability = int(self.device.compute_capability)
        self.modules: dict[str, Any] = {}
        self.entries: dict[str, Any] = {}
        self.tables: dict[Any, Table] = {}
        self.captured: list[Array] = []
        self.lock = Lock()

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run a kernel; see ``Machine``."""
        with self.device:
            self.launching(stem, entry, blocks, *arguments, elements=elements)()

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made, with as many threads in a block as the kernel was compiled for."""
        with self.device:
            if entry not in self.entries:
                kernel = self.load(stem).get_function(entry)
                self.entries[entry] = kernel, kernel.max_threads_per_block
            kernel, threads = self.entries[entry]
            slots = tuple(np.asarray(x) if isinstance(x, np.generic) else x for x in arguments)
            return partial(kernel, (min(blocks, GRID),), (threads,), slots)

    def load(self, stem: str) -> Any:
        """Return the module of a kernel file, compiled and loaded if it is the first time."""
        if stem not in self.modules:
            path = binary(stem, self.capability, self.major)
            module = self.cupy.RawModule(path=str(path))
            try:
                with self.device:
                    module.compile()
            except self.cupy.cuda.driver.CUDADriverError as error:
                raise RuntimeError(_unloadable(path, self.major, error)) from error
            self.modules[stem] = module
        return self.modules[stem]

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array; one that is made while a graph is captured is the graph's for good."""
        with self.device:
            x = self.cupy.empty(shape, dtype)
            if _is_capturing(self.cupy.cuda.get_current_stream()):
                self.captured.append(x)
            return x

    def upload(self, table: Array) -> Array:
        """Copy a NumPy array to the GPU, or return the copy made when the same was copied last."""
        key = (table.dtype.str, table.shape, table.tobytes())
        with self.lock, self.device:
            stream = self.cupy.cuda.get_current_stream()
            capturing = _is_capturing(stream)
            found = self.tables.pop(key, None) or self._copied(table, stream, capturing)
            if capturing or found.stream != stream:
                self._share(found, stream, capturing)
            self.tables[key] = found
            self._forget()
            return found.array

    def _copied(self, table: Array, stream: Any, capturing: bool) -> Table:
        """Copy a table from pinned memory; while ``stream`` captures a graph, which must not copy, on another one."""
        if capturing:
            stream = self.cupy.cuda.Stream(non_blocking=True)
            with stream:
                return self._copied(table, stream, False)
        array = self.cupy.empty(table.shape, table.dtype)
        source = self.cupy.cuda.alloc_pinned_memory(max(1, table.nbytes))
        np.frombuffer(source, np.uint8, table.nbytes)[...] = np.frombuffer(table.tobytes(), np.uint8)
        array.data.copy_from_host_async(source.ptr, table.nbytes)
        return Table(array, source, stream, stream.record(self.cupy.cuda.Event(disable_timing=True)))

    def _share(self, table: Table, stream: Any, capturing: bool) -> None:
        """Let another stream than that of a table, or a graph, begin only when the table is there."""
        table.kept = True
        if capturing:
            table.event.synchronize()  # a graph cannot wait for what is outside of it
        else:
            stream.wait_event(table.event)

    def _forget(self) -> None:
        """Forget the tables that were not used for longest, those excepted that may be in use."""
        idle = [key for key, table in self.tables.items() if not table.kept]
        for key in idle[:-TABLES]:
            if self.tables[key].event.done:
                del self.tables[key]

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
        return int(x.data.ptr)


def _is_capturing(stream: Any) -> bool:
    """Tell whether a graph is captured from a stream; the default ones, numbers 0 to 2, cannot be captured."""
    return stream.ptr > 2 and bool(stream.is_capturing())


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
        gpu = machine(device)
        target(gpu.capability, gpu.major)
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


def binary(stem: str, capability: int, major: int) -> Path:
    """Return the file that holds the kernels of ``kernels/<stem>.cu`` for a GPU, compiled if there is none yet."""
    source, arch, stem = nvrtc.expand(stem), target(capability, major), stem.replace("/", "-")
    key = _digest(repr((source, nvrtc.FLAGS, arch, nvrtc.version(major))).encode())
    with suppress(OSError, RuntimeError):
        for path in folder().glob(f"{stem}-{arch}-{key}-*"):
            if path.name.endswith(_digest(path.read_bytes())):
                return path
    code = nvrtc.compile(source, arch, major=major)
    name = f"{stem}-{arch}-{key}-{_digest(code)}"
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
