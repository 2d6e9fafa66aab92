"""Runs rules on NumPy arrays in place: the words of the rule on blocks that stay in cache, on several threads.

Small tensors share blocks. A long walk replays a recording of the rule (``program``), a short one runs the rule itself.
No temporary is larger than a few blocks, and no result depends on the size of a block, the packing or the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from operator import setitem
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, widen
from ..step.changes import Change
from ..step.rule import Record, Rule, apply, extended, unscaled
from . import blocks, coded, pure
from .program import known, trace
from .pure import is_measured
from .threads import shared_out, shares
from .workspace import Workspace

FEW = 4
"""Blocks up to which running the rule itself is faster than recording it first."""

_rounding: ContextVar[str] = ContextVar("rounding", default="each")


def rounding(mode: str) -> AbstractContextManager[None]:
    """Choose how 16-bit arrays are rounded inside the block: after each word ("each") or once when stored ("store").

    The choice is the thread's that makes it: a thread started inside the block begins with "each". Choose there again,
    or start it with ``contextvars.copy_context().run``.
    """
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

    Where ``p`` is a master copy, it, the state and an estimate are float32, and ``g`` is widened.
    """

    p: Array
    g: Array
    state: dict[str, Array]
    estimate: Array | None = None

    def operands(self) -> tuple[Array, ...]:
        """Return the arrays that the rule is given."""
        return (self.p, self.g, *self.state.values(), *(() if self.estimate is None else (self.estimate,)))


def prepare(
    rule: type[Rule], s: Record, jobs: Sequence[Job], workspace: Workspace, *, unmade: Set[str], pack: bool
) -> list[Change]:
    """Return what updates the arrays of all jobs in place; ``unmade`` state is written without having been read."""
    if is_measured(rule):
        return [change for job in jobs for change in _measured(rule, s, job, workspace, unmade)]
    if rule.in_single:
        return [change for job in jobs for change in _coded(rule, s, job, workspace)]
    flats = blocks.Flats([blocks.flat(job.operands()) for job in jobs])
    numbers = frozenset(i for i, name in enumerate(jobs[0].state, 2) if name in unmade)
    walk = Walk(flats, rule, s, unmade=numbers, wide=jobs[0].p.dtype != jobs[0].g.dtype)
    written = sum(x.nbytes for job in jobs for x in (job.p, *job.state.values()))
    return walk.changes(list(flats.blocks(pack)), written, workspace)


class Walk:
    """The ways in which a rule goes over blocks.

    Args:
        flats: the operands.
        rule: the rule.
        s: the scalars of the step.
        unmade: the numbers of the operands that are written without having been read.
        wide: results are rounded once, since operands have several types.
    """

    def __init__(self, flats: blocks.Flats, rule: type[Rule], s: Record, *, unmade: Set[int], wide: bool) -> None:
        self.flats, self.rule, self.unmade = flats, partial(apply, rule, s), unmade
        self.wide = wide or get_rounding() == "store"
        self.targets = [0, *range(2, len(flats.jobs[0]) - s.estimated)]

    def changes(self, work: Sequence[blocks.Block], written: int, workspace: Workspace) -> list[Change]:
        """Return what updates the blocks of all operands, of which so many bytes are written."""
        if len(work) <= FEW and workspace.takes(written):
            return [change for block in work for change in self.running(block)]
        return shared_out(self.replaying(work, workspace), work, workspace)

    def load(self, block: blocks.Block) -> list[Array]:
        """Return the operands of a block, widened where results are rounded once."""
        operands = self.flats.load(block)
        return [widen(x) for x in operands] if self.wide else operands

    def running(self, block: blocks.Block) -> Iterator[Change]:
        """Run the rule itself on a block; return what writes its results."""
        return self.flats.changes(block, self.targets, results(self.rule, self.load(block), unmade=self.unmade))

    def replaying(self, work: Sequence[blocks.Block], workspace: Workspace) -> list[Callable[[blocks.Block], None]]:
        """Record the rule; return for each thread a function that replays it on a block."""
        dtypes = [x.dtype for x in self.load(work[0])]
        program = trace(self.rule, dtypes, self.targets, self.unmade)
        buffers = (workspace.buffers(i, program.buffers, blocks.CHUNK) for i in range(shares(work)))
        return [partial(self._replay, program.runner(x, workspace.insist), workspace) for x in buffers]

    def _replay(self, update: Callable[[list[Array]], None], workspace: Workspace, block: blocks.Block) -> None:
        operands = workspace.insist(self.load, block)
        update(operands)
        copied = [i for i in self.targets if self.wide or not self.flats.is_view(block, i)]
        for write in self.flats.changes(block, copied, [operands[i] for i in copied]):
            workspace.insist(write)


def results(rule: Callable[..., tuple[Array, ...]], operands: Sequence[Array], *, unmade: Set[int]) -> list[Array]:
    """Run the rule itself; return the new values of all operands but the gradient, none of them an operand."""
    own = set(map(id, operands))
    return [x.copy() if id(x) in own else x for x in rule(*known(operands, unmade))]


def _measured(rule: type[Rule], s: Record, job: Job, workspace: Workspace, unmade: Set[str]) -> list[Change]:
    """Measure the whole arrays; return what updates them block by block, then writes the state that was measured.

    16-bit arrays are rounded at the store.
    """
    p, g, *state = map(np.asarray, pure.with_axes(rule, {"p": job.p, "g": job.g, **job.state}))
    g = unscaled(s, widen(g))
    s = SimpleNamespace(**{**vars(s), "grad_scale": None})
    read = [None if name in unmade else x for name, x in zip(job.state, state, strict=True)]
    measured = rule.measure(s, p, g, *read)
    s = extended(s, measured, p.dtype)
    walking = [(name in unmade, x) for name, x in zip(job.state, state, strict=True) if name not in measured]
    new_ones, arrays = [is_new for is_new, _ in walking], [p, g, *(x for _, x in walking)]

    def updated(cut: tree.Block) -> list[Change]:
        here = SimpleNamespace(**vars(s))
        vars(here).update((name, _cut(getattr(s, name), arrays[0].shape, cut)) for name in measured)
        p, g, *walked = (tree.take(x, cut) for x in arrays)
        operands = [*map(widen, (p, g)), *(None if new else widen(x) for new, x in zip(new_ones, walked, strict=True))]
        own = set(map(id, operands))
        values = [x.astype(p.dtype, copy=id(x) in own) for x in apply(rule, here, *operands)]
        return [partial(setitem, x, ..., value) for x, value in zip((p, *walked), values, strict=True)]

    def update(cut: tree.Block) -> None:
        for write in workspace.insist(updated, cut):
            workspace.insist(write)

    cuts = list(tree.blocks(p.shape))
    new = [(x, measured[name]) for name, x in zip(job.state, state, strict=True) if name in measured]
    last = [partial(setitem, x, ..., value.astype(x.dtype, copy=False)) for x, value in new]
    if len(cuts) <= FEW and workspace.takes(sum(x.nbytes for x in arrays)):
        return [*(change for cut in cuts for change in updated(cut)), *last]
    return [*shared_out([update] * shares(cuts), cuts, workspace), *last]


def _coded(rule: type[Rule], s: Record, job: Job, workspace: Workspace) -> list[Change]:
    """Return what updates arrays piece by piece, each piece of whole blocks of codes."""
    arrays = {name: blocks.line(x) for name, x in (("p", job.p), ("g", job.g), *job.state.items())}
    size, sizes = job.p.size, {name: x.size for name, x in job.state.items()}
    block = coded.block(sizes, size)
    length = max(block, blocks.CHUNK // block * block)

    def updated(begin: int) -> list[Change]:
        here = coded.slices(sizes, size, begin, min(begin + length, size))
        of_p = slice(begin, min(begin + length, size))
        state = {name: arrays[name][cut] for name, cut in here.items()}
        new_p, new = coded.run(rule, s, arrays["p"][of_p], arrays["g"][of_p], state)
        return [
            partial(setitem, arrays["p"], of_p, new_p),
            *(partial(setitem, arrays[x], here[x], new[x]) for x in new),
        ]

    def update(begin: int) -> None:
        for write in workspace.insist(updated, begin):
            workspace.insist(write)

    begins = range(0, size, length)
    if len(begins) <= FEW and workspace.takes(sum(x.nbytes for x in (job.p, *job.state.values()))):
        return [change for begin in begins for change in updated(begin)]
    return shared_out([update] * shares(begins), begins, workspace)


def _cut(x: Array, shape: tuple[int, ...], cut: tree.Block) -> Array:
    """Cut a block out of what broadcasts to a shape; leave anything else whole."""
    fits = np.ndim(x) == len(shape) and all(n in (1, m) for n, m in zip(x.shape, shape, strict=True))
    return tree.take(x, cut) if fits else x
