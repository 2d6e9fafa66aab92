"""Ranks that are threads of one process: for tests, and to try a program without a launcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from ..numerics.arith import Array
from .comm import Communicator, Pending, RankError

PATIENCE = 60.0
"""Seconds after which a rank that says nothing counts as lost."""


class _Hub:
    """The queues between each two ranks, those of bytes apart from those of words."""

    def __init__(self, size: int, patience: float) -> None:
        self.patience, ranks = patience, range(size)
        self.bytes = {(s, r): SimpleQueue[Any]() for s in ranks for r in ranks}
        self.words = {(s, r): SimpleQueue[Any]() for s in ranks for r in ranks}

    def take(self, queues: dict[tuple[int, int], SimpleQueue[Any]], source: int, rank: int) -> Any:
        """Return the next thing that comes from a rank."""
        try:
            return queues[source, rank].get(timeout=self.patience)
        except Empty:
            raise RankError(f"rank {source} has said nothing for {self.patience:g} s", source) from None


class _Exchange(Pending):
    def __init__(self, hub: _Hub, rank: int, sent: dict[int, Event], receives: Sequence[Array]) -> None:
        self.hub, self.rank, self.sent, self.receives = hub, rank, sent, receives

    def wait(self) -> None:
        for source, into in enumerate(self.receives):
            if source != self.rank and into.size:
                data, done = self.hub.take(self.hub.bytes, source, self.rank)
                into[...] = data
                done.set()
        for rank, done in self.sent.items():
            if not done.wait(self.hub.patience):
                raise RankError(f"rank {rank} has taken nothing for {self.hub.patience:g} s", rank)


class _Threads(Communicator):
    def __init__(self, hub: _Hub, rank: int, size: int) -> None:
        self.hub, self.rank, self.size = hub, rank, size

    takes_gpu = True

    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        sent = {}
        for rank, data in enumerate(sends):
            if rank != self.rank and data.size:
                sent[rank] = Event()
                self.hub.bytes[self.rank, rank].put((data, sent[rank]))
        return _Exchange(self.hub, self.rank, sent, receives)

    def agree(self, numbers: Sequence[int]) -> list[int]:
        return [max(column) for column in zip(*self.gather(list(numbers)), strict=True)]

    def gather(self, value: Any) -> list[Any]:
        for rank in range(self.size):
            self.hub.words[self.rank, rank].put(value)
        return [self.hub.take(self.hub.words, source, self.rank) for source in range(self.size)]


def thread_ranks(size: int, patience: float = PATIENCE) -> list[Communicator]:
    """Return the communicators of so many ranks, one for each thread that is to be a rank.

    Raises:
        ValueError: ``size`` is no integer from 1 on.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be an integer in [1, inf), got {size!r}")
    hub = _Hub(size, patience)
    return [_Threads(hub, rank, size) for rank in range(size)]


def run_ranks(size: int, function: Callable[[Communicator], Any], patience: float = PATIENCE) -> list[Any]:
    """Call a function on so many threads, each with the communicator of its rank; return what they return, in order.

    What a function raises comes in the place of what it returns.
    """
    found: list[Any] = [None] * size

    def work(comm: Communicator) -> None:
        try:
            found[comm.rank] = function(comm)
        except BaseException as error:
            found[comm.rank] = error

    threads = [Thread(target=work, args=(comm,)) for comm in thread_ranks(size, patience)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
