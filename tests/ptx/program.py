"""The code of a kernel and of all functions that it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .faults import NotKnown
from .text import Call, Function, Statement, call_of
from .threads import Stack, Threads
from .translate import Layout, Source, Step, Translator

CONTROL = ("bra", "call", "ret", "exit", "bar", "barrier")

BARRIERS = ("bar.sync", "barrier.sync", "barrier.sync.aligned")

End = Callable[[Threads, Any, Stack], None]
"""Where some threads go at the end of a block of code."""


class Block(NamedTuple):
    """Steps that are taken one after the other, and where threads go then."""

    steps: list[Step]
    end: End


class Program:
    """A kernel and the functions that it calls, one after the other; a place is the number of a statement.

    Everything is translated, what no thread reaches too: an instruction that is not known is found at once.
    """

    def __init__(self, kernel: Function, function: Callable[[str], Function]) -> None:
        self.kernel, self.layout = kernel, Layout()
        self.functions: dict[str, Function] = {}
        self.starts: dict[str, int] = {}
        self.code: list[tuple[Translator, Statement]] = []
        self.calls: dict[int, Call] = {}
        self._add(kernel, function)
        self.steps = [None if _leads(x) else translator.step(x) for translator, x in self.code]
        self.ends = {at: self._end(at, *place) for at, place in enumerate(self.code) if _leads(place[1])}
        self.leaders = {self.starts[name] + at for name, x in self.functions.items() for at in x.labels.values()}
        self.blocks: dict[int, Block] = {}

    def _add(self, function: Function, find: Callable[[str], Function]) -> None:
        """Add a function, and then those that it calls."""
        start = self.starts[function.name] = len(self.code)
        self.functions[function.name] = function
        self.layout.add(function)
        translator = Translator(function, self.layout)
        self.code += [(translator, statement) for statement in function.statements]
        calls = {start + i: call_of(function, x) for i, x in enumerate(function.statements) if _kind(x) == "call"}
        self.calls |= calls
        for call in calls.values():
            if call.callee not in self.functions:
                self._add(find(call.callee), find)

    def block(self, at: int) -> Block:
        """Return the block of code that begins at a place, and ends where threads part or may meet others."""
        if at not in self.blocks:
            last = next(x for x in range(at, len(self.code)) if x in self.ends or x + 1 in self.leaders)
            steps = [step for step in self.steps[at : last + 1] if step]
            self.blocks[at] = Block(steps, self.ends.get(last) or _jump(last + 1))
        return self.blocks[at]

    def _end(self, at: int, translator: Translator, statement: Statement) -> End:
        """Return where threads go from a statement that leads elsewhere."""
        function, kind = translator.function, _kind(statement)
        end = None
        if kind == "bra" and len(statement.operands) == 1:
            end = _jump(self.starts[function.name] + function.labels[statement.operands[0]])
        elif kind == "call":
            end = self._call(at, self.calls[at])
        elif kind in ("ret", "exit"):
            end = self._return(function) if kind == "ret" else _stop
        elif statement.op in BARRIERS and statement.operands == ("0",):
            end = _wait(at + 1)
        if end is None:
            raise NotKnown(f"{function.name}: {statement.text}: not an instruction of the table")
        return _branch(translator.predicate(statement.guard), end, at + 1) if statement.guard else end

    def _call(self, at: int, call: Call) -> End:
        parameters = self.functions[call.callee].parameters.items()

        def end(threads: Threads, lanes: Any, stack: Stack) -> None:
            if len(stack) >= len(self.functions):
                raise NotKnown(f"{call.callee}: a function that calls itself")
            for outer, (inner, variable) in zip(call.arguments, parameters, strict=True):
                threads.copy((call.caller, outer), (call.callee, inner), variable.size, lanes)
            threads.go(self.starts[call.callee], (*stack, at), lanes)

        return end

    def _return(self, function: Function) -> End:
        def end(threads: Threads, lanes: Any, stack: Stack) -> None:
            if stack:
                call = self.calls[stack[-1]]
                for outer, (inner, variable) in zip(call.results, function.results.items(), strict=True):
                    threads.copy((function.name, inner), (call.caller, outer), variable.size, lanes)
                threads.go(stack[-1] + 1, stack[:-1], lanes)

        return end


def _kind(statement: Statement) -> str:
    return statement.op.partition(".")[0]


def _leads(statement: Statement) -> bool:
    """Tell whether a statement leads elsewhere than to the next."""
    return _kind(statement) in CONTROL


def _jump(to: int) -> End:
    return lambda threads, lanes, stack: threads.go(to, stack, lanes)


def _stop(threads: Threads, lanes: Any, stack: Stack) -> None:
    """End threads: they are in no group any more."""


def _wait(then: int) -> End:
    return lambda threads, lanes, stack: threads.wait(then, stack, lanes)


def _branch(predicate: Source, end: End, otherwise: int) -> End:
    def branch(threads: Threads, lanes: Any, stack: Stack) -> None:
        going = predicate(threads, lanes)
        if going.all():
            end(threads, lanes, stack)
        elif not going.any():
            threads.go(otherwise, stack, lanes)
        else:
            end(threads, lanes[going], stack)
            threads.go(otherwise, stack, lanes[~going])

    return branch
