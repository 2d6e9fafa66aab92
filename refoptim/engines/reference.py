"""Runs rules on NumPy arrays in place: the words of the rule on blocks that stay in cache, on several threads.

Small tensors share blocks. A long walk replays a recording of the rule (``program``), a short one runs the rule itself.
No temporary is larger than a few blocks, and no result depends on the size of a block, the packing or the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, widen
from ..step.rule import Record, Rule, apply, extended, unscaled
from . import blocks
from .program import trace
from .pure import is_measured
from .threads import for_each

FEW = 4
"""Blocks up to which running the rule itself is faster than recording it first."""

_rounding: ContextVar[str] = ContextVar("rounding", default="each")


def rounding(mode: str) -> AbstractContextManager[None]:
    """Choose how 16-bit arrays are rounded inside the block: after each word ("each") or once when stored ("store")."""
    if mode not in ("each", "store"):
        raise ValueError(f"rounding must be 'each' or 'store', got {mode!r}")
    return _rounded(mode)


@contextmanager
def _rounded(mode: str) -> Iterator[None]:
    token = _rounding.set(mode)
    try:
        yield
    finally:
        _rounding.reset(token)


def get_rounding() -> str:
    """Return the rounding of 16-bit arrays in force."""
    return _rounding.get()


class Job(NamedTuple):
    """One parameter of a bucket: the arrays of its step, all of one shape unless the rule measures.

    Where ``p`` is a master copy, it and the state are float32, and ``g`` is widened.
    """

    p: Array
    g: Array
    state: dict[str, Array]


def run(rule: type[Rule], s: Record, jobs: Sequence[Job], *, unmade: bool, pack: bool) -> None:
    """Update the arrays of all jobs in place; ``unmade`` state is written without having been read."""
    if is_measured(rule):
        for job in jobs:
            _run_measured(rule, s, job)
        return
    flats = blocks.Flats([(job.p, job.g, *job.state.values()) for job in jobs])
    work = list(flats.blocks(pack))
    if work:
        wide = get_rounding() == "store" or jobs[0].p.dtype != jobs[0].g.dtype
        walk = _Walk(flats, partial(apply, rule, s), unmade, wide)
        for_each(walk.replaying(work[0]) if len(work) > FEW else walk.running, work)


class _Walk:
    """The ways in which a rule goes over blocks."""

    def __init__(self, flats: blocks.Flats, rule: Callable[..., tuple[Array, ...]], unmade: bool, wide: bool) -> None:
        self.flats, self.rule, self.unmade, self.wide = flats, rule, unmade, wide
        self.targets = [0, *range(2, len(flats.jobs[0]))]

    def load(self, block: blocks.Block) -> list[Array]:
        """Return the operands of a block, widened where results are rounded once."""
        operands = self.flats.load(block)
        return [widen(x) for x in operands] if self.wide else operands

    def running(self) -> Callable[[blocks.Block], None]:
        """Return a function that runs the rule itself on a block."""

        def work(block: blocks.Block) -> None:
            p, g, *state = operands = self.load(block)
            results = self.rule(p, g, *([None] * len(state) if self.unmade else state))
            kept = [x.copy() if any(x is y for y in operands) else x for x in results]
            self.flats.store(block, self.targets, kept)

        return work

    def replaying(self, example: blocks.Block) -> Callable[[], Callable[[blocks.Block], None]]:
        """Record the rule; return what gives each thread a function that replays it on a block."""
        dtypes = [x.dtype for x in self.load(example)]
        program = trace(self.rule, dtypes, self.targets, self.unmade)

        def worker() -> Callable[[blocks.Block], None]:
            update = program.runner(blocks.CHUNK)

            def work(block: blocks.Block) -> None:
                operands = self.load(block)
                update(operands)
                copied = [i for i in self.targets if self.wide or not self.flats.is_view(block, i)]
                self.flats.store(block, copied, [operands[i] for i in copied])

            return work

        return worker


def _run_measured(rule: type[Rule], s: Record, job: Job) -> None:
    """Measure the whole arrays, update block by block, then write the state that was measured; rounds at the store."""
    p, g, *state = (np.atleast_1d(np.asarray(x)) for x in (job.p, job.g, *job.state.values()))
    with np.errstate(all="ignore"):
        g = unscaled(s, widen(g))
        s = SimpleNamespace(**{**vars(s), "grad_scale": None})
        measured = rule.measure(s, p, g, *state)
    s = extended(s, measured, p.dtype)
    walked = [x for name, x in zip(job.state, state, strict=True) if name not in measured]

    def block(cut: tree.Block) -> None:
        here = SimpleNamespace(**vars(s))
        vars(here).update((name, tree.take(getattr(s, name), cut)) for name in measured)
        results = apply(rule, here, *(widen(tree.take(x, cut)) for x in (p, g, *walked)))
        for x, result in zip((p, *walked), results, strict=True):
            tree.take(x, cut)[...] = result

    for_each(lambda: block, list(tree.blocks(p.shape)))
    for name, x in zip(job.state, state, strict=True):
        if name in measured:
            x[...] = measured[name]
