"""Messages between ranks: segments of arrays one behind the other, in chunks that bound the memory they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Protocol, TypeAlias

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import at, filled, place
from .buffers import Buffers
from .buffers import wide as width
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
        buffers: lend the memory of a copy.
        segments: what it holds.
        dtypes: those of the vectors.
        beside: an array that lies where the message is to lie.
        vectors: whose memory may be used; None makes memory that holds nothing yet.
    """

    def __init__(
        self,
        buffers: Buffers,
        segments: Sequence[Segment],
        dtypes: DTypes,
        beside: Array,
        vectors: Vectors | None = None,
    ) -> None:
        self.buffers, self.segments, self.dtypes = buffers, segments, dtypes
        self.starts, size = offsets(segments, list(map(width, dtypes)))
        self.is_direct = vectors is not None and len(segments) == 1
        if vectors and self.is_direct:
            self.memory = flat_bytes(cut(vectors, segments[0]))
        else:
            self.memory = buffers.take(size, np.uint8, beside)

    def close(self) -> None:
        """Give the memory back."""
        if not self.is_direct:
            self.buffers.give(self.memory)

    def views(self) -> list[Array]:
        """Return the memory of each segment."""
        found = []
        for (member, begin, end), first in zip(self.segments, self.starts, strict=True):
            dtype = self.dtypes[member]
            found.append(self.memory[first : first + (end - begin) * width(dtype)].view(dtype))
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


class Receiver(Protocol):
    """What becomes of the messages that come."""

    def room(self, sender: int, part: Sequence[Segment]) -> tuple[Sequence[Segment], Vectors | None]:
        """Return vectors into which a sender's segments may come, and where in these they are to be; None for none."""

    def take(self, part: Sequence[Segment], came: list[list[Array] | None]) -> None:
        """Take segments of this rank's piece: what each other sender has of them."""


def scatter(
    comm: Communicator,
    buffers: Buffers,
    pieces: Pieces,
    mine: Vectors | None,
    dtypes: Sequence[DTypes | None],
    limit: int,
    beside: Array,
    receiver: Receiver,
) -> None:
    """Give each rank its piece of what every sender has.

    Args:
        comm: the communicator.
        buffers: lend memory.
        pieces: what each rank is to have.
        mine: the vectors of this rank; None if it sends nothing.
        dtypes: those of the vectors that a rank sends; None for a rank that sends nothing.
        limit: about as many bytes are on their way at once.
        beside: an array that lies where messages are to lie.
        receiver: is given what comes.
    """
    widths = [max(map(width, column)) for column in zip(*(x for x in dtypes if x is not None), strict=True)]
    line, nothing, own = _Line(), Message(buffers, [], (), beside), dtypes[comm.rank]

    def arrived(part: Sequence[Segment], came: Sequence[Message | None], out: Sequence[Message]) -> None:
        receiver.take(part, [None if x is None else x.views() for x in came])
        for message in (*came, *out):
            if message is not None:
                message.close()

    for parts in _rounds(pieces, widths, limit):
        part, out, came = parts[comm.rank], [], []
        for r, (theirs, far) in enumerate(zip(dtypes, parts, strict=True)):
            sends = r != comm.rank and own and mine
            out.append(Message(buffers, far, own or (), beside, mine).pack(mine or ()) if sends else nothing)
            comes = theirs is not None and r != comm.rank
            segments, room = receiver.room(r, part) if comes else (part, None)
            came.append(Message(buffers, segments, theirs or (), beside, room) if comes else None)
        pending = start(comm, [x.memory for x in out], [(x or nothing).memory for x in came])
        line.put(pending, partial(arrived, part, came, out))
    line.finish()


def share(
    comm: Communicator, buffers: Buffers, pieces: Pieces, vectors: Vectors, dtypes: DTypes, limit: int, beside: Array
) -> None:
    """Give all ranks what each has: its piece goes into the vectors of the others."""
    line = _Line()

    def arrived(mine: Message, came: Sequence[Message]) -> None:
        for message in came:
            message.unpack(vectors)
        for message in (mine, *came):
            message.close()

    for parts in _rounds(pieces, [width(x) for x in dtypes], limit):
        mine = Message(buffers, parts[comm.rank], dtypes, beside, vectors).pack(vectors)
        far = [part if r != comm.rank else [] for r, part in enumerate(parts)]
        came = [Message(buffers, part, dtypes, beside, vectors) for part in far]
        pending = start(comm, [mine.memory] * comm.size, [x.memory for x in came])
        line.put(pending, partial(arrived, mine, came))
    line.finish()


def join(comm: Communicator, x: Array, counts: Sequence[int]) -> Array:
    """Return the arrays of all ranks, one behind the other; ``counts`` are their lengths, in order."""
    with at(place(x)):
        whole = filled(x, (sum(counts), *x.shape[1:]), 0)
        parts = [whole[end - n : end] for end, n in zip(accumulate(counts), counts, strict=True)]
        parts[comm.rank][...] = x
        start(comm, [flat_bytes(parts[comm.rank])] * comm.size, [flat_bytes(part) for part in parts]).wait()
        return whole
