"""Threads that run side by side: all that stand at one place take the next step at once.

Threads that part are run by turns, the deepest calls and the lowest places in the code first, so that they meet again.
Nothing is assumed of warps. A thread waits at a barrier until no thread can go on; then each block must be there whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .faults import BarrierFault, Fault, MemoryFault
from .memory import GARBAGE, WINDOWS, Area, Arrays
from .races import Access, Log
from .text import SIZES

if TYPE_CHECKING:
    from .program import Program
    from .translate import Operand

MOST = 10_000_000
"""Steps after which a launch is taken for one that does not end."""

Stack = tuple[int, ...]
"""The places of the calls that threads are in."""

Group = tuple[int, int, Stack]
"""What threads that run together have in common: how many calls they are in, negative, the place in the code, and the
places of the calls."""


class Launch:
    """A launch: its blocks, what they are given, and what they touch of the arrays."""

    def __init__(self, program: Program, arrays: Arrays, grid: int, block: int, arguments: dict[str, bytes]) -> None:
        self.program, self.arrays, self.grid, self.block, self.arguments = program, arrays, grid, block, arguments
        self.log = Log("device")

    def run(self, at_once: int) -> int:
        """Run all blocks, some at a time, in an order that nothing may depend on; return how many steps it took."""
        steps = 0
        for first in range(0, self.grid, at_once):
            steps += Threads(self, np.arange(first, min(first + at_once, self.grid))).run()
        self.log.check()
        return steps


class Threads:
    """The threads of some blocks.

    Attributes:
        numbers: of all threads, to choose some of them by.
        views: registers as numbers of a type, by operand.
        groups: the numbers of threads that can go on.
    """

    def __init__(self, launch: Launch, blocks: Any) -> None:
        self.launch, self.program, self.arguments = launch, launch.program, launch.arguments
        self.count = len(blocks) * launch.block
        self.numbers = np.arange(self.count)
        self.row = np.repeat(np.arange(len(blocks)), launch.block)
        self.block = blocks[self.row]
        self.thread = self.block * launch.block + self.numbers % launch.block
        self.barriers = np.zeros(self.count, np.int64)
        self.special = self._special()
        self.views = Views(self.count)
        sizes = self.program.layout.sizes
        rows = {"shared": len(blocks), "local": self.count, "param": self.count}
        self.areas = {space: Area(rows[space], size) for space, size in sizes.items()}
        self.shared_log = Log("shared")
        self.groups: dict[Group, Any] = {}
        self.waiting: list[tuple[Group, Any]] = []
        self.go(0, (), self.numbers)

    def _special(self) -> dict[str, Any]:
        """Return the registers that say which thread it is; along y and z there is one of everything."""
        size, grid = np.full(self.count, self.launch.block), np.full(self.count, self.launch.grid)
        along_x = {"%tid": self.numbers % size, "%ctaid": self.block, "%ntid": size, "%nctaid": grid}
        found = {f"{name}.{axis}": np.full(self.count, name[1] == "n") for name in along_x for axis in "yz"}
        found |= {f"{name}.x": x for name, x in along_x.items()}
        return {name: x.astype(np.uint32) for name, x in found.items()}

    # -------------------------------------------------------------------------------------------------- running

    def run(self) -> int:
        """Run all threads to their end; return how many steps were taken."""
        steps = 0
        while self.groups:
            group = min(self.groups)
            lanes = self.groups.pop(group)
            chosen: Any = slice(None) if len(lanes) == self.count else lanes
            block = self.program.block(group[1])
            for step in block.steps:
                step(self, chosen)
            block.end(self, lanes, group[2])
            steps += len(block.steps) + 1
            if steps > MOST:
                raise Fault(f"{self.program.kernel.name} has not ended after {steps} steps")
            if not self.groups:
                self._release()
        return steps

    def go(self, place: int, stack: Stack, lanes: Any) -> None:
        """Let threads go on at a place, together with those that stand there."""
        group = (-len(stack), place, stack)
        if group in self.groups:
            lanes = np.sort(np.concatenate([self.groups[group], lanes]))
        self.groups[group] = lanes

    def wait(self, place: int, stack: Stack, lanes: Any) -> None:
        """Let threads wait at a barrier, to go on at a place."""
        self.waiting.append(((-len(stack), place, stack), lanes))

    def _release(self) -> None:
        """Let the threads that wait go on, if those of each block do so together."""
        waiting, self.waiting = self.waiting, []
        places = np.full(self.count, -1)
        for group, lanes in waiting:
            places[lanes] = group[1]
        self._check_barrier(places.reshape(-1, self.launch.block))
        self.shared_log.check()
        for group, lanes in waiting:
            self.barriers[lanes] += 1
            self.go(group[1], group[2], lanes)

    def _check_barrier(self, places: Any) -> None:
        """Raise BarrierFault if in some block not all threads wait, or not all at one place."""
        name = self.program.kernel.name
        there = places[(places >= 0).any(1)]
        if (there < 0).any():
            raise BarrierFault(f"{name}: threads end while others of their block wait at a barrier")
        if (there != there[:, :1]).any():
            raise BarrierFault(f"{name}: threads of a block wait at different barriers")

    # --------------------------------------------------------------------------------------------------- memory

    def load(self, space: str, address: Any, size: int, lanes: Any, text: str) -> Any:
        """Return the bytes from each address on, a row for each of these threads."""
        rows = np.empty((len(address), size), np.uint8)
        for mine, memory, place in self._places(space, address, size, False, lanes, text):
            rows[mine] = memory.take(place, size, text)
        return rows

    def store(self, space: str, address: Any, rows: Any, lanes: Any, text: str) -> None:
        """Write a row of bytes from each address on."""
        for mine, memory, place in self._places(space, address, rows.shape[1], True, lanes, text):
            memory.put(place, rows[mine])

    def copy(self, source: tuple[str, str], target: tuple[str, str], size: int, lanes: Any) -> None:
        """Copy a parameter of a function; what nobody has written stays so."""
        area, here, there = self.areas["param"], *(self.program.layout.places[x] for x in (source, target))
        grain = min(16, (here | there | size) & -(here | there | size))
        for memory in (area.bytes, area.known):
            for first in range(0, size, grain):
                rows = memory.take(lanes * area.stride + here + first, grain)
                memory.put(lanes * area.stride + there + first, rows)

    def _places(
        self, space: str, address: Any, size: int, write: bool, lanes: Any, text: str
    ) -> Iterator[tuple[Any, Area | Arrays, Any]]:
        """Yield which of the accesses are in each memory and where they begin there, when all is in order."""
        if (address & (size - 1)).any():
            raise MemoryFault(f"{text}: an address is not aligned to {size} bytes")
        for name, mine in _spaces(space, address):
            at, who = address[mine] - (0 if space else WINDOWS[name]), lanes[mine]
            if name == "global":
                self._note(self.launch.log, self.launch.arrays.where(at, size, write, text), size, write, who, text)
                yield mine, self.launch.arrays, at
                continue
            area = self.areas[name]
            place = area.place(self.row[who] if name == "shared" else who, at, size, text)
            if name == "shared":
                self._note(self.shared_log, place, size, write, who, text)
            yield mine, area, place

    def _note(self, log: Log, where: Any, size: int, write: bool, lanes: Any, text: str) -> None:
        log.add(Access(where, size, write, self.thread[lanes], self.block[lanes], self.barriers[lanes], text))


def _spaces(space: str, address: Any) -> Iterator[tuple[str, Any]]:
    """Yield the spaces that addresses are in, and which of them are there; "" stands for generic addresses."""
    if space:
        yield space, slice(None)
        return
    of_each = np.searchsorted(list(WINDOWS.values()), address, "right") - 1
    for number, name in enumerate(WINDOWS):
        mine = of_each == number
        if mine.any():
            yield name, slice(None) if mine.all() else mine


class Views(dict["Operand", Any]):
    """Registers as numbers of a type; a register begins as garbage when it is first asked for."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.registers: dict[tuple[str, str], Any] = {}

    def __missing__(self, operand: Operand) -> Any:
        key = operand.function, operand.name
        size = SIZES[operand.declared]
        if key not in self.registers:
            self.registers[key] = np.full(self.count * size, GARBAGE, np.uint8)
        memory = self.registers[key]
        if operand.declared == "pred":
            memory &= 1
        view = memory.view(operand.dtype)
        self[operand] = view[:: size // operand.dtype.itemsize]
        return self[operand]
