"""Steps on many ranks, with the bits of one.

::

    from mpi4py import MPI
    from refoptim.distributed import Sharded

    opt = Sharded(refoptim.AdamW, params, comm=MPI.COMM_WORLD, lr=1e-3)
    opt.step(grads=grads)                               # this rank's gradients, of its part of the batch

Each rank keeps its share of the state, and updates its share of the parameters. Gradients are summed in one order,
whatever the number of ranks. A communicator is one of mpi4py, a process group of torch.distributed with gloo, one of
CuPy's NCCL, threads of one process, or ``LOCAL``, a process that is alone.
"""

from __future__ import annotations

from .comm import LOCAL, Communicator, Pending, RankError
from .given import as_communicator
from .mpi import mpi
from .nccl import nccl
from .sharded import Sharded
from .threads import run_ranks, thread_ranks
from .torch import torch_group

__all__ = [
    "LOCAL",
    "Communicator",
    "Pending",
    "RankError",
    "Sharded",
    "as_communicator",
    "mpi",
    "nccl",
    "run_ranks",
    "thread_ranks",
    "torch_group",
]
