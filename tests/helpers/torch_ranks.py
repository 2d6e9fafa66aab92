"""Two processes that train together, with gloo: run as a program, it prints for each way what went wrong, or nothing.

The program takes the name of a file by which the processes meet.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import refoptim
from refoptim.interop import torch as front

RANKS = 2


def layers() -> Any:
    """Make the same network in each process; shards of it are uneven, and one is empty."""
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))


def backward(net: Any, seed: int) -> None:
    net.zero_grad()
    net(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))).pow(2).sum().backward()


def arrays(tensors: Any) -> list[Any]:
    return [np.array(x.detach().numpy()) for x in tensors]


def check(one: Any, other: Any, what: str) -> None:
    for x, y in zip(one, other, strict=True):
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), what


def data_parallel(rank: int) -> None:
    """Each process has its own batch; the steps are those of refoptim on arrays with the averaged gradients."""
    net = DistributedDataParallel(layers())
    optimizer = front.AdamW(net.parameters(), lr=0.1)
    copies = arrays(net.parameters())
    witness = refoptim.AdamW(copies, lr=0.1)
    for k in range(3):
        backward(net, 10 * k + rank)
        witness.step(grads=arrays(p.grad for p in net.parameters()))
        optimizer.step()
    check(arrays(net.parameters()), copies, "against arrays")
    everyone: list[Any] = [None] * RANKS
    dist.all_gather_object(everyone, copies)
    check(*everyone, "between ranks")


def zero_redundancy(rank: int) -> None:
    """The state is shared out; the parameters are those of a process that has it all."""
    net = layers()
    whole = copy.deepcopy(net)
    ours = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=front.NAdam, lr=0.1, weight_decay=0.1)
    theirs = front.NAdam(whole.parameters(), lr=0.1, weight_decay=0.1)
    for k in range(3):
        for each, optimizer in ((net, ours), (whole, theirs)):
            backward(each, k)
            optimizer.step()
    check(arrays(net.parameters()), arrays(whole.parameters()), "parameters")
    ours.consolidate_state_dict(to=0)
    if rank == 0:
        other = front.NAdam(layers().parameters(), lr=0.3)
        other.load_state_dict(ours.state_dict())
        for key, entry in theirs.state_dict()["state"].items():
            check(arrays(other.state_dict()["state"][key].values()), arrays(entry.values()), "state")


def fully_sharded(rank: int) -> None:
    """Shards have the bits of the whole; the state that is saved is whole, and goes back."""
    net, whole = layers(), layers()
    fully_shard(net)
    ours, theirs = (front.AdamW(x.parameters(), lr=0.1, weight_decay=0.1) for x in (net, whole))
    options = dcp.StateDictOptions(full_state_dict=True)
    for k in range(4):
        for each, optimizer in ((net, ours), (whole, theirs)):
            backward(each, k)
            optimizer.step()
        check(arrays(p.full_tensor() for p in net.parameters()), arrays(whole.parameters()), f"step {k}")
        saved = dcp.get_optimizer_state_dict(net, ours, options=options)
        if rank == 0:
            for (name, entry), kept in zip(saved["state"].items(), theirs.state.values(), strict=True):
                check(arrays(entry.values()), arrays(kept.values()), name)
        if k == 1:  # go on with another optimizer, from what was saved
            net.zero_grad()  # DCP makes state, to be filled, where there are no gradients
            ours = front.AdamW(net.parameters(), lr=0.3)
            from_first = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            dcp.set_optimizer_state_dict(net, ours, saved, options=from_first)


def needs_whole(rank: int) -> None:
    """What needs whole parameters refuses shards."""
    net = layers()
    fully_shard(net)
    for cls in (front.Muon, front.Adafactor, front.LBFGS):
        with pytest.raises(TypeError, match="needs whole parameters"):
            cls([next(net.parameters())])


WAYS: tuple[Callable[[int], None], ...] = (data_parallel, zero_redundancy, fully_sharded, needs_whole)


def outcome(way: Callable[[int], None], rank: int) -> str:
    try:
        way(rank)
    except (Exception, pytest.fail.Exception):
        return traceback.format_exc()
    return ""


def worker(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    meet = {"init_method": f"file://{meeting}", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, **meet)
    found = {way.__name__: outcome(way, rank) for way in WAYS}
    everyone: list[Any] = [None] * RANKS
    dist.all_gather_object(everyone, found)
    if rank == 0:
        print(json.dumps({name: "".join(each[name] for each in everyone) for name in found}))
    sys.stdout.flush()
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that ends before them


if __name__ == "__main__":
    torch.multiprocessing.spawn(worker, (sys.argv[1],), RANKS)
