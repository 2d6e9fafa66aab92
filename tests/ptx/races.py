"""Finds two threads that touch the same memory, one of them writing, with no barrier in between."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .faults import Race


class Access(NamedTuple):
    """One instruction that many threads execute: where each begins, and who it is, with how many barriers behind it."""

    where: Any
    size: int
    write: bool
    thread: Any
    block: Any
    barriers: Any
    text: str


class Log:
    """Accesses to one space of memory."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.accesses: list[Access] = []

    def add(self, access: Access) -> None:
        self.accesses.append(access)

    def check(self) -> None:
        """Raise Race if there is one, and begin anew."""
        accesses, self.accesses = self.accesses, []
        if not any(access.write for access in accesses):
            return
        grain = min(access.size for access in accesses)
        places = [_places(access, grain) for access in accesses]
        shared = _suspects(accesses, places)
        if shared.any():
            self._compare(accesses, places, shared)

    def _compare(self, accesses: list[Access], places: list[Any], shared: Any) -> None:
        """Look closely at places that one thread writes and another touches."""
        touched: dict[int, list[tuple[int, int, int, Access]]] = {}
        for access, place in zip(accesses, places, strict=True):
            rows, columns = np.nonzero(shared[place])
            for row, column in zip(rows, columns, strict=True):
                who = (int(access.thread[row]), int(access.block[row]), int(access.barriers[row]))
                touched.setdefault(int(place[row, column]), []).append((*who, access))
        for members in touched.values():
            self._compare_members(members)

    def _compare_members(self, members: list[tuple[int, int, int, Access]]) -> None:
        for thread, block, barriers, access in members:
            for other, its_block, its_barriers, another in members:
                ordered = block == its_block and barriers != its_barriers
                if access.write and thread != other and not ordered:
                    does = "writes" if another.write else "reads"
                    texts = f"thread {thread} writes ({access.text}) what thread {other} {does} ({another.text})"
                    raise Race(f"{self.space} memory: {texts}, numbers counting through all blocks")


def _places(access: Access, grain: int) -> Any:
    """Return the pieces of ``grain`` bytes that an access touches, a row for each thread."""
    return (access.where // grain)[:, None] + np.arange(access.size // grain)


def _suspects(accesses: list[Access], places: list[Any]) -> Any:
    """Tell of each place whether several threads touch it and it is written."""
    owner = np.empty(1 + max(int(place.max()) for place in places), np.int64)
    written, shared = np.zeros(len(owner), bool), np.zeros(len(owner), bool)
    for access, place in zip(accesses, places, strict=True):
        owner[place] = access.thread[:, None]
        if access.write:
            written[place] = True
    for access, place in zip(accesses, places, strict=True):
        shared[place[owner[place] != access.thread[:, None]]] = True
    return shared & written
