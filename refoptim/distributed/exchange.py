"""Messages between ranks: segments of arrays one behind the other, in chunks that bound the memory they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import at, filled, place
from .comm import Communicator, Pending, flat_bytes, start
from .layout import Segment, chunks, offsets

Vectors: TypeAlias = "Sequence[Array | None]"
"""An array of each parameter as a vector, contiguous in memory; None where there is none."""

DTypes: TypeAlias = "Sequence[DType | None]"
"""The dtype of the vector of each parameter."""

Pieces: TypeAlias = Sequence[Sequence[Segment]]
"""What each rank has, or is to have."""


class Message:
    """Segments of vectors in one piece of memory: that of the vector, where there is one alone, or a copy.

    Args:
        segments: what it holds.
        dtypes: those of the vectors.
        beside: an array that lies where the message is to lie.
        vectors: whose memory may be used; None makes memory that holds nothing yet.
    """

    def __init__(
        self, segments: Sequence[Segment], dtypes: DTypes, beside: Array, vectors: Vectors | None = None
    ) -> None:
        self.segments, self.dtypes = segments, dtypes
        self.starts, size = offsets(segments, [_width(x) for x in dtypes])
        self.is_direct = vectors is not None and len(segments) == 1
        self.memory = flat_bytes(cut(vectors, segments[0])) if vectors and self.is_direct else _empty(size, beside)

    def views(self) -> list[Array]:
        """Return the memory of each segment."""
        found = []
        for (member, begin, end), first in zip(self.segments, self.starts, strict=True):
            dtype = self.dtypes[member]
            found.append(self.memory[first : first + (end - begin) * _width(dtype)].view(dtype))
        return found

    def pack(self, vectors: Vectors) -> Message:
        """Copy what vectors hold into this memory."""
        if not self.is_direct:
            with at(place(self.memory)):
                for segment, own in zip(self.segments, self.views(), strict=True):
                    own[...] = cut(vectors, segment)
        return self

    def unpack(self, vectors: Vectors) -> None:
        """Copy what this memory holds into vectors."""
        if not self.is_direct:
            with at(place(self.memory)):
                for segment, own in zip(self.segments, self.views(), strict=True):
                    cut(vectors, segment)[...] = own


def cut(vectors: Vectors, segment: Segment) -> Array:
    """Return a segment of the vector of its parameter."""
    x = vectors[segment.member]
    assert x is not None
    return x[segment.begin : segment.end]


def _width(dtype: DType | None) -> int:
    return dtype.itemsize if dtype is not None else 0


def _empty(size: int, beside: Array) -> Array:
    """Return memory that lies where an array does, without values on the host."""
    if isinstance(beside, np.ndarray):
        return np.empty(size, np.uint8)
    return filled(beside, (size,), 0, np.dtype(np.uint8))


def _rounds(pieces: Pieces, widths: Sequence[int], limit: int) -> Iterator[list[list[Segment]]]:
    """Yield what each rank is to have in one exchange after the other: about ``limit`` bytes in all."""
    columns = [chunks(each, widths, max(1, limit // len(pieces))) for each in pieces]
    for i in range(max(map(len, columns))):
        yield [column[i] if i < len(column) else [] for column in columns]


class _Line:
    """Exchanges on their way, two at most: while one is taken, the next one travels."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Pending, Callable[[], None]]] = deque()

    def put(self, pending: Pending, arrived: Callable[[], None]) -> None:
        self.waiting.append((pending, arrived))
        if len(self.waiting) > 1:
            self.take()

    def take(self) -> None:
        pending, arrived = self.waiting.popleft()
        pending.wait()
        arrived()

    def finish(self) -> None:
        while self.waiting:
            self.take()


Taken: TypeAlias = "Callable[[Sequence[Segment], list[list[Array] | None]], None]"


def scatter(
    comm: Communicator,
    pieces: Pieces,
    mine: Vectors | None,
    dtypes: Sequence[DTypes | None],
    limit: int,
    beside: Array,
    taken: Taken,
) -> None:
    """Give each rank its piece of what every sender has.

    Args:
        comm: the communicator.
        pieces: what each rank is to have.
        mine: the vectors of this rank; None if it sends nothing.
        dtypes: those of the vectors that a rank sends; None for a rank that sends nothing.
        limit: about as many bytes are on their way at once.
        beside: an array that lies where messages are to lie.
        taken: is called with segments of this rank's piece, and what each other sender has of them.
    """
    widths = [max(map(_width, column)) for column in zip(*(x for x in dtypes if x is not None), strict=True)]
    line, nothing, own = _Line(), Message([], (), beside), dtypes[comm.rank]

    def arrived(part: Sequence[Segment], came: Sequence[Message | None], out: Sequence[Message]) -> None:
        taken(part, [None if x is None else x.views() for x in came])

    for parts in _rounds(pieces, widths, limit):
        far = [part if r != comm.rank else [] for r, part in enumerate(parts)]
        out = [nothing if own is None or not mine else Message(part, own, beside, mine).pack(mine) for part in far]
        part = parts[comm.rank]
        came = [
            None if theirs is None or r == comm.rank else Message(part, theirs, beside)
            for r, theirs in enumerate(dtypes)
        ]
        pending = start(comm, [x.memory for x in out], [(x or nothing).memory for x in came])
        line.put(pending, partial(arrived, part, came, out))
    line.finish()


def share(comm: Communicator, pieces: Pieces, vectors: Vectors, dtypes: DTypes, limit: int, beside: Array) -> None:
    """Give all ranks what each has: its piece goes into the vectors of the others."""
    line, nothing = _Line(), Message([], (), beside)

    def arrived(mine: Message, came: Sequence[Message]) -> None:
        for message in came:
            message.unpack(vectors)

    for parts in _rounds(pieces, [_width(x) for x in dtypes], limit):
        mine = Message(parts[comm.rank], dtypes, beside, vectors).pack(vectors)
        came = [nothing if r == comm.rank else Message(part, dtypes, beside, vectors) for r, part in enumerate(parts)]
        pending = start(comm, [mine.memory] * comm.size, [x.memory for x in came])
        line.put(pending, partial(arrived, mine, came))
    line.finish()


def join(comm: Communicator, x: Array, counts: Sequence[int]) -> Array:
    """Return the arrays of all ranks, one behind the other; ``counts`` are their lengths, in order."""
    with at(place(x)):
        whole = filled(x, (sum(counts), *x.shape[1:]), 0)
        ends = np.cumsum(counts)
        parts = [whole[end - n : end] for end, n in zip(ends, counts, strict=True)]
        parts[comm.rank][...] = x
        start(comm, [flat_bytes(parts[comm.rank])] * comm.size, [flat_bytes(part) for part in parts]).wait()
        return whole
