"""Ranks that are processes with a GPU each, through NCCL, which CuPy ships. This has not yet run on a GPU."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import loaded_cupy, on_gpu
from .comm import DONE, Communicator, Pending


class _Event(Pending):
    """Work on a stream of its own, for which the current stream waits."""

    def __init__(self, cupy: Any, stream: Any, kept: Any) -> None:
        self.cupy, self.event, self.kept = cupy, stream.record(), kept

    def wait(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self.event)


class NCCLCommunicator(Communicator):
    """What ``nccl`` makes: NCCL between the current GPUs of the ranks.

    Exchanges run on a stream of their own. ``agree`` waits for the GPU: it is read by the host.
    """

    takes_gpu, any_thread = True, False

    def __init__(self, rank: int, size: int, unique_id: Any) -> None:
        self.cupy, self.api = import_module("cupy"), import_module("cupy.cuda.nccl")
        self.rank, self.size = rank, size
        self.comm = self.api.NcclCommunicator(size, unique_id, rank)
        self.stream = self.cupy.cuda.Stream(non_blocking=True)

    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        out, into = [[self._there(x) for x in each] for each in (sends, receives)]
        pending = self._exchange(out, into)
        back = [(x, y) for x, y in zip(receives, into, strict=True) if x is not y and x.size]
        return _Back(pending, back) if back else pending

    def _there(self, x: Array) -> Array:
        """Return an array on the GPU: itself, or a copy."""
        return x if on_gpu(x) else self.cupy.asarray(x)

    def _exchange(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        far = [r for r in range(self.size) if r != self.rank]
        if not any(sends[r].size or receives[r].size for r in far):
            return DONE
        self.stream.wait_event(self.cupy.cuda.get_current_stream().record())
        self.api.groupStart()
        for r in far:
            for x, call in ((sends[r], self.comm.send), (receives[r], self.comm.recv)):
                if x.size:
                    call(x.data.ptr, x.nbytes, self.api.NCCL_UINT8, r, self.stream.ptr)
        self.api.groupEnd()
        return _Event(self.cupy, self.stream, (sends, receives))

    def agree(self, numbers: Sequence[int]) -> list[int]:
        x = self.cupy.asarray(np.array(numbers, np.int64))
        stream = self.cupy.cuda.get_current_stream()
        self.comm.allReduce(x.data.ptr, x.data.ptr, x.size, self.api.NCCL_INT64, self.api.NCCL_MAX, stream.ptr)
        return [int(n) for n in x.get()]

    def gather(self, value: Any) -> list[Any]:
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        most = self.agree([mine.size])[0]
        row = np.zeros(8 + most, np.uint8)
        row[:8], row[8 : 8 + mine.size] = np.array([mine.size]).view(np.uint8), mine
        rows = [np.zeros_like(row) for _ in range(self.size)]
        self.start([row] * self.size, rows).wait()
        rows[self.rank] = row
        return [pickle.loads(x[8 : 8 + int(x[:8].view(np.int64)[0])].tobytes()) for x in rows]

    def __repr__(self) -> str:
        return f"NCCL, rank {self.rank} of {self.size}"


class _Back(Pending):
    """An exchange whose results go back to the host."""

    def __init__(self, pending: Pending, pairs: Sequence[tuple[Array, Array]]) -> None:
        self.pending, self.pairs = pending, pairs

    def wait(self) -> None:
        self.pending.wait()
        for here, there in self.pairs:
            here[...] = there.get()


def nccl(rank: int, size: int, unique_id: Any) -> Communicator:
    """Return the communicator of a process that works on the current GPU. It has not yet run on a GPU.

    Args:
        rank: the number of this process, from 0.
        size: how many there are.
        unique_id: what ``cupy.cuda.nccl.get_unique_id()`` returned on one of them, which told the others.

    Raises:
        ImportError: CuPy is not installed, or has no NCCL.
        ValueError: there is no such rank.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank must be an integer in [0, size), got rank {rank!r} of size {size!r}")
    loaded_cupy()
    return NCCLCommunicator(rank, size, unique_id)
