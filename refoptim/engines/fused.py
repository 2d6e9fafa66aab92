"""Runs buckets through kernels, on any machine: one launch updates all tensors of an elementwise rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ..arith import Array, DType, arithmetic, storage
from ..plan import Bucket, Task
from .kernel import Kernel
from .machine import Machine

CHUNK = 1 << 14
"""Elements that a block updates in one go, as in ``multi_tensor.cuh``; no result depends on it."""

BUCKET = np.dtype(
    [
        ("tables", np.uint64),
        ("tensors", np.int64),
        ("chunks", np.int64),
        ("maximize", np.int64),
        ("record", np.uint64),
        ("grad_scale", np.uint64),
        ("found_inf", np.uint64),
    ]
)
"""The struct of that name in ``multi_tensor.cuh``."""

ROWS = [
    ("rows", np.uint64),
    ("order", np.uint64),
    ("entries", np.int64),
    ("width", np.int64),
    ("maximize", np.int64),
    ("record", np.uint64),
    ("grad_scale", np.uint64),
    ("found_inf", np.uint64),
]
"""The struct of that name in ``rows.cuh``, but for the arrays of the tensor."""


class Tensor(NamedTuple):
    """The arrays of a task, each one piece of memory, all in one order.

    ``p`` is what the rule updates: the parameter, or its master copy, which is rounded into ``copy``. The state arrays
    are in the order of the kernel, None where there is none.
    """

    p: Array
    g: Array
    state: tuple[Array | None, ...]
    copy: Array | None

    def arrays(self) -> tuple[Array | None, ...]:
        """Return the arrays in the order of a kernel's table."""
        return (self.p, self.g, *self.state, self.copy)


def run(machine: Machine, kernel: Kernel, bucket: Bucket) -> None:
    """Update the arrays of a bucket, with copies of those that are no piece of memory."""
    given = [_tensor(kernel, task) for task in bucket.tasks]
    program = _program(kernel.stem)
    any_order = not (bucket.sparse or program)
    tensors = [_in_line(tensor, any_order) for tensor in given]
    if program:
        for tensor in tensors:
            program(machine, bucket.s, tensor)
    elif bucket.sparse:
        for tensor in tensors:
            _launch_rows(machine, kernel, bucket, tensor)
    else:
        _launch(machine, kernel, bucket, tensors)
    for old, new in zip(given, tensors, strict=True):
        _write_back(old, new)


def _tensor(kernel: Kernel, task: Task) -> Tensor:
    data, master = task.parameter.data, task.master
    state = tuple(task.arrays.get(name) for name in kernel.state)
    return Tensor(data, task.grad, state, None) if master is None else Tensor(master, task.grad, state, data)


def _in_line(tensor: Tensor, any_order: bool) -> Tensor:
    """Return a tensor whose arrays are one piece of memory each, in C order, or all in Fortran order if that will do."""
    arrays = [x for x in tensor.arrays() if hasattr(x, "flags")]
    if any_order and all(x.flags.f_contiguous and _is_aligned(x) for x in arrays):
        return tensor
    p, g, *state, copy = (_line(x) if hasattr(x, "flags") else x for x in tensor.arrays())
    return Tensor(p, g, tuple(state), copy)


def _is_aligned(x: Array) -> bool:
    return getattr(x.flags, "aligned", True)


def _line(x: Array) -> Array:
    return x if x.flags.c_contiguous and _is_aligned(x) else x.copy(order="C")


def _write_back(old: Tensor, new: Tensor) -> None:
    """Put what was updated in a copy where it belongs."""
    for x, y in zip((old.p, *old.state, old.copy), (new.p, *new.state, new.copy), strict=True):
        if x is not y:
            x[...] = y


@cache
def _program(stem: str) -> Callable[..., None] | None:
    """Return the sequence of launches that updates a tensor, where a kernel file has more than one kernel."""
    name = f"refoptim.kernels.{stem}"
    return import_module(name).update if find_spec(name) else None


def _launch(machine: Machine, kernel: Kernel, bucket: Bucket, tensors: Sequence[Tensor]) -> None:
    tables, chunks = make_tables(machine, tensors)
    if not chunks:
        return
    table = machine.upload(tables)
    p = tensors[0].p.dtype
    given = np.array((machine.address(table), len(tensors), chunks, bucket.s.maximize, 0, 0, 0), BUCKET)
    machine.launch(kernel.stem, entry_of(kernel, tensors[0]), chunks, record_of(kernel, bucket, p), given[()])


def _launch_rows(machine: Machine, kernel: Kernel, bucket: Bucket, tensor: Tensor) -> None:
    """Update the rows that a sparse gradient touches."""
    indices, values = tensor.g.indices, tensor.g.values
    rows = np.ravel_multi_index(tuple(indices.astype(np.int64)), tensor.p.shape[: len(indices)])
    order = np.argsort(rows, kind="stable")
    rows, values = rows[order], values.copy(order="C")
    width = reals(tensor.p[(0,) * len(indices)]) if len(rows) else 0
    arrays = (tensor.p, values, *tensor.state, tensor.copy)
    addresses = [0 if x is None else machine.address(x) for x in arrays]
    fields = (*(machine.address(x) for x in (rows, order)), len(rows), width, bucket.s.maximize, 0, 0, 0, *addresses)
    struct = np.dtype([*ROWS, *((f"array{j}", np.uint64) for j in range(len(arrays)))])
    blocks = -(-len(rows) * width // 512)
    if blocks:
        entry = entry_of(kernel, tensor, "_rows")
        machine.launch(
            kernel.stem, entry, blocks, record_of(kernel, bucket, tensor.p.dtype), np.array(fields, struct)[()]
        )


def entry_of(kernel: Kernel, tensor: Tensor, kind: str = "") -> str:
    """Return the name of the kernel for the storage of a tensor."""
    if tensor.copy is None:
        return f"{kernel.name}{kind}_{storage(tensor.p.dtype).name}"
    return f"{kernel.name}{kind}_{tensor.copy.dtype.name}_master"


def record_of(kernel: Kernel, bucket: Bucket, dtype: DType) -> np.void:
    """Return the scalars of a step as the struct of the kernel."""
    values = {**vars(bucket.s), "unmade": bucket.unmade}
    number = arithmetic(dtype)
    struct = np.dtype([(name, number) for name in kernel.record])
    record: np.void = np.array(tuple(number.type(values[name]) for name in kernel.record), struct)[()]
    return record


def make_tables(machine: Machine, tensors: Sequence[Tensor]) -> tuple[Array, int]:
    """Return the tables of a launch, as ``Bucket`` in ``multi_tensor.cuh`` describes them, and the number of chunks."""
    sizes = np.array([reals(tensor.p) for tensor in tensors], np.int64)
    addresses = [[0 if x is None else machine.address(x) for x in tensor.arrays()] for tensor in tensors]
    counts = -(-sizes // CHUNK)
    numbers = np.repeat(np.arange(len(tensors)), counts)
    starts = (np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers]) * CHUNK
    columns = np.array(addresses, np.uint64).T.astype(np.int64)
    return np.concatenate([sizes, columns.ravel(), numbers, starts], dtype=np.int64), len(numbers)


def reals(x: Array) -> int:
    """Return the number of reals in an array; a complex number is two."""
    return int(x.size) * (2 if x.dtype.kind == "c" else 1)
