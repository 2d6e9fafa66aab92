"""What stands for GPUs: memory of this computer, streams whose copies wait until something needs them, and counters."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock, local
from typing import Any

import numpy as np


@dataclass
class Counters:
    """What has happened since the counters were made: of launches the names, the devices, streams and grids."""

    launches: list[str] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    grids: list[int] = field(default_factory=list)
    kernels: int = 0
    uploads: int = 0
    synchronizations: int = 0
    allocations: int = 0


@dataclass
class World:
    """What the computer has, and whether kernels run or are only counted; a test may change it."""

    devices: int = 2
    capability: str = "90"
    version: int = 13020
    driver: bool = True
    is_hip: bool = False
    runs: bool = True
    counters: Counters = field(default_factory=Counters)

    @property
    def current(self) -> int:
        """The current device of this thread."""
        return here.devices[-1]


class Here(local):
    """What each thread has for itself, as with CuPy: the devices and the streams that it has made current."""

    def __init__(self) -> None:
        self.devices = [0]
        self.stacks: dict[int, list[Stream]] = {}


world, here = World(), Here()

order = RLock()
"""Held by what runs on a stream: threads may share one, and what waits there must be done before what comes next."""


class CUDARuntimeError(RuntimeError):
    """An error of CUDA, with its number."""

    NAMES = {
        35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
        100: "cudaErrorNoDevice: no CUDA-capable device is detected",
        101: "cudaErrorInvalidDevice: invalid device ordinal",
        900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
        901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
        905: "cudaErrorStreamCaptureIsolation: dependency created on uncaptured work in another stream",
    }

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(self.NAMES[status])


def check_device(device: int) -> None:
    if not world.driver:
        raise CUDARuntimeError(35)
    if not world.devices:
        raise CUDARuntimeError(100)
    if not 0 <= device < world.devices:
        raise CUDARuntimeError(101)


class Device:
    """A GPU, or the current one; it is made current by ``with``."""

    def __init__(self, device: int | None = None) -> None:
        check_device(world.current)
        self.id = world.current if device is None else device

    @property
    def compute_capability(self) -> str:
        check_device(self.id)
        return world.capability

    def __enter__(self) -> Device:
        check_device(self.id)
        here.devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        here.devices.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def synchronize(self) -> None:
        world.counters.synchronizations += 1
        for stream in list(streams):
            if stream.device_id in (self.id, -1):
                stream.run()


streams: weakref.WeakSet[Stream] = weakref.WeakSet()
_numbers = iter(range(1000, 1 << 60, 8))


class Stream:
    """Work in order: copies from pinned memory wait until a kernel of the stream, an event or a host needs them."""

    null: Stream
    ptds: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.ptr = 0 if null else 2 if ptds else next(_numbers)
        self.device_id = -1 if null or ptds else world.current
        self.waiting: list[Callable[[], None]] = []
        self.graph: Graph | None = None
        streams.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, world.current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device"
            )
        stack().append(self)
        return self

    def __exit__(self, *error: object) -> None:
        stack().pop()

    def add(self, work: Callable[[], None]) -> None:
        with order:
            self.waiting.append(work)

    def run(self) -> None:
        with order:
            waiting, self.waiting = self.waiting, []
            for work in waiting:
                work()

    def synchronize(self) -> None:
        if self.graph is not None:
            raise CUDARuntimeError(900)
        world.counters.synchronizations += 1
        self.run()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if self.graph is not None:
            raise CUDARuntimeError(905)
        event.arrive()

    def is_capturing(self) -> bool:
        return self.graph is not None

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.graph = Graph(strict=mode in (0, 1))

    def end_capture(self) -> Graph:
        assert self.graph is not None
        graph, self.graph = self.graph, None
        if graph.spoilt:
            raise CUDARuntimeError(901)
        return graph


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


def stack() -> list[Stream]:
    return here.stacks.setdefault(world.current, [Stream.null])


def get_current_stream(device_id: int = -1) -> Stream:
    check_device(world.current)
    return stack()[-1] if device_id == -1 else here.stacks.get(device_id, [Stream.null])[-1]


def unsafe() -> bool:
    """Tell whether a graph is captured, in another mode than relaxed, and spoil it: what is done now is not allowed."""
    graphs = [x.graph for x in list(streams) if x.graph is not None and x.graph.strict]
    for graph in graphs:
        graph.spoilt = True
    return bool(graphs)


def check_safe() -> None:
    """Raise CUDARuntimeError where what is done now is not allowed."""
    if unsafe():
        raise CUDARuntimeError(900)


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._done = True

    @property
    def done(self) -> bool:
        return not unsafe() and self._done

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or get_current_stream()
        if stream.graph is not None:
            raise AssertionError("the stand-in captures no events")
        self._done, self.stream = False, stream
        stream.add(self._happen)

    def _happen(self) -> None:
        self._done = True

    def arrive(self) -> None:
        if not self._done:
            self.stream.run()

    def synchronize(self) -> None:
        check_safe()
        world.counters.synchronizations += 1
        self.arrive()


class Graph:
    """Launches that were captured, with the values that their arguments had then; ``strict`` tells of the mode."""

    def __init__(self, strict: bool = False) -> None:
        self.work: list[Callable[[], None]] = []
        self.strict, self.spoilt = strict, False

    def launch(self, stream: Stream | None = None) -> None:
        (stream or get_current_stream()).run()
        for work in self.work:
            work()


class PinnedMemoryPointer(bytearray):
    """Pinned memory; what it held is lost as soon as nobody holds it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.ptr = int(np.frombuffer(self, np.uint8).ctypes.data)
        pinned[self.ptr] = self

    __hash__ = None  # type: ignore[assignment]


pinned: weakref.WeakValueDictionary[int, PinnedMemoryPointer] = weakref.WeakValueDictionary()


def alloc_pinned_memory(size: int) -> Any:
    """Return pinned memory as an object with a buffer, a ``ptr``, and a size."""
    check_safe()
    return PinnedMemoryPointer(size)


class MemoryPointer:
    """Memory of a GPU."""

    def __init__(self, x: Any, device_id: int) -> None:
        self._x, self.device_id = x, device_id

    @property
    def ptr(self) -> int:
        return int(self._x.__array_interface__["data"][0])

    def copy_from_host_async(self, mem: int, size: int, stream: Stream | None = None) -> None:
        stream = stream or get_current_stream()
        begin_upload(stream)
        if mem not in pinned:
            raise AssertionError("a copy from memory that is not pinned waits for the GPU")
        source, target = weakref.ref(pinned[mem]), self._x

        def copy() -> None:
            held = source()
            assert held is not None, "pinned memory was given up before it was copied"
            target.reshape(-1).view(np.uint8)[...] = np.frombuffer(held, np.uint8, size)

        stream.add(copy)


def begin_kernel(name: str = "") -> None:
    """Take note of a kernel that runs on the current stream, after what waits there."""
    stream = get_current_stream()
    if stream.is_capturing():
        raise AssertionError(f"the stand-in captures launches of raw kernels and assignments, not {name or 'this'}")
    stream.run()
    world.counters.kernels += 1


def captured(work: Callable[[], None]) -> bool:
    """Leave work to the graph that is captured on the current stream, if there is one."""
    graph = get_current_stream().graph
    if graph is not None:
        graph.work.append(work)
    return graph is not None


def begin_upload(stream: Stream | None = None) -> None:
    """Take note of a copy from this computer to a GPU; CuPy puts it into pinned memory first, and waits for nothing."""
    if (stream or get_current_stream()).is_capturing():
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
    world.counters.uploads += 1


def begin_copy_to_host() -> None:
    """Take note of a copy that the host waits for."""
    if get_current_stream().is_capturing():
        raise CUDARuntimeError(900)
    world.counters.synchronizations += 1
    get_current_stream().run()
