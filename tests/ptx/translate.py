"""Makes steps of statements: functions of threads, and of which of them take the step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .faults import MemoryFault, NotKnown
from .instructions import DTYPES, TABLE
from .memory import WINDOWS
from .text import SIZES, Function, Statement

if TYPE_CHECKING:
    from .threads import Threads

Step = Callable[["Threads", Any], None]
"""What some of the threads do: all of them by a slice, or those of an array of numbers."""

Source = Callable[["Threads", Any], Any]


@dataclass(eq=False)
class Operand:
    """A register as numbers of a type; a type that is narrower than the register is its lowest part."""

    function: str
    name: str
    declared: str
    dtype: Any


@dataclass
class Layout:
    """Where the variables of the functions of a kernel lie, and how much of each space they take.

    ``arguments`` are the places of a kernel's parameters, whose values come from the launch, behind one another.
    """

    places: dict[tuple[str, str], int] = field(default_factory=dict)
    arguments: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: {"shared": 0, "local": 0, "param": 0})

    def add(self, function: Function) -> None:
        """Give the variables of a function their places."""
        end = 0
        for name, (space, size, align) in function.variables.items():
            if function.entry and name in function.parameters:
                self.arguments[name] = self.places[function.name, name] = place = -(-end // align) * align
                end = place + size
            else:
                self.places[function.name, name] = place = -(-self.sizes[space] // align) * align
                self.sizes[space] = place + size


class Translator:
    """Makes the steps of a function."""

    def __init__(self, function: Function, layout: Layout) -> None:
        self.function, self.layout = function, layout
        self.operands: dict[tuple[str, Any], Operand] = {}

    def step(self, statement: Statement) -> Step:
        """Return what a statement does, but for those that lead elsewhere."""
        try:
            step = self._unguarded(statement)
        except (NotKnown, MemoryFault) as fault:
            raise type(fault)(f"{self.function.name}: {statement.text}: {fault}") from None
        return self._guarded(statement.guard, step) if statement.guard else step

    def _unguarded(self, statement: Statement) -> Step:
        kind = statement.op.partition(".")[0]
        if kind in ("ld", "st"):
            return self._access(statement)
        if kind == "mov" and "<" in statement.operands[0] + statement.operands[1]:
            return self._parts(statement)
        if kind == "cvta":
            return self._window(statement)
        return self._compute(statement)

    def _guarded(self, guard: str, step: Step) -> Step:
        flags = self.predicate(guard)

        def guarded(threads: Threads, lanes: Any) -> None:
            going = threads.numbers[lanes][flags(threads, lanes)]
            if len(going):
                step(threads, going)

        return guarded

    # ---------------------------------------------------------------------------------------------- operands

    def predicate(self, guard: str) -> Source:
        """Return the flags that a guard asks for."""
        read = self.source(guard.lstrip("!"), "pred")
        return (lambda threads, lanes: ~read(threads, lanes)) if guard[0] == "!" else read

    def source(self, operand: str, type_: str) -> Source:
        """Return the numbers of an operand, one for each thread; constants too, as arrays that all share."""
        if operand in SPECIAL and SIZES[type_] == 4:
            return lambda threads, lanes: threads.special[operand][lanes].view(DTYPES[type_])
        if operand[0] == "%":
            found = self.operand(operand, type_)
            return lambda threads, lanes: threads.views[found][lanes]
        constant = np.array([self._constant(operand, type_)])
        return lambda threads, lanes: constant

    def operand(self, name: str, type_: str, *, widened: bool = False) -> Operand:
        """Return a register as numbers of a type, or, to be written, as such numbers extended to its width."""
        declared, dtype = self.function.type_of(name), DTYPES[type_]
        size = SIZES[declared]
        if (declared == "pred") != (type_ == "pred") or dtype.itemsize > size:
            raise NotKnown(f"{name} is a register of {declared}")
        if widened and dtype.itemsize < size:
            if dtype.kind == "f":
                raise NotKnown(f"{name} is a register of {declared}")
            dtype = np.dtype(f"{dtype.kind}{size}")
        return self.operands.setdefault((name, dtype), Operand(self.function.name, name, declared, dtype))

    def _constant(self, text: str, type_: str) -> Any:
        dtype = DTYPES[type_]
        if found := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", text):
            bits = np.array([int(found[1] or found[2], 16)], "u4" if found[1] else "u8")
            if bits.itemsize == dtype.itemsize:
                return bits.view(dtype)[0]
        elif re.fullmatch(r"-?(\d+|0[xX][0-9a-fA-F]+)", text) and dtype.kind in "iu":
            bits = np.array([int(text, 0) & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}")
            return bits.view(dtype)[0]
        elif re.fullmatch(r"-?\d+", text) and type_ == "pred":
            return dtype.type(int(text) != 0)
        elif (self.function.name, text) in self.layout.places:
            return dtype.type(self.layout.places[self.function.name, text])
        raise NotKnown(f"operand {text}")

    # ------------------------------------------------------------------------------------------- computations

    def _compute(self, statement: Statement) -> Step:
        operation = TABLE.get(statement.op)
        if operation is None or len(statement.operands) != 1 + len(operation.takes):
            raise NotKnown("not an instruction of the table")
        target = self.operand(statement.operands[0], operation.gives, widened=True)
        sources = [self.source(x, type_) for x, type_ in zip(statement.operands[1:], operation.takes, strict=True)]
        compute = operation.compute

        def step(threads: Threads, lanes: Any) -> None:
            threads.views[target][lanes] = compute(*[read(threads, lanes) for read in sources])

        return step

    def _parts(self, statement: Statement) -> Step:
        """Put a number together from its parts, or take it apart; the lowest part stands first."""
        to, x = statement.operands
        parts = (x if x[0] == "<" else to).strip("<>").replace(" ", "").split(",")
        whole = statement.op.removeprefix("mov.")
        if whole not in ("b32", "b64"):
            raise NotKnown("not an instruction of the table")
        part = f"b{8 * SIZES[whole] // len(parts)}"
        if x[0] == "<":
            return self._put_together(to, whole, [self.source(name, part) for name in parts])
        return self._take_apart(
            self.source(x, whole), [None if name == "_" else self.operand(name, part) for name in parts]
        )

    def _put_together(self, to: str, whole: str, sources: list[Source]) -> Step:
        target = self.operand(to, whole)

        def step(threads: Threads, lanes: Any) -> None:
            parts = np.broadcast_arrays(*[read(threads, lanes) for read in sources])
            threads.views[target][lanes] = np.stack(parts, -1).view(target.dtype)[:, 0]

        return step

    def _take_apart(self, read: Source, targets: list[Operand | None]) -> Step:
        def step(threads: Threads, lanes: Any) -> None:
            x = np.ascontiguousarray(read(threads, lanes))
            parts = x.view(f"u{x.itemsize // len(targets)}").reshape(-1, len(targets))
            for target, part in zip(targets, parts.T, strict=True):
                if target is not None:
                    threads.views[target][lanes] = part

        return step

    def _window(self, statement: Statement) -> Step:
        """Convert an address of a space to a generic one, or back."""
        found = re.fullmatch(r"cvta(\.to)?\.(global|shared|local)\.u64", statement.op)
        if not found:
            raise NotKnown("not an instruction of the table")
        target, read = self.operand(statement.operands[0], "u64"), self.source(statement.operands[1], "u64")
        window = np.uint64(-WINDOWS[found[2]] % (1 << 64) if found[1] else WINDOWS[found[2]])

        def step(threads: Threads, lanes: Any) -> None:
            threads.views[target][lanes] = read(threads, lanes) + window

        return step

    # --------------------------------------------------------------------------------------------------- memory

    def _access(self, statement: Statement) -> Step:
        found = re.fullmatch(r"(ld|st)(?:\.(global|shared|local|param))?(?:\.v([24]))?\.([busf]\d+)", statement.op)
        if not found:
            raise NotKnown("not an instruction of the table")
        kind, space, count, type_ = found.groups()
        where, what = statement.operands if kind == "st" else statement.operands[::-1]
        names = what.strip("<>").replace(" ", "").split(",")
        if len(names) != int(count or 1) or where[0] != "[":
            raise NotKnown("not an instruction of the table")
        base, _, offset = where.strip("[]").replace(" ", "").partition("+")
        if self.function.entry and base in self.function.parameters:
            return self._argument(kind, base, int(offset or 0), names, type_)
        address = self._address(base, int(offset or 0))
        text = f"{self.function.name}: {statement.text}"
        if self.function.entry and space == "param" and base[0] == "%" and kind == "ld":
            return self._pointed(address, names, type_)
        if kind == "ld":
            return self._load(address, space or "", names, type_, text)
        return self._store(address, space or "", names, type_, text)

    def _address(self, base: str, offset: int) -> Source:
        type_ = "u64"
        if base[0] == "%" and SIZES[self.function.type_of(base)] == 4:
            type_ = "u32"
        read = self.source(base, type_)

        def address(threads: Threads, lanes: Any) -> Any:
            found = read(threads, lanes).astype(np.int64) + offset
            return found if base[0] == "%" else np.repeat(found, len(threads.numbers[lanes]))

        return address

    def _load(self, address: Source, space: str, names: list[str], type_: str, text: str) -> Step:
        targets = [None if name == "_" else self.operand(name, type_, widened=True) for name in names]
        dtype = DTYPES[type_]
        size = dtype.itemsize * len(names)

        def step(threads: Threads, lanes: Any) -> None:
            rows = threads.load(space, address(threads, lanes), size, threads.numbers[lanes], text)
            for target, column in zip(targets, rows.view(dtype).T, strict=True):
                if target is not None:
                    threads.views[target][lanes] = column

        return step

    def _store(self, address: Source, space: str, names: list[str], type_: str, text: str) -> Step:
        sources = [self.source(name, type_) for name in names]
        dtype = DTYPES[type_]

        def step(threads: Threads, lanes: Any) -> None:
            numbers = threads.numbers[lanes]
            columns = np.empty((len(numbers), len(sources)), dtype)
            for j, read in enumerate(sources):
                columns[:, j] = read(threads, lanes)
            threads.store(space, address(threads, lanes), columns.view(np.uint8), numbers, text)

        return step

    def _argument(self, kind: str, name: str, offset: int, names: list[str], type_: str) -> Step:
        """Read what a launch gives by value."""
        dtype = DTYPES[type_]
        size = dtype.itemsize * len(names)
        if kind == "st" or offset % size or offset + size > self.function.parameters[name].size:
            raise MemoryFault("outside of an argument, not aligned, or written")
        targets = [self.operand(each, type_, widened=True) for each in names]

        def step(threads: Threads, lanes: Any) -> None:
            values = np.frombuffer(threads.arguments[name], dtype, len(names), offset)
            for target, value in zip(targets, values, strict=True):
                threads.views[target][lanes] = value

        return step

    def _pointed(self, address: Source, names: list[str], type_: str) -> Step:
        """Read what a launch gives by value, where a register says in which of the arguments it is."""
        dtype, places = DTYPES[type_], self.layout.arguments
        size, targets = dtype.itemsize * len(names), [self.operand(each, type_, widened=True) for each in names]

        def step(threads: Threads, lanes: Any) -> None:
            area = np.zeros(max(place + len(threads.arguments[name]) for name, place in places.items()), np.uint8)
            for name, place in places.items():
                area[place : place + len(threads.arguments[name])] = np.frombuffer(threads.arguments[name], np.uint8)
            first = address(threads, lanes)
            if np.any(first % size) or np.any(first < 0) or np.any(first + size > area.size):
                raise MemoryFault("outside of the arguments, or not aligned")
            rows = area[first[:, None] + np.arange(size)].view(dtype)
            for target, column in zip(targets, rows.T, strict=True):
                threads.views[target][lanes] = column

        return step


SPECIAL = tuple(f"%{name}.{axis}" for name in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz")
"""Registers that hold which thread of which block it is, and how many of them there are."""
