"""Who holds what: a pure function of sizes, dtypes and the number of ranks.

Parameters count in reals, a complex number as two. A range ``(begin, end)`` of a parameter is what a rank holds of it.

``elements``
    for rules that see each element alone: all parameters of one dtype lie behind each other, and the line is cut into
    about equal pieces, only at multiples of ``tree.WIDTH`` of a parameter: so no run of a sum lies on two ranks.
``owners``
    for rules that measure: each parameter whole on one rank, the largest first, to the rank that holds the least.
``flat``
    for rules that see all parameters as one vector: it is cut at multiples of ``tree.WIDTH`` of the whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

from ..numerics.tree import WIDTH

Range: TypeAlias = tuple[int, int]
Ranges: TypeAlias = list[list[Range]]
"""What each rank holds of each parameter."""


class Segment(NamedTuple):
    """Reals of one parameter, from ``begin`` to ``end``."""

    member: int
    begin: int
    end: int


def elements(sizes: Sequence[int], kinds: Sequence[Hashable], ranks: int) -> Ranges:
    """Return element shards; parameters of one kind share a line."""
    ranges: Ranges = [[(0, 0)] * len(sizes) for _ in range(ranks)]
    for kind in dict.fromkeys(kinds):
        own = [i for i, each in enumerate(kinds) if each == kind]
        starts = [0, *accumulate(sizes[i] for i in own)]
        cuts = [_nearest(starts, starts[-1] * r // ranks) for r in range(ranks + 1)]
        for rank, (first, last) in enumerate(pairwise(cuts)):
            for i, start in zip(own, starts, strict=False):
                ranges[rank][i] = _part(first - start, last - start, sizes[i])
    return ranges


def _nearest(starts: Sequence[int], position: int) -> int:
    """Return the place nearest to a position of a line that is a multiple of WIDTH of a parameter, or its end."""
    i = min(bisect_right(starts, position), len(starts) - 1) - 1
    start, end = starts[i], starts[i + 1]
    below = start + (position - start) // WIDTH * WIDTH
    return min(below, min(below + WIDTH, end), key=lambda place: abs(place - position))


def _part(first: int, last: int, size: int) -> Range:
    begin, end = min(max(first, 0), size), min(max(last, 0), size)
    return (begin, end) if begin < end else (0, 0)


def owners(sizes: Sequence[int], weights: Sequence[int], loads: Sequence[int]) -> Ranges:
    """Return whole parameters by owner; ``weights`` are their bytes, ``loads`` those that ranks hold already."""
    held, ranges = list(loads), [[(0, 0)] * len(sizes) for _ in loads]
    for i in sorted(range(len(sizes)), key=lambda i: -weights[i]):
        rank = held.index(min(held))
        held[rank] += weights[i]
        ranges[rank][i] = (0, sizes[i])
    return ranges


def flat(sizes: Sequence[int], ranks: int) -> Ranges:
    """Return the parts of the vector of all parameters."""
    starts = [0, *accumulate(sizes)]
    total = starts[-1]
    cuts = [_nearest([0, total], total * r // ranks) for r in range(ranks + 1)]
    parts = list(zip(starts, sizes, strict=False))
    return [[_part(first - start, last - start, size) for start, size in parts] for first, last in pairwise(cuts)]


def segments(ranges: Sequence[Range], members: Sequence[int]) -> list[Segment]:
    """Return what a rank holds of some parameters, in their order."""
    return [Segment(i, *ranges[i]) for i in members if ranges[i][0] < ranges[i][1]]


def chunks(segments: Sequence[Segment], widths: Sequence[int], limit: int) -> list[list[Segment]]:
    """Divide segments into lists of at most ``limit`` bytes; ``widths`` are the bytes of a real of each parameter."""
    found: list[list[Segment]] = [[]]
    room = limit
    for piece in _cut(segments, widths, limit):
        size = (piece.end - piece.begin) * widths[piece.member]
        if size > room and found[-1]:
            found.append([])
            room = limit
        found[-1].append(piece)
        room -= size
    return found


def _cut(segments: Sequence[Segment], widths: Sequence[int], limit: int) -> Iterator[Segment]:
    for member, begin, end in segments:
        step = max(1, limit // widths[member])
        for first in range(begin, end, step):
            yield Segment(member, first, min(first + step, end))


class Load(NamedTuple):
    """What a rank holds: bytes of parameters that are updated there, and of state that is kept there."""

    rank: int
    parameters: int
    state: int

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.parameters:,} bytes of parameters, {self.state:,} bytes of state"


class Loads(list[Load]):
    """What each rank holds."""

    def __str__(self) -> str:
        most, total = max(x.parameters for x in self), sum(x.parameters for x in self)
        balance = f"the fullest holds {most * len(self) / total:.2f} of an equal share" if total else "nothing to hold"
        return "\n".join([*map(str, self), balance])


def offsets(segments: Sequence[Segment], widths: Sequence[int]) -> tuple[list[int], int]:
    """Return where segments begin in a message, each at a multiple of 8 bytes, and the length of the message."""
    found, end = [], 0
    for member, begin, last in segments:
        found.append(end)
        end += -(-(last - begin) * widths[member] // 8) * 8
    if len(segments) == 1:
        end = (segments[0].end - segments[0].begin) * widths[segments[0].member]
    return found, end


def summary(ranges: Ranges) -> Any:
    """Return ranges as plain data, to be compared."""
    return tuple(map(tuple, ranges))
