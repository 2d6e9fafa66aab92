"""What stands for ``cupy.cuda.nccl``: ranks are threads, and a group of calls is done when it ends.

It shows which memory goes where, and that ranks call alike; it shows nothing of streams, which run at once here.
"""

from __future__ import annotations

import ctypes
from queue import SimpleQueue
from threading import local
from typing import Any

import numpy as np

from .._gpu import get_current_stream

NCCL_UINT8, NCCL_INT64, NCCL_MAX = 1, 4, 2

_groups = local()
_queues: dict[Any, Any] = {}


def get_unique_id() -> tuple[int, ...]:
    """Return what a job is told by."""
    return (len(_queues), id(_queues))


def memory(ptr: int, size: int) -> Any:
    return np.frombuffer((ctypes.c_char * size).from_address(ptr), np.uint8)


def groupStart() -> None:
    _groups.calls = []


def groupEnd() -> None:
    calls, _groups.calls = _groups.calls, None
    for kind in ("send", "recv"):
        for each, work in calls:
            if each == kind:
                work()


class NcclCommunicator:
    """A rank of a job."""

    def __init__(self, ndev: int, commId: Any, rank: int) -> None:
        self.size, self.id, self.rank = ndev, commId, rank
        for source in range(ndev):
            for target in range(ndev):
                _queues.setdefault((commId, source, target), SimpleQueue())

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        assert datatype == NCCL_UINT8
        get_current_stream().run()
        _groups.calls.append(("send", lambda: self._queue(self.rank, peer).put(memory(sendbuf, count).copy())))

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        def take() -> None:
            data = self._queue(peer, self.rank).get(timeout=20)
            assert data.size == count
            memory(recvbuf, count)[...] = data

        assert datatype == NCCL_UINT8
        _groups.calls.append(("recv", take))

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        assert (datatype, op) == (NCCL_INT64, NCCL_MAX)
        own = memory(sendbuf, 8 * count).copy()
        for peer in range(self.size):
            self._queue(self.rank, peer).put(own)
        rows = [self._queue(peer, self.rank).get(timeout=20).view(np.int64) for peer in range(self.size)]
        memory(recvbuf, 8 * count)[...] = np.max(rows, axis=0).view(np.uint8)

    def _queue(self, source: int, target: int) -> Any:
        return _queues[self.id, source, target]
