"""Runs buckets through kernels, on any machine: one launch updates all tensors of an elementwise rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec

from ..numerics.arith import Array
from ..numerics.array_types import at
from ..step.plan import Bucket, Task
from . import steps
from .kernel import Kernel
from .launches import Launch, Tensor, update_rows
from .machine import Machine


def prepare(machine: Machine, kernel: Kernel, bucket: Bucket) -> Callable[[], Launch | None]:
    """Return what updates the arrays of a bucket, by copies of those that are no piece of memory; these are made now.

    It returns the launch, if that can be repeated while the arrays stay where they are.
    """
    given = [_tensor(kernel, task) for task in bucket.tasks]
    whole = not (bucket.sparse or program_of(kernel.stem))
    with at(bucket.place):
        tensors = [_tensor_in_line(machine, tensor, any_order=whole) for tensor in given]
        launch = Launch(machine, kernel, tensors) if whole else None
    return partial(_run, machine, kernel, bucket, given, tensors, launch)


def _run(
    machine: Machine,
    kernel: Kernel,
    bucket: Bucket,
    given: list[Tensor],
    tensors: list[Tensor],
    launch: Launch | None,
) -> Launch | None:
    with at(bucket.place):
        if bucket.counted:
            step = steps.counted(machine, kernel, bucket, bucket.scaling, tensors[0].p.dtype)
        else:
            step = steps.given(machine, bucket.s, bucket.unmade)
        if launch:
            launch.run(step)
        elif program := program_of(kernel.stem):
            program(machine, bucket.rule, step, tensors)
        else:
            for tensor in tensors:
                update_rows(machine, kernel, tensor, step)
        copied = [pair for pair in zip(given, tensors, strict=True) if pair[0] is not pair[1]]
        for old, new in copied:
            _write_back(old, new)
    return None if copied else launch


def _tensor(kernel: Kernel, task: Task) -> Tensor:
    data, master = task.parameter.data, task.master
    state = tuple(task.arrays.get(name) for name in kernel.state)
    return Tensor(data, task.grad, state, None) if master is None else Tensor(master, task.grad, state, data)


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


def _write_back(old: Tensor, new: Tensor) -> None:
    """Put what was updated in a copy where it belongs."""
    for x, y in zip((old.p, *old.state, old.copy), (new.p, *new.state, new.copy), strict=True):
        if x is not y:
            x[...] = y


@cache
def program_of(stem: str) -> Callable[..., None] | None:
    """Return the sequence of launches that updates tensors, where a kernel file has more than one kernel."""
    name = f"refoptim.kernels.{stem}"
    program: Callable[..., None] | None = import_module(name).update if find_spec(name) else None
    return program
