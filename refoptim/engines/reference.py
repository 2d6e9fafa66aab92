"""Runs rules on NumPy arrays in place: pure words on chunks that stay in cache, large arrays on several threads.

Arrays are walked in C order (Fortran order where all arrays of a parameter have it), as flat views where the layout
allows and through copies of a chunk where it does not. Small tensors are packed into shared chunks. No temporary is
larger than a few chunks, and no result depends on the size of a chunk, the packing or the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .. import tree
from ..arith import Array, as_reals, widen
from ..rule import Record, Rule, apply, extended
from .pure import is_measured

CHUNK = 24 << 10
"""Elements of a chunk; with its temporaries it fits the second-level cache."""

_threads: list[int] = [0]
_rounding: ContextVar[str] = ContextVar("rounding", default="each")


class Job(NamedTuple):
    """One parameter of a bucket: the arrays of its step, all of one shape unless the rule measures."""

    p: Array
    g: Array
    state: dict[str, Array]


class Segment(NamedTuple):
    """Elements ``start`` to ``stop`` of the job of number ``job``."""

    job: int
    start: int
    stop: int


def set_num_threads(n: int) -> None:
    """Use ``n`` threads for large arrays; 0 stands for the number of processors this process may use."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"the number of threads must be an integer in [0, inf), got {n!r}")
    _threads[0] = n


def get_num_threads() -> int:
    """Return the number of threads used for large arrays."""
    return _threads[0] or _processors()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def rounding(mode: str) -> Iterator[None]:
    """Choose how 16-bit arrays are rounded inside the block: after each word ("each") or once when stored ("store")."""
    if mode not in ("each", "store"):
        raise ValueError(f"rounding must be 'each' or 'store', got {mode!r}")
    token = _rounding.set(mode)
    try:
        yield
    finally:
        _rounding.reset(token)


def get_rounding() -> str:
    """Return the rounding of 16-bit arrays in force."""
    return _rounding.get()


def run(rule: type[Rule], s: Record, jobs: Sequence[Job], *, unmade: bool, pack: bool) -> None:
    """Update the arrays of all jobs in place; ``unmade`` state is written without having been read."""
    if is_measured(rule):
        for job in jobs:
            _run_measured(rule, s, job)
        return
    widened = get_rounding() == "store"
    flats = [[_flat(x) for x in _aligned(job)] for job in jobs]
    work = list(_blocks([len(flat[0]) for flat in flats], pack))

    def block(segments: list[Segment]) -> None:
        operands = _load(flats, segments)
        if widened:
            operands = [widen(x) for x in operands]
        p, g, *state = operands
        results = apply(rule, s, p, g, *([None] * len(state) if unmade else state))
        _store(flats, segments, results)

    _for_each(block, work)


def _aligned(job: Job) -> list[Array]:
    """Strip subclasses, and turn arrays that are all in Fortran order round, to walk them in memory order."""
    arrays = [x if type(x) is np.ndarray else np.asarray(x) for x in (job.p, job.g, *job.state.values())]
    if arrays[0].flags.c_contiguous or not all(x.flags.f_contiguous for x in arrays):
        return arrays
    return [x.T for x in arrays]


def _flat(x: Array) -> Any:
    """Return the elements of ``x`` as something that is read and written by flat slices."""
    x = as_reals(x)
    if x.flags.c_contiguous:
        return x if x.ndim == 1 else x.reshape(-1)
    return x.flat


def _blocks(sizes: list[int], pack: bool) -> Iterator[list[Segment]]:
    """Cut arrays of the given sizes into blocks of at most CHUNK elements; ``pack`` lets small ones share a block."""
    pending: list[Segment] = []
    room = CHUNK
    for job, size in enumerate(sizes):
        if pending and (size > room or not pack):
            yield pending
            pending, room = [], CHUNK
        if size > CHUNK:
            yield from ([Segment(job, i, min(i + CHUNK, size))] for i in range(0, size, CHUNK))
        elif size:
            pending.append(Segment(job, 0, size))
            room -= size
    if pending:
        yield pending


def _load(flats: list[list[Any]], segments: list[Segment]) -> list[Array]:
    """Return the operands of a block: views where it is one segment, else the segments joined."""
    if len(segments) == 1:
        job, start, stop = segments[0]
        return [x[start:stop] for x in flats[job]]
    parts = [[x[start:stop] for x in flats[job]] for job, start, stop in segments]
    return [np.concatenate(operand) for operand in zip(*parts, strict=True)]


def _store(flats: list[list[Any]], segments: list[Segment], results: tuple[Array, ...]) -> None:
    """Write the new parameter (operand 0) and the new state (operands 2, 3 …) of a block."""
    offset = 0
    for job, start, stop in segments:
        p, _, *state = flats[job]
        for x, result in zip((p, *state), results, strict=True):
            x[start:stop] = result if len(segments) == 1 else result[offset : offset + stop - start]
        offset += stop - start


def _for_each(work: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Call ``work`` on every item, on several threads where there are enough; floating-point flags raise nothing."""

    def share(part: Sequence[Any]) -> None:
        with np.errstate(all="ignore"):
            for item in part:
                work(item)

    threads = min(get_num_threads(), len(items) // 2)
    if threads < 2:
        share(items)
    else:
        list(_pool(os.getpid(), threads).map(share, [items[i::threads] for i in range(threads)]))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="refoptim")


def _run_measured(rule: type[Rule], s: Record, job: Job) -> None:
    """Measure the whole arrays, update block by block, then write the state that was measured; rounds at the store."""
    p, g, *state = (np.atleast_1d(np.asarray(x)) for x in (job.p, job.g, *job.state.values()))
    with np.errstate(all="ignore"):
        measured = rule.measure(s, p, g, *state)
    s = extended(s, measured, p.dtype)
    walked = [x for name, x in zip(job.state, state, strict=True) if name not in measured]

    def block(cut: tree.Block) -> None:
        here = SimpleNamespace(**vars(s))
        vars(here).update((name, tree.take(getattr(s, name), cut)) for name in measured)
        results = apply(rule, here, *(widen(tree.take(x, cut)) for x in (p, g, *walked)))
        for x, result in zip((p, *walked), results, strict=True):
            tree.take(x, cut)[...] = result

    _for_each(block, list(tree.blocks(p.shape)))
    for name, x in zip(job.state, state, strict=True):
        if name in measured:
            x[...] = measured[name]
