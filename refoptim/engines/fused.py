"""Runs buckets through kernels, on any machine: one launch updates all tensors of an elementwise rule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import at, plain
from ..step.changes import Change, there
from ..step.plan import Bucket, Task
from ..step.sparse import SparseGrad
from . import steps
from .kernel import Kernel
from .launches import Launch, Step, Tensor, update_rows
from .machine import Machine, Recorder
from .standing import Standing, of_launch
from .workspace import Workspace


class Work(NamedTuple):
    """What updates the arrays of a bucket, and what does so again in later steps if that can be."""

    changes: list[Change]
    standing: Standing | None = None


def prepare(machine: Machine, kernel: Kernel, bucket: Bucket, workspace: Workspace) -> Work:
    """Return what updates the arrays of a bucket; those that are no piece of memory are copied now."""
    recorder, program = Recorder(machine), program_of(kernel)
    repeatable = None if bucket.sparse else getattr(program, "Launches", None) if program else Launch
    with at(bucket.place):
        pairs = [_for_kernel(_tensor(machine, kernel, task)) for task in bucket.tasks]
        given, after = [pair[0] for pair in pairs], [change for pair in pairs for change in pair[1]]
        any_order = not (bucket.sparse or program or bucket.rule.in_single)  # blocks of codes are in C order
        tensors = [_tensor_in_line(machine, tensor, any_order=any_order) for tensor in given]
        launch = repeatable(machine, kernel, tensors) if repeatable else None
        step = _step(recorder, kernel, bucket, tensors[0].p.dtype)
        if launch:
            launch.run(step, recorder)
        elif program:
            program.update(recorder, bucket.rule, step, tensors)
        else:
            for tensor in tensors:
                workspace.used += update_rows(recorder, kernel, tensor, step)
    copied = [pair for pair in zip(given, tensors, strict=True) if pair[0] is not pair[1]]
    changes = [*recorder.changes, *(change for old, new in copied for change in _writing_back(old, new)), *after]
    workspace.used += [tensors, recorder, launch]
    if launch:
        launch.after = after
    standing = of_launch(launch, bucket.rule, tensors[0].p.dtype) if launch and not copied else None
    return Work(there(bucket.place, changes), None if bucket.estimated else standing)


def totals(machine: Machine, kernel: Kernel, bucket: Bucket) -> list[tuple[float, ...]]:
    """Return what each parameter of a bucket adds to the sums over all."""
    program = _module(OF_SUMS)
    with at(bucket.place):
        tensors = [_for_kernel(_tensor(machine, kernel, task))[0] for task in bucket.tasks]
        lines = [_tensor_in_line(machine, tensor, any_order=False) for tensor in tensors]
        step = steps.given(machine, bucket.s, bool(bucket.unmade))
        found: list[tuple[float, ...]] = program.Totals(machine, kernel, lines, kernel.sums_over_all).over_all(step)
        return found


def _step(machine: Machine, kernel: Kernel, bucket: Bucket, storage: DType) -> Step:
    if bucket.counted:
        return steps.counted(machine, kernel, bucket, bucket.scaling, storage)
    return steps.given(machine, bucket.s, bool(bucket.unmade))


def _tensor(machine: Machine, kernel: Kernel, task: Task) -> Tensor:
    """Return the arrays of a task; what a kernel only reads is put in line here, so that nobody puts it back."""
    data, master, x = task.parameter.data, task.master, task.estimate
    state = tuple(task.arrays.get(name) for name in kernel.arrays)
    state += (x if x is None else in_line(machine, x),) * len(kernel.only_read)
    return Tensor(data, task.grad, state, None) if master is None else Tensor(master, task.grad, state, data)


def _for_kernel(tensor: Tensor) -> tuple[Tensor, list[Change]]:
    """Return a tensor as a kernel takes it, and what is to be done when that has run.

    Kernels round a master copy into the 16-bit array if the gradient has 16 bits. With a float32 gradient the master
    copy is a float32 parameter to them, and is rounded afterwards; of a sparse one only rows that are touched.
    """
    p, g, state, copy = tensor
    if copy is None or g.dtype != p.dtype:
        return tensor, []
    if isinstance(g, SparseGrad):
        return _touched(tensor, g)
    return Tensor(p, g, state, None), [partial(setitem, plain(copy), ..., p)]


def _touched(tensor: Tensor, g: SparseGrad) -> tuple[Tensor, list[Change]]:
    """Return copies of the rows that a sparse gradient touches as a tensor, and what puts them where they belong."""
    numbers, values = g.coalesce()
    where = np.unravel_index(numbers, g.shape[: len(g.indices)])
    rows, state = plain(tensor.p)[where], tuple(x if x is None else plain(x)[where] for x in tensor.state)
    order = np.argsort(numbers, kind="stable")  # 0, 1 … since they are sorted, made where they are
    targets = zip((tensor.p, *tensor.state, tensor.copy), (rows, *state, rows), strict=True)
    back = [partial(setitem, plain(x), where, y) for x, y in targets if x is not None]
    return Tensor(rows, SparseGrad(order[None], values, rows.shape, check_invariants=False), state, None), back


def _tensor_in_line(machine: Machine, tensor: Tensor, any_order: bool) -> Tensor:
    """Return a tensor whose arrays are one piece of memory each, in C order, or all in Fortran's if that will do."""
    arrays = [x for x in tensor.arrays() if hasattr(x, "flags")]
    if all(x.flags.c_contiguous and _is_aligned(x) for x in arrays):
        return tensor
    if any_order and all(x.flags.f_contiguous and _is_aligned(x) for x in arrays):
        return tensor
    p, g, *state, copy = (in_line(machine, x) if hasattr(x, "flags") else x for x in tensor.arrays())
    return Tensor(p, g, tuple(state), copy)


def _is_aligned(x: Array) -> bool:
    return bool(getattr(x.flags, "aligned", True))


def in_line(machine: Machine, x: Array) -> Array:
    """Return an array that is one piece of memory in C order, a copy if need be."""
    if x.flags.c_contiguous and _is_aligned(x):
        return x
    line = machine.empty(x.shape, x.dtype)  # not x.copy: what a graph captures must last as long as the machine
    line[...] = x
    return line


def _writing_back(old: Tensor, new: Tensor) -> Iterator[Change]:
    """Yield what puts what was updated in a copy where it belongs."""
    for x, y in zip((old.p, *old.state, old.copy), (new.p, *new.state, new.copy), strict=True):
        if x is not y:
            yield partial(setitem, plain(x), ..., y)


@cache
def program_of(kernel: Kernel) -> Any:
    """Return the module that says how the kernels of a file are launched, None for one kernel.

    It stands beside the file, or is that of all cautious steps, or of all rules with sums. Its ``update`` is the
    sequence of launches that updates tensors; its ``Launches``, if it has them, can be repeated as a ``Launch`` can.
    """
    return _module(CAUTIOUS if kernel.cautious else OF_SUMS if kernel.sums else kernel.stem)


OF_SUMS, CAUTIOUS = "harness.summed", "harness.cautious"
"""The modules of all rules with sums, and of all cautious steps."""


def _module(stem: str) -> Any:
    """Return a module beside kernels, None if there is none."""
    name = f"refoptim.kernels.{stem}"
    return import_module(name) if find_spec(name) else None
