"""Measures what ranks exchange, against MPI's own functions in the same run, and fits a model of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

import refoptim

from ..distributed import Sharded
from ..distributed.comm import Communicator, start
from ..distributed.exchange import scatter, share
from ..distributed.layout import segments
from ..distributed.order import fold
from ..distributed.plan import Link
from ..engines import host, machine_if_any
from ..engines.twins import kernels_on
from ..numerics.arith import Array
from ..numerics.array_types import HOST

MESSAGES = [1 << k for k in range(10, 25, 2)]
"""Bytes of the messages by which the model is fitted."""

PIECES = 4
"""Gradients whose exchange goes on beside work."""


def world() -> Any:
    """Return all processes of this job; RuntimeError if it is one alone."""
    api = import_module("mpi4py.MPI") if find_spec("mpi4py") else None
    if api is None or api.COMM_WORLD.Get_size() == 1:
        raise RuntimeError(
            "ranks are measured by several processes: mpiexec -n 2 python -m mpi4py -m refoptim bench distributed"
        )
    return api


class Clock:
    """Measures what all ranks do together: the median of the time of the slowest."""

    def __init__(self, comm: Any, repeats: int) -> None:
        self.comm, self.repeats = comm, repeats

    def __call__(self, work: Callable[[], Any]) -> float:
        """Return seconds; the first turn does not count."""
        return self.in_turns({"": work})[""]

    def in_turns(self, works: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Return seconds of each of several, of which every turn does all: what disturbs one disturbs the others."""
        turns = [[self._once(work) for work in works.values()] for _ in range(self.repeats + 1)]
        return dict(zip(works, map(statistics.median, zip(*turns[1:], strict=True)), strict=True))

    def _once(self, work: Callable[[], Any]) -> float:
        self.comm.Barrier()
        begin = time.perf_counter()
        work()
        self.comm.Barrier()
        return time.perf_counter() - begin


def measured(api: Any, size: int, repeats: int) -> dict[str, float]:
    """Return seconds by what was done with ``size`` float32 numbers, all ranks taking part."""
    world, clock = api.COMM_WORLD, Clock(api.COMM_WORLD, repeats)
    ranks = world.Get_size()
    g, w = np.ones(size, np.float32), np.zeros(size, np.float32)
    opt = Sharded(refoptim.AdamW, [w], world, lr=1e-3, fused=True if not host.missing() else None)
    pieces = [segments(held, [0]) for held in opt._ranges]
    counts = [sum(end - begin for _, begin, end in each) for each in pieces]
    mine, everything = np.empty(counts[opt.comm.rank], np.float32), np.empty(size, np.float32)
    buffers, limit = opt._pieces.buffers, opt.bucket
    dtypes = [[g.dtype]] * ranks
    exchanges: dict[str, Callable[[], Any]] = {
        "MPI_Reduce_scatter": lambda: world.Reduce_scatter(g, mine, counts, api.SUM),
        "MPI_Allgatherv": lambda: world.Allgatherv(mine, [everything, counts]),
        "exchange": partial(scatter, opt.comm, buffers, pieces, [g], dtypes, limit, g, _Nobody()),
        "gather": partial(share, opt.comm, buffers, pieces, [w], [w.dtype], limit, w),
    }
    return {
        **clock.in_turns(exchanges),
        "agree": clock(lambda: [opt.comm.agree([0, 0, 0]) for _ in range(100)]) / 100,
        **_parts(clock, ranks, max(counts)),
        "step": clock(lambda: opt.step(grads=[g])),
    }


class _Nobody:
    """Stands for the sum, which is measured by itself."""

    def room(self, sender: int, part: Any) -> tuple[Any, None]:
        """Take messages anywhere."""
        return part, None

    def take(self, part: Any, came: Any) -> None:
        """Do nothing."""


def _nothing(*arguments: Any) -> None:
    """Stand for work."""


def _parts(clock: Clock, ranks: int, n: int) -> dict[str, float]:
    """Return the seconds of a fold, and of the fused update, of a part of ``n`` numbers."""
    operands = [np.ones(n, np.float32) for _ in range(ranks)]
    term: Any = 0
    for i in range(1, ranks):
        term = (term, i)
    g, w = np.ones(n, np.float32), np.zeros(n, np.float32)  # pages that nobody wrote to would not be read from memory
    plain = refoptim.AdamW([w], lr=1e-3, fused=True if not host.missing() else None)
    works: dict[str, Callable[[], Any]] = {
        "fold": lambda: fold(term, [operands], [operands[0]], ranks),  # where the first message has come
        "update": lambda: plain.step(grads=[g]),
    }
    with kernels_on(machine_if_any(HOST)):
        return clock.in_turns(works)


def overlap(api: Any, size: int, repeats: int) -> dict[str, float]:
    """Return seconds of exchanges of whole gradients, of work that takes twice as long, of one after and beside it.

    The work is done elsewhere, as by a GPU that the processor waits for; or it is the processor's, which has to
    make the exchange as well.
    """
    clock, g = Clock(api.COMM_WORLD, repeats), np.ones(size, np.float32)
    opt = Sharded(refoptim.SGD, [np.zeros(size, np.float32)], api.COMM_WORLD, pieces=PIECES, accumulate=False)

    def through(work: Callable[[], Any], give: Callable[[Any], Any]) -> None:
        for _ in range(PIECES):
            give([g])
            work()
        opt._forget_pieces()

    at_once = partial(opt._round, error=None, given=True)
    beside = partial(opt.add, borrow=True)
    alone = partial(through, _nothing, at_once)
    seconds, once = 2 * clock(alone) / PIECES, Clock(api.COMM_WORLD, 20)(partial(_computed, 1))
    turns = api.COMM_WORLD.allreduce(max(1, round(seconds / once)), api.MAX)
    works: dict[str, Callable[[], Any]] = {
        "elsewhere": partial(time.sleep, seconds),
        "here": partial(_computed, turns),
    }
    found = {"exchange of pieces": alone}
    for where, work in works.items():
        found[f"work {where}"] = partial(through, work, _nothing)
        found[f"work {where}, exchange after it"] = partial(through, work, at_once)
        found[f"work {where}, exchange beside it"] = partial(through, work, beside)
    return clock.in_turns(found)


def _computed(turns: int) -> None:
    """Do work of one processor, in its caches: a product of matrices would take all processors there are."""
    numbers, found = np.full(10_000, 1e-3), np.empty(10_000)
    for _ in range(turns):
        np.exp(numbers, out=found)


def link(api: Any, repeats: int) -> Link:
    """Return how long a message takes from each rank to each other, fitted to messages of several sizes."""
    comm, clock = Sharded(refoptim.SGD, [np.zeros(1)], api.COMM_WORLD).comm, Clock(api.COMM_WORLD, repeats)
    seconds = []
    for size in MESSAGES:
        out, into = ([np.zeros(size, np.uint8) for _ in range(comm.size)] for _ in range(2))
        seconds.append(clock(partial(_sent, comm, out, into)) / (comm.size - 1))
    return Link.fitted(MESSAGES, seconds)


def _sent(comm: Communicator, out: list[Array], into: list[Array]) -> None:
    start(comm, out, into).wait()


def ratios(found: dict[str, float], ranks: int) -> dict[str, float]:
    """Return what was measured as ratios: below 1 is faster than the peer."""
    peer = found["MPI_Reduce_scatter"] + found["MPI_Allgatherv"]
    moved, updated = ranks + 1, 7  # numbers read and written: of a fold, and of AdamW (gradient, weight, two averages)
    hidden = {
        f"part of the exchange that work {where} hides": (
            found[f"work {where}, exchange after it"] - found[f"work {where}, exchange beside it"]
        )
        / found["exchange of pieces"]
        for where in ("elsewhere", "here")
    }
    return {
        "exchange + gather : MPI_Reduce_scatter + MPI_Allgatherv": (found["exchange"] + found["gather"]) / peer,
        "fold : update, per byte": found["fold"] / moved / (found["update"] / updated),
        **hidden,
    }


def surroundings() -> dict[str, Any]:
    """Return where this was measured."""
    return {"machine": platform.machine(), "processors": os.cpu_count(), "load": list(os.getloadavg())}
