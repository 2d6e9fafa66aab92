"""The pieces of a gradient, taken one by one, and what comes of them: each rank's part of their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from ..numerics.arith import Array, arithmetic
from ..numerics.tree import operands as operands_of
from .buffers import Buffers
from .comm import Communicator
from .exchange import DTypes, Vectors, cut, scatter
from .layout import Range, Ranges, Segment, segments
from .order import Block, Sum, blocks, fold, merged, whole

Held: TypeAlias = "dict[Block, list[Array | None]]"
"""Sums of blocks: a vector of each parameter, in the arithmetic type but for a piece alone."""


class Pieces:
    """The sum of the pieces of one step.

    In round i each rank gives its piece number i, if it has so many; blocks that are then complete are exchanged, all
    ranks knowing by the counts alone which these are.

    Args:
        comm: the communicator.
        counts: how many pieces each rank has.
        first: whether a rank sums its own pieces before it sends them, as far as they make blocks; else it sends each.
        average: whether the sum is divided by the number of pieces.
        limit: about as many bytes are on their way at once.

    Attributes:
        round: how many rounds have been.
        rounds: how many there are.
        total: how many pieces there are.
    """

    def __init__(self, comm: Communicator, counts: Sequence[int], first: bool, average: bool, limit: int) -> None:
        self.comm, self.limit = comm, limit
        self.rounds, self.total = max(counts), sum(counts)
        self.count, self.divisor = counts[comm.rank], self.total if average else 1
        starts = [0, *accumulate(counts)]
        self.begin = starts[comm.rank]
        pairs = list(zip(starts, counts, strict=False))
        self._due = [[due(start, n, i, first) for start, n in pairs] for i in range(self.rounds)]
        self.buffers = Buffers()
        self._mine: Held = {}
        self._kept: Held = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.round = 0
        for vectors in (*self._mine.values(), *self._kept.values()):
            self._give(vectors)
        self._mine, self._kept = {}, {}

    def _give(self, vectors: Vectors) -> None:
        for x in vectors:
            self.buffers.give(x)

    @property
    def is_done(self) -> bool:
        """Whether all rounds have been."""
        return self.round == self.rounds

    @property
    def is_expected(self) -> bool:
        """Whether this rank has a piece to give in the next round."""
        return self.round < self.count

    @property
    def is_sent_at_once(self) -> bool:
        """Whether the piece of the next round is exchanged in it, and not looked at afterwards."""
        return (0, self.begin + self.round) in self._due[self.round][self.comm.rank]

    def take(self, piece: Vectors | None, dtypes: DTypes, ranges: Ranges, outs: Vectors) -> None:
        """Go through a round.

        Args:
            piece: this rank's piece as vectors of reals, None for parameters without gradient; None if it has no more.
            dtypes: those of the vectors.
            ranges: who holds what.
            outs: the vectors that become this rank's parts of the sums, in the last round; None as in a piece.
        """
        if piece is not None:
            self._add(list(piece))
        due = self._due[self.round]
        number = max(map(len, due))
        for i in range(number):
            senders = [own[i] if i < len(own) else None for own in due]
            last = self.round == self.rounds - 1 and i == number - 1
            self._exchange(senders, dtypes, ranges, outs, last)
        self.round += 1

    def _add(self, piece: list[Array | None]) -> None:
        """Put a piece of this rank to those that are not exchanged yet."""
        old = list(self._mine.items())
        numbered: dict[Block, Sum] = {block: i for i, (block, _) in enumerate(old)}
        operands = [*(x for _, x in old), piece]
        sums = merged(numbered, [((0, self.begin + self.round), len(old))])
        self._mine = {block: self._summed(term, operands) for block, term in sums.items()}

    def _summed(self, term: Sum, operands: Sequence[list[Array | None]]) -> list[Array | None]:
        """Return the vectors of a sum, and give back those of operands."""
        if isinstance(term, int):
            return operands[term]
        found = [None if x is None else self.buffers.take(x.size, arithmetic(x.dtype), x) for x in operands[0]]
        columns = [column for column in zip(*operands, strict=True) if column[0] is not None]
        fold(term, columns, [x for x in found if x is not None])
        for i in operands_of(term):
            self._give(operands[i])
        return found

    def _exchange(
        self, senders: Sequence[Block | None], dtypes: DTypes, ranges: Ranges, outs: Vectors, last: bool
    ) -> None:
        """Exchange one block of each sender, and put them to what came before."""
        own = senders[self.comm.rank]
        mine = None if own is None else self._mine.pop(own)
        kept = list(self._kept.items())
        numbered: dict[Block, Sum] = {block: i for i, (block, _) in enumerate(kept)}
        coming = [block for block in senders if block is not None]
        sums = merged(numbered, [(block, len(kept) + i) for i, block in enumerate(coming)])
        if last:
            sums = {(0, 0): whole(sums)}
        self._kept = {} if last else {block: self._room(term, kept, outs) for block, term in sums.items()}
        into = {(0, 0): list(outs)} if last else self._kept
        sent = [None if block is None else _sent(dtypes, block) for block in senders]
        new = {block: term for block, term in sums.items() if last or not _is_kept(term, kept)}
        held, divisor = ranges[self.comm.rank], self.divisor if last else 1
        fold = _Fold(self.comm.rank, held, [x for _, x in kept], mine, sent, new, into, divisor)
        present = [i for i, dtype in enumerate(dtypes) if dtype is not None]
        beside = next((x for x in outs if x is not None), np.empty(0))

        pieces = [segments(x, present) for x in ranges]
        scatter(self.comm, self.buffers, pieces, mine, sent, self.limit, beside, fold)
        still = {id(x) for x in self._kept.values()}
        for vectors in (mine or [], *(x for _, x in kept if id(x) not in still)):
            self._give(vectors)

    def _room(self, term: Sum, kept: Sequence[tuple[Block, Any]], outs: Vectors) -> list[Array | None]:
        """Return what a sum is written into: where it is already, or other vectors."""
        if _is_kept(term, kept):
            found: list[Array | None] = kept[term][1]
            return found
        return [None if x is None else self.buffers.take(x.size, arithmetic(x.dtype), x) for x in outs]


def _is_kept(term: Sum, kept: Sequence[Any]) -> bool:
    """Tell whether a sum is one of those that are kept already."""
    return isinstance(term, int) and term < len(kept)


@dataclass
class _Fold:
    """The sums that one exchange makes of what is kept, of this rank's own, and of what comes.

    ``sent`` holds the dtypes of what each rank sends, ``into`` the vectors that each sum is written into.
    """

    rank: int
    ranges: Sequence[Range]
    kept: Sequence[list[Array | None]]
    mine: Vectors | None
    sent: Sequence[DTypes | None]
    sums: Mapping[Block, Sum]
    into: Mapping[Block, Vectors]
    divisor: int

    def room(self, sender: int, part: Sequence[Segment]) -> tuple[Sequence[Segment], Vectors | None]:
        """Let come what a sum begins with where the sum will be: memory that is read need not be read to be written."""
        for block, term in self.sums.items():
            into = self.into[block]
            if self._first(term) == sender and all(self._fits(x, sender, into) for x in part):
                return [self._place(x) for x in part], into
        return part, None

    def _first(self, term: Sum) -> int | None:
        """Return the first rank whose message is one of the first two operands of a sum."""
        coming = [rank for rank, dtypes in enumerate(self.sent) if dtypes is not None]
        numbers = [i - len(self.kept) for i in operands_of(term)[:2]]
        return next((coming[i] for i in numbers if i >= 0 and coming[i] != self.rank), None)

    def _fits(self, segment: Segment, sender: int, into: Vectors) -> bool:
        """Tell whether a segment comes in the dtype of the sum."""
        dtypes, x = self.sent[sender], into[segment.member]
        return dtypes is not None and x is not None and dtypes[segment.member] == x.dtype

    def take(self, part: Sequence[Segment], came: list[list[Array] | None]) -> None:
        """Sum segments."""
        places = [self._place(segment) for segment in part]
        columns = [self._operands(i, segment, came) for i, segment in enumerate(part)]
        for block, term in self.sums.items():
            fold(term, columns, [cut(self.into[block], here) for here in places], self.divisor)

    def _place(self, segment: Segment) -> Segment:
        """Return where a segment lies in what this rank has of its parameter."""
        first = self.ranges[segment.member][0]
        return Segment(segment.member, segment.begin - first, segment.end - first)

    def _operands(self, i: int, segment: Segment, came: list[list[Array] | None]) -> list[Array]:
        """Return what there is of a segment, the one of number ``i`` that came."""
        operands = [cut(x, self._place(segment)) for x in self.kept]
        for rank, dtypes in enumerate(self.sent):
            if dtypes is not None:
                theirs = came[rank]
                operands.append(cut(self.mine or (), segment) if theirs is None else theirs[i])
        return operands


def due(start: int, count: int, i: int, first: bool) -> list[Block]:
    """Return the blocks that a rank sends after its piece number ``i``; its pieces begin at ``start``."""
    if i >= count:
        return []
    if not first:
        return [(0, start + i)]
    return [(level, k) for level, k in blocks(start, start + count) if (k + 1) << level == start + i + 1]


def _sent(dtypes: DTypes, block: Block) -> DTypes:
    """Return the dtypes of the vectors of a block: sums are in the arithmetic type."""
    return [dtype if dtype is None or not block[0] else arithmetic(dtype) for dtype in dtypes]
