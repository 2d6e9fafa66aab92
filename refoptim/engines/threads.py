"""The threads on which engines share out large arrays.

A step must not be left half done by what a signal handler raises, and signal handlers run on the main thread: so large
arrays are always updated on threads of this module, and the caller waits for them in a call that nothing interrupts.
"""

from __future__ import annotations

import ctypes
import os
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache, partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from ..step.changes import Change, make
from .workspace import Workspace

LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE")
"""Variables in which launchers say how many processes they start on a computer: MPICH, Open MPI, torchrun."""

setting: dict[str, int] = {"process": os.getpid(), "threads": 0}
"""The number of this process, which the system takes longer to say, and what ``set_num_threads`` was given."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setting.update(process=os.getpid()))


def set_num_threads(n: int) -> None:
    """Use ``n`` threads for large arrays.

    0 stands for the number of processors that this process may use; where a launcher of ranks (``mpiexec``,
    ``torchrun``) started several processes on this computer, for an equal share of all. It is read when a step is
    planned anew.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"the number of threads must be an integer in [0, inf), got {n!r}")
    setting["threads"] = n


def get_num_threads() -> int:
    """Return the number of threads used for large arrays."""
    return setting["threads"] or _processors()


def process() -> int:
    """Return the number of this process."""
    return setting["process"]


def _processors() -> int:
    """Return how many processors this process may use, its share of them where a launcher started several beside it."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return own if _processes() == 1 else max(1, min(own, (os.cpu_count() or own) // _processes()))


@cache
def _processes() -> int:
    """Return how many processes a launcher says that it started on this computer."""
    told = (os.environ.get(name, "") for name in LOCAL_SIZES)
    return max([1, *(int(x) for x in told if x.isascii() and x.isdigit())])


def shares(items: Sequence[Any]) -> int:
    """Return the number of threads that are worth their while for some items, one at least."""
    return max(1, min(get_num_threads(), len(items) // 2))


def shared_out(workers: Sequence[Callable[[Any], None]], items: Sequence[Any], workspace: Workspace) -> list[Change]:
    """Return changes that call functions on items: each function on a thread of its own, with its share of the items.

    What goes wrong is found in ``workspace.failures`` afterwards; functions are to ``insist`` on what they call.
    """
    workspace.keep_reserve()
    portions = [[(worker, items[i :: len(workers)], workspace)] for i, worker in enumerate(workers)]
    parts = [partial(_work, share) for share in portions]
    queue = _crew(len(parts))
    if queue is None:
        return parts
    gates = [_closed_gate() for _ in parts]
    jobs = [partial(_through, part, gate) for part, gate in zip(parts, gates, strict=True)]
    waiting = [partial(_python.PyThread_acquire_lock, gate, 1) for gate in gates]
    return [*(partial(queue.put, job) for job in jobs), *waiting, partial(_closed.extend, gates)]


def give_back(changes: Sequence[Change]) -> None:
    """Let others have what ``shared_out`` set aside for changes, the last of a list, that were not made."""
    if changes and changes[-1].func == _closed.extend:
        changes[-1]()


def for_each(worker: Callable[[], Callable[[Any], None]], items: Sequence[Any]) -> None:
    """Call a function on every item, on several threads where there are enough; floating-point flags raise nothing.

    ``worker`` is called once for each thread and returns the function that this thread uses.
    """
    workspace = Workspace()
    workspace.make(shared_out([worker() for _ in range(shares(items))], items, workspace))


def aside(function: Callable[[], Any]) -> Any:
    """Call a function on a thread of its own, wait for it, and return what it returns or raise what it raises.

    It runs in the context of the caller, whose rounding is its own. What signal handlers raise meanwhile is raised
    afterwards.
    """
    found: list[Any] = []
    gate = _closed_gate()
    start = partial(start_new_thread, _through, (partial(_outcome, partial(copy_context().run, function), found), gate))
    make([start, partial(_python.PyThread_acquire_lock, gate, 1), partial(_closed.append, gate)])
    value, error = found
    if error is not None:
        raise error
    return value


def _outcome(function: Callable[[], Any], found: list[Any]) -> None:
    try:
        found += [function(), None]
    except BaseException as error:
        found += [None, error]


def _work(share: list[tuple[Callable[[Any], None], Sequence[Any], Workspace]]) -> None:
    """Do a share of the work, and forget it: its memory is free when the step is over. Errors are left behind."""
    worker, items, workspace = share.pop()
    try:
        with np.errstate(all="ignore"):
            for item in items:
                worker(item)
    except BaseException as error:
        workspace.failures.append(error)


def _through(part: Callable[[], None], gate: Any) -> None:
    """Do a share of the work, then open the gate for who waits for it."""
    try:
        part()
    finally:
        _python.PyThread_release_lock(gate)


_python: Any = ctypes.CDLL(None, handle=ctypes.pythonapi._handle)
"""Python's functions in C, called without the interpreter's lock."""

_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
_python.PyThread_release_lock.argtypes = [ctypes.c_void_p]

_closed: list[Any] = []
"""Gates that nobody uses."""


def _closed_gate() -> Any:
    """Return a gate: a lock that one thread opens and another waits for, in a call of C that goes on through signals.

    ``threading.Lock`` would run signal handlers while it waits, and raise what they raise.
    """
    with suppress(IndexError):
        return _closed.pop()
    gate = ctypes.c_void_p(_python.PyThread_allocate_lock())
    if not gate:
        raise MemoryError("no memory for a lock")
    _python.PyThread_acquire_lock(gate, 1)
    return gate


class _Crew:
    """The threads of this process, which serve one queue. They end with the process, and nobody waits for them.

    There is no lock that an interrupt could leave locked: at worst there are more threads than needed.
    """

    def __init__(self) -> None:
        self.process = process()
        self.queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.members: list[int] = []

    def grow(self, n: int) -> None:
        """Be at least ``n`` threads; RuntimeError or MemoryError if they cannot be started."""
        while len(self.members) < n:
            self.members.append(start_new_thread(_serve, (self.queue,)))


def _serve(queue: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        queue.get()()


_crews = [_Crew()]


def _crew(n: int) -> SimpleQueue[Callable[[], None]] | None:
    """Return the queue that ``n`` threads serve, None if there can be none, as when the process is about to end.

    A forked child has none of its parent's threads, and makes its own.
    """
    if _crews[0].process != process():
        _crews[0] = _Crew()
    crew = _crews[0]
    with suppress(RuntimeError, MemoryError):
        crew.grow(n)
    return crew.queue if crew.members else None
