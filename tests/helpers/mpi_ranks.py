"""Programs of ranks: ``mpiexec -n 3 python -m mpi4py mpi_ranks.py WAY ARGUMENTS``, or with ``torch:`` and a file, gloo.

Each prints one line of JSON on rank 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import refoptim
from helpers import ranks
from refoptim import checkpoint
from refoptim.distributed import RankError, Sharded

Comm = Any


def bits(comm: Comm, every: str) -> Any:
    """Train with every optimizer."""
    chosen = ranks.kinds(comm.size, int(every))
    found = {f"{name} {dtype}": ranks.shared_run(comm, name, dtype) for name, dtype in chosen}
    for name in ("LBFGS", "ConjugateGradient"):
        found[name] = ranks.shared_minimum(comm, name, "float64", line_search_fn="strong_wolfe")
    found["masters"] = ranks.shared_run(comm, "AdamW", "float16", master=True)
    found["one by one"] = ranks.shared_run(comm, "AdamW", "float32", accumulate=False)
    return found


def few(comm: Comm) -> Any:
    """Train with an optimizer of each kind."""
    found = {name: ranks.shared_run(comm, name, "float32") for name in ("AdamW", "Adafactor", "SparseAdam")}
    return {**found, "LBFGS": ranks.shared_minimum(comm, "LBFGS", "float64", line_search_fn="strong_wolfe")}


def saved(comm: Comm, folder: str) -> Any:
    """Train for a step with some optimizers, and save."""
    for name in ("AdamW", "Adafactor"):
        params = ranks.made(name, "float32")
        opt = ranks.taken(ranks.sharded(comm, name, params), name, "float32", [0])
        suffix = ".safetensors" if comm.size == 1 else ""
        checkpoint.save(f"{folder}/{name}-{comm.size}{suffix}", model=params, optimizer=opt, epoch=3)
    return {}


def resumed(comm: Comm, folder: str) -> Any:
    """Go on from what any number of ranks have saved."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        name = path.name.partition("-")[0]
        params = [np.zeros_like(p.data) for p in ranks.made(name, "float32")]
        opt = ranks.sharded(comm, name, params, lr=0.5)
        assert checkpoint.restore(path, model=params, optimizer=opt) == {"epoch": 3}
        found[path.name] = ranks.result(ranks.taken(opt, name, "float32", [1]))
    return found


def fault(comm: Comm) -> Any:
    """A bad gradient on the last rank."""
    opt = ranks.sharded(comm, "AdamW", ranks.made("AdamW", "float32"), pieces=1)
    opt.step(grads=ranks.gradient("AdamW", "float32", 0, comm.rank))
    before = ranks.result(opt)
    grads = ranks.gradient("AdamW", "float32", 1, comm.rank)
    if comm.rank == comm.size - 1:
        grads[3] = grads[3][:5]
    start, told = time.monotonic(), ""
    try:
        opt.step(grads=grads)
    except (RankError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    return {"told": comm.gather(told), "seconds": max(comm.gather(seconds)), "same": ranks.result(opt) == before}


def killed(comm: Comm, folder: str, how: str) -> Any:
    """Train and save after each step; the last rank ends in the middle of the third."""
    params = ranks.made("AdamW", "float32")
    opt = ranks.sharded(comm, "AdamW", params)
    for step in range(4):
        if step == 2 and comm.rank == comm.size - 1:
            if how == "raises":
                raise ValueError("outside of refoptim")
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.taken(opt, "AdamW", "float32", [step])
        checkpoint.save(f"{folder}/step-{step + 1}", model=params, optimizer=opt, step=step + 1)
    return {}


def goes_on(comm: Comm, folder: str) -> Any:
    """Go on from the newest checkpoint to the fourth step."""
    params = [np.zeros_like(p.data) for p in ranks.made("AdamW", "float32")]
    opt = ranks.sharded(comm, "AdamW", params)
    path = checkpoint.latest(folder)
    assert path is not None
    step = checkpoint.restore(path, model=params, optimizer=opt)["step"]
    return {"from": step, "digest": ranks.result(ranks.taken(opt, "AdamW", "float32", range(step, 4)))}


WAYS = {each.__name__: each for each in (bits, few, saved, resumed, fault, killed, goes_on)}


def run(comm: Comm, way: str, *arguments: str) -> None:
    """Take one way, and print what came of it."""
    talk = Sharded(refoptim.SGD, [np.zeros(1)], comm).comm
    found = WAYS[way](talk, *arguments)
    if talk.rank == 0:
        print(json.dumps(found), flush=True)


def by_torch(rank: int, size: int, meeting: str, way: str, *arguments: str) -> None:
    """Take a way in a process of torch's."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    run(dist.group.WORLD, way, *arguments)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that ends before them


if __name__ == "__main__":
    if sys.argv[1].startswith("torch:"):
        import torch

        _, size, meeting = sys.argv[1].split(":", 2)
        torch.multiprocessing.spawn(by_torch, (int(size), meeting, *sys.argv[2:]), int(size))
    else:
        from mpi4py import MPI

        run(MPI.COMM_WORLD, *sys.argv[1:])
