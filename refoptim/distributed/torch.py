"""Ranks of a process group of torch.distributed, with gloo."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..numerics.arith import Array
from .comm import Communicator, Pending


class _Works(Pending):
    def __init__(self, works: list[Any], kept: list[Any]) -> None:
        self.works, self.kept = works, kept

    def wait(self) -> None:
        for work in self.works:
            work.wait()


class TorchCommunicator(Communicator):
    """What ``torch_group`` makes of a process group."""

    def __init__(self, group: Any, torch: Any) -> None:
        self.group, self.torch, self.dist = group, torch, torch.distributed
        self.rank, self.size = group.rank(), group.size()
        self._global = [self.dist.get_global_rank(group, r) for r in range(self.size)]

    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        works, kept = [], []
        for i in range(1, self.size):
            to, source = (self.rank + i) % self.size, (self.rank - i) % self.size
            for x, rank, call in ((receives[source], source, self.dist.irecv), (sends[to], to, self.dist.isend)):
                if x.size:
                    tensor = self.torch.from_numpy(x if x.flags.writeable else x.copy())
                    kept.append(tensor)
                    works.append(call(tensor, self._global[rank], group=self.group))
        return _Works(works, kept)

    def agree(self, numbers: Sequence[int]) -> list[int]:
        found = self.torch.tensor([int(x) for x in numbers], dtype=self.torch.int64)
        self.dist.all_reduce(found, op=self.dist.ReduceOp.MAX, group=self.group)
        return [int(x) for x in found]

    def gather(self, value: Any) -> list[Any]:
        mine = np.frombuffer(pickle.dumps(value), np.uint8).copy()
        sizes = np.zeros((self.size, 8), np.uint8)
        own = np.array([mine.size], np.int64).view(np.uint8)
        self.start([own] * self.size, list(sizes)).wait()
        sizes[self.rank] = own
        found = [np.empty(n, np.uint8) for n in sizes.view(np.int64)[:, 0]]
        self.start([mine] * self.size, found).wait()
        found[self.rank] = mine
        return [pickle.loads(x.tobytes()) for x in found]

    def __repr__(self) -> str:
        return f"torch.distributed, rank {self.rank} of {self.size}"


def torch_group(group: Any = None) -> Communicator:
    """Return the communicator that talks through a process group of torch, the default one if none is given.

    Arrays on a GPU go through the host.

    Raises:
        ValueError: this process does not belong to the group, or its backend takes no arrays of the host.
    """
    import torch

    group = torch.distributed.group.WORLD if group is None else group
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise ValueError("this process belongs to no such process group of torch.distributed")
    backend = torch.distributed.get_backend(group)
    if "gloo" not in backend:
        raise ValueError(f"the process group must have the backend gloo, got {backend}: make one beside it")
    return TorchCommunicator(group, torch)
