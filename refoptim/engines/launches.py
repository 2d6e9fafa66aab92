"""Single launches of kernels: what they are given, in the layout that the kernels expect."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, DType, arithmetic, storage
from ..numerics.array_types import at, place
from ..step.changes import Change
from ..step.rule import Record
from .kernel import Kernel
from .machine import Machine, key_of

THREADS = 256
"""Threads of a block on a GPU, as in ``harness/kernel.cuh``; no result depends on it."""

STEP = [("maximize", np.int64), ("record", np.uint64), ("grad_scale", np.uint64), ("found_inf", np.uint64)]
"""What both structs below have in common."""

BUCKET = np.dtype(
    [
        *((name, np.uint64) for name in ("tables", "parts")),
        *((name, np.int64) for name in ("tensors", "chunks", "chunk")),
        *STEP,
    ]
)
"""The struct of that name in ``harness/multi_tensor.cuh``."""

ROWS = [("rows", np.uint64), ("order", np.uint64), ("entries", np.int64), ("width", np.int64), *STEP]
"""The struct of that name in ``harness/rows.cuh``, but for the arrays of the tensor."""


class Tensor(NamedTuple):
    """The arrays of a task, each one piece of memory, all in one order.

    ``p`` is what the rule updates: the parameter, or its master copy, which is rounded into ``copy``. The state arrays
    are in the order of the kernel, None where there is none.
    """

    p: Array
    g: Any
    state: tuple[Array | None, ...]
    copy: Array | None

    def arrays(self) -> tuple[Any, ...]:
        """Return the arrays in the order of a kernel's table."""
        return (self.p, self.g, *self.state, self.copy)


class Step(NamedTuple):
    """What differs from step to step.

    ``s`` holds the scalars, or ``record`` does, on the machine; ``unmade`` says that state is yet to be made. The last
    two are numbers on the machine, or None: what divides the gradients, and what skips the step unless it is 0.
    """

    s: Record
    unmade: bool
    record: Array | None = None
    grad_scale: Array | None = None
    found_inf: Array | None = None


class Parts:
    """How things are shared out in parts: whose each part is, and which of its parts. It stays while arrays move.

    Args:
        counts: how many parts each thing has.

    Attributes:
        count: how many there are in all.
    """

    def __init__(self, counts: Any) -> None:
        counts = np.array(counts, np.int64)
        numbers = np.repeat(np.arange(len(counts)), counts)
        parts = np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers]
        self.count, self.table = len(numbers), np.concatenate([numbers, parts]).astype(np.int32)
        self.key = key_of(self.table)

    def address(self, machine: Machine) -> int:
        """Return where the table lies on a machine."""
        return machine.address(machine.upload(self.table, self.key))


class Chunks:
    """Tensors in chunks.

    Args:
        machine: says how large a chunk is.
        sizes: how many elements the tensors have.

    Attributes:
        count: how many chunks there are.
        elements: how many elements.
    """

    def __init__(self, machine: Machine, sizes: Any) -> None:
        sizes = np.array(sizes, np.int64)
        self.tensors, self.elements = len(sizes), int(sizes.sum())
        self.chunk = machine.chunk(self.elements)
        self.parts = Parts(-(-sizes // self.chunk))
        self.count = self.parts.count

    def bucket(self, machine: Machine, tables: Array, step: Sequence[int]) -> Any:
        """Return the struct that a kernel takes, with the fields of the tensors and those of a step."""
        return scalar(BUCKET, self.fields(machine, tables, step))

    def fields(self, machine: Machine, tables: Array, step: Sequence[int]) -> tuple[int, ...]:
        """Return the fields of that struct."""
        addresses = machine.address(machine.upload(tables)), self.parts.address(machine)
        return (*addresses, self.tensors, self.count, self.chunk, *step)


class Launch:
    """A launch that updates some tensors, to be repeated as long as their arrays stay where they are.

    Attributes:
        after: what is to be done each time when it has been made.
    """

    def __init__(self, machine: Machine, kernel: Kernel, tensors: Sequence[Tensor]) -> None:
        self.machine, self.kernel, self.count = machine, kernel, len(tensors)
        self.entry, self.dtype, self.place = entry_of(kernel, tensors[0]), tensors[0].p.dtype, place(tensors[0].p)
        sizes = [reals(tensor.p) for tensor in tensors]
        self.tables, self.chunks = make_tables(machine, sizes, tensors), Chunks(machine, sizes)
        self.after: list[Change] = []

    def move_gradient(self, i: int, g: Array) -> None:
        """Take note that the gradient of tensor ``i`` lies somewhere else now."""
        self.tables[2 * self.count + i] = self.machine.address(g)

    def move_gradients(self, addresses: Array) -> None:
        """Take note of where the gradients of all tensors lie now."""
        self.tables[2 * self.count : 3 * self.count] = addresses

    def run(self, step: Step, on: Machine | None = None) -> None:
        """Update the tensors, or let what is given write down the launch that does so."""
        machine = on or self.machine
        chunks = self.chunks
        if not chunks.count:
            return
        with at(self.place):
            record = record_of(self.kernel, step, self.dtype)
            bucket = chunks.bucket(machine, self.tables, fields_of(machine, step))
            machine.launch(self.kernel.stem, self.entry, chunks.count, record, bucket, elements=chunks.elements)


def make_tables(machine: Machine, sizes: Sequence[int], tensors: Sequence[Tensor]) -> Array:
    """Return the tables of a launch, the ``Bucket`` of ``harness/multi_tensor.cuh``."""
    addresses = [[address_of(machine, x) for x in tensor.arrays()] for tensor in tensors]
    columns = np.array(addresses, np.uint64).T.view(np.int64)
    return np.concatenate([np.array(sizes, np.int64), columns.ravel()])


def update_rows(machine: Machine, kernel: Kernel, tensor: Tensor, step: Step) -> list[Array]:
    """Update the rows of a tensor that its sparse gradient touches; return what must live until that is done."""
    indices, values = tensor.g.indices, tensor.g.values.copy(order="C")
    rows = np.ravel_multi_index(tuple(indices.astype(np.int64)), tensor.p.shape[: len(indices)])
    if not values.size:
        return []
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    arrays = [address_of(machine, x) for x in (rows, order, tensor.p, values, *tensor.state, tensor.copy)]
    fields = (*arrays[:2], len(rows), reals(values) // len(rows), *fields_of(machine, step), *arrays[2:])
    struct = np.dtype([*ROWS, *((f"array{j}", np.uint64) for j in range(len(arrays) - 2))])
    record = record_of(kernel, step, tensor.p.dtype)
    blocks = -(-reals(values) // THREADS)
    machine.launch(kernel.stem, entry_of(kernel, tensor, "_rows"), blocks, record, scalar(struct, fields))
    return [rows, order, values]


def fields_of(machine: Machine, step: Step) -> list[int]:
    """Return the fields of ``STEP``."""
    return [int(step.s.maximize), *(address_of(machine, x) for x in (step.record, step.grad_scale, step.found_inf))]


def record_of(kernel: Kernel, step: Step, dtype: DType) -> Any:
    """Return the scalars of a step as the struct of the kernel; zeros if they lie on the machine."""
    if step.record is not None:
        return scalar(struct_of(kernel, dtype), (0,) * len(kernel.record))
    values, number = {**vars(step.s), "unmade": step.unmade}, arithmetic(dtype).type
    return scalar(struct_of(kernel, dtype), tuple(number(values[name]) for name in kernel.record))


@cache
def struct_of(kernel: Kernel, dtype: DType) -> DType:
    """Return the struct that holds the scalars of a step on arrays of ``dtype``."""
    return np.dtype([(name, arithmetic(dtype)) for name in kernel.record])


def scalar(struct: DType, fields: tuple[Any, ...]) -> Any:
    """Return a structured scalar, which a kernel gets by value."""
    return np.array(fields, struct)[()]


def entry_of(kernel: Kernel, tensor: Tensor, kind: str = "") -> str:
    """Return the name of the kernel for the storage of a tensor."""
    if tensor.copy is None:
        return f"{kernel.name}{kind}_{storage(tensor.p.dtype).name}"
    return f"{kernel.name}{kind}_{tensor.copy.dtype.name}_master"


def address_of(machine: Machine, x: Array | None) -> int:
    """Return where an array lies, 0 if there is none."""
    return 0 if x is None else machine.address(x)


def reals(x: Array) -> int:
    """Return the number of reals in an array; a complex number is two."""
    return int(x.size) * (2 if x.dtype.kind == "c" else 1)
