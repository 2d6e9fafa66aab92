"""Ranks of MPI, through mpi4py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..numerics.arith import Array
from .comm import Communicator, Pending

LARGEST = 1 << 30
"""Bytes of a message; MPI counts in 32 bits, and what is longer goes in several."""

PAUSE = 2e-4
"""Seconds between two looks at an exchange that goes on beside other work."""


class _Requests(Pending):
    def __init__(self, api: Any, requests: list[Any], quietly: bool) -> None:
        self.api, self.requests, self.quietly = api, requests, quietly

    def wait(self) -> None:
        """Wait; if that goes on beside other work, leave the processor to it, which MPI would keep busy."""
        while self.quietly and not self.api.Request.Testall(self.requests):
            time.sleep(PAUSE)
        self.api.Request.Waitall(self.requests)


class MPICommunicator(Communicator):
    """What ``mpi`` makes of a communicator of mpi4py."""

    def __init__(self, comm: Any, api: Any, gpu_aware: bool) -> None:
        self.api, self.comm, self.takes_gpu = api, comm.Dup(), gpu_aware
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.any_thread = api.Query_thread() >= api.THREAD_SERIALIZED

    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        requests = []
        ranks = [(self.rank + i) % self.size for i in range(1, self.size)]  # not all to the same one at first
        for rank in reversed(ranks):
            requests += [self.comm.Irecv(part, rank) for part in _parts(receives[rank])]
        for rank in ranks:
            requests += [self.comm.Isend(part, rank) for part in _parts(sends[rank])]
        return _Requests(self.api, requests, self.is_beside)

    def agree(self, numbers: Sequence[int]) -> list[int]:
        found = np.array(numbers, np.int64)
        self.comm.Allreduce(self.api.IN_PLACE, found, self.api.MAX)
        return [int(x) for x in found]

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = self.comm.allgather(value)
        return found

    def __repr__(self) -> str:
        return f"MPI, rank {self.rank} of {self.size}"


def _parts(x: Array) -> list[Array]:
    return [x[i : i + LARGEST] for i in range(0, x.size, LARGEST)]


_made: dict[tuple[int, bool], MPICommunicator] = {}


def mpi(comm: Any, gpu_aware: bool = False) -> Communicator:
    """Return the communicator that talks through one of mpi4py: through a copy, so that no messages are mixed.

    Run programs by ``mpiexec -n 4 python -m mpi4py program.py``: with ``-m mpi4py`` an exception that one rank does not
    catch ends the job; without, the other ranks would wait for ever.

    Args:
        comm: the communicator. The call is collective, the first time that it is given.
        gpu_aware: whether this MPI takes arrays on a GPU; else they go through the host. Not yet run on a GPU.
    """
    from mpi4py import MPI

    key = (MPI._handleof(comm), gpu_aware)
    if key not in _made:
        _made[key] = MPICommunicator(comm, MPI, gpu_aware)
    return _made[key]
