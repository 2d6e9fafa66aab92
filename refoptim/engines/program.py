"""Records the array half of a rule once and replays it on chunk after chunk without making new arrays.

The words of a rule come down to NumPy's elementwise functions. ``trace`` runs the rule on operands that only write
down which function was applied to what; a ``Program`` replays that list with its results in reused buffers, and the new
value of an operand straight in its place once the old one is not read any more. The functions, their order and the bits
are those of the rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, DType

Function = Callable[..., Any]


class Op(NamedTuple):
    """An elementary operation: the slots of its inputs, the slot of its result, and the dtype of that."""

    function: Function
    inputs: tuple[int, ...]
    output: int
    dtype: DType


class Tape:
    """What has been recorded: operations on numbered slots, which hold operands first, then constants and results."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.constants: dict[int, Any] = {}
        self.size = 0

    def new(self, dtype: DType) -> Traced:
        """Return a value in a slot of its own."""
        self.size += 1
        return Traced(self, self.size - 1, dtype)

    def slot(self, x: Any) -> int:
        """Return the slot of a value; a constant gets one."""
        if isinstance(x, Traced):
            return x.slot
        slot = self.new(np.dtype(bool)).slot
        self.constants[slot] = x
        return slot

    def record(self, function: Function, inputs: Sequence[Any], dtype: DType) -> Traced:
        """Write an operation down and return its result."""
        slots = tuple(self.slot(x) for x in inputs)
        result = self.new(dtype)
        self.ops.append(Op(function, slots, result.slot, dtype))
        return result


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of which nothing but the dtype is known."""

    def __init__(self, tape: Tape, slot: int, dtype: DType) -> None:
        self.tape, self.slot, self.dtype = tape, slot, dtype

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Traced:
        kinds = [x.dtype if hasattr(x, "dtype") else type(x) for x in inputs]
        dtype = options.get("dtype") or ufunc.resolve_dtypes((*kinds, None))[-1]
        return self.tape.record(partial(ufunc, **options) if options else ufunc, inputs, dtype)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Traced:
        if function is not np.where:
            raise TypeError(f"a rule may use NumPy's elementwise functions and where, not {function.__name__}")
        dtype = next(x.dtype for x in inputs[1:] if isinstance(x, Traced))
        return self.tape.record(_where, inputs, dtype)

    def astype(self, dtype: Any) -> Traced:
        """Record a conversion."""
        return self.tape.record(_convert, [self], np.dtype(dtype))


def _where(condition: Array, x: Array, y: Array, out: Array) -> None:
    """np.where into ``out``, which may be ``x`` or ``y``."""
    if out is x:
        np.copyto(out, y, where=~condition)
    else:
        np.copyto(out, y)
        np.copyto(out, x, where=condition)


def _convert(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")


class Step(NamedTuple):
    """An operation on registers: where a run finds its inputs and leaves its result."""

    function: Function
    inputs: tuple[int, ...]
    output: int


class Program:
    """A recorded rule, ready to run on chunks.

    Registers hold the operands, then the constants, then buffers, each of which serves one value after another.
    """

    def __init__(self, tape: Tape, operands: Sequence[DType], results: dict[int, int]) -> None:
        known = [*range(len(operands)), *tape.constants]
        self.constants = list(tape.constants.values())
        self.buffers: list[DType] = []
        self._operands, self._first_buffer = operands, len(known)
        self._free: dict[DType, list[int]] = defaultdict(list)
        self._place = {slot: register for register, slot in enumerate(known)}
        self._last_read = {slot: i for i, op in enumerate(tape.ops) for slot in op.inputs}
        self._last_read |= dict.fromkeys(results.values(), len(tape.ops))
        goals = {value: operand for operand, value in reversed(results.items())}
        self.steps = [self._step(i, op, goals.get(op.output)) for i, op in enumerate(tape.ops)]
        self.copies = [(self._place[v], operand) for operand, v in results.items() if self._place[v] != operand]

    def _step(self, i: int, op: Op, goal: int | None) -> Step:
        """Choose the registers of operation ``i``; its result may overwrite what is not read any more."""
        inputs = tuple(self._place[slot] for slot in op.inputs)
        for register in {self._place[slot] for slot in op.inputs if self._last_read[slot] == i}:
            if register >= self._first_buffer:
                self._free[self.buffers[register - self._first_buffer]].append(register)
        in_place = goal is not None and self._last_read.get(goal, -1) <= i and self._operands[goal] == op.dtype
        self._place[op.output] = goal if goal is not None and in_place else self._buffer(op.dtype)
        return Step(op.function, inputs, self._place[op.output])

    def _buffer(self, dtype: DType) -> int:
        """Return a buffer that holds nothing of use."""
        if self._free[dtype]:
            return self._free[dtype].pop()
        self.buffers.append(dtype)
        return self._first_buffer + len(self.buffers) - 1

    def runner(self, buffers: Sequence[Array], call: Callable[..., Any]) -> Callable[[list[Array]], None]:
        """Return a function that updates operands in place.

        Args:
            buffers: as long as the operands at most are, of the dtypes of ``buffers``.
            call: calls the function that it is given first on the rest.
        """
        targets = {operand for _, operand in self.copies}

        def run(operands: list[Array]) -> None:
            n = len(operands[0])
            registers = [*operands, *self.constants, *(x if n == len(x) else x[:n] for x in buffers)]
            for function, inputs, output in self.steps:
                call(function, *[registers[i] for i in inputs], registers[output])
            sources = ((registers[source], source in targets) for source, _ in self.copies)
            values = [call(x.copy) if copied else x for x, copied in sources]
            for value, (_, operand) in zip(values, self.copies, strict=True):
                call(_convert, value, registers[operand])

        return run


def known(operands: Sequence[Any], unmade: Set[int]) -> list[Any]:
    """Return the operands of a rule, None in the places of those that are yet to be made."""
    return [None if i in unmade else x for i, x in enumerate(operands)]


def trace(
    rule: Callable[..., Sequence[Any]], dtypes: Sequence[DType], targets: Sequence[int], unmade: Set[int]
) -> Program:
    """Record ``rule`` on operands of ``dtypes``; its results become the new values of the operands ``targets``.

    The rule is given None for the operands that are yet to be made.
    """
    tape = Tape()
    operands = [tape.new(dtype) for dtype in dtypes]
    results = rule(*known(operands, unmade))
    return Program(tape, dtypes, dict(zip(targets, (x.slot for x in results), strict=True)))
