"""What a launch is given in a step: scalars that the host computed, or that the GPU computes before it uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..numerics.arith import Array, DType, arithmetic
from ..numerics.array_types import at, moved, on_gpu
from ..numerics.array_types import place as place_of
from ..step.counter import Counter
from ..step.plan import Bucket
from ..step.rule import Record, record, register_dtype
from ..step.scaling import Scaling
from .kernel import Kernel
from .launches import Step, scalar
from .machine import Machine


def given(machine: Machine, s: Record, unmade: bool) -> Step:
    """Return a step whose scalars the host has computed."""
    scale = None if s.grad_scale is None else machine.upload(np.array([s.grad_scale], np.float32))
    return Step(s, unmade, grad_scale=scale)


def of(bucket: Bucket, kernel: Kernel, storage: DType, machine: Machine, scaling: Scaling) -> Step:
    """Return the next step of a bucket, whose state is there."""
    if bucket.counted:
        return counted(machine, kernel, bucket, scaling, storage)
    return given(machine, bucket.s, unmade=False)


def counted(machine: Machine, kernel: Kernel, bucket: Bucket, scaling: Scaling, storage: DType) -> Step:
    """Let the GPU take the scalars of a bucket to the next step, unless it skips that."""
    counter: Any = bucket.counter
    dtype = arithmetic(storage)
    with at(bucket.place):
        if counter.record is None:
            counter.record = machine.empty((len(kernel.record),), dtype)
        found_inf, lr = _number(machine, bucket, scaling.found_inf, scaling.skips), bucket.group.get("lr")
        entry = f"{kernel.name}_scalars_{dtype.name}_{register_dtype(bucket.rule).name}"
        arguments = (hypers(kernel, bucket), lr if on_gpu(lr) else None, counter.values, counter.record, found_inf)
        machine.launch(kernel.stem, entry, 1, *arguments)
        s = record({"maximize": bucket.h.maximize}, dtype)
        grad_scale = _number(machine, bucket, scaling.grad_scale, scaling.scale)
        return Step(s, False, counter.record, grad_scale, found_inf)


def hypers(kernel: Kernel, bucket: Bucket) -> Any:
    """Return the hyperparameters of a bucket as the struct of the kernel."""
    struct = np.dtype([(name, np.float64, (n,) if n > 1 else ()) for name, n in kernel.hypers])
    return scalar(struct, tuple(getattr(bucket.h, name) for name, _ in kernel.hypers))


def _number(machine: Machine, bucket: Bucket, x: Any, read: Callable[[], Any]) -> Array | None:
    """Return a number as a float32 array where the bucket lies, None for None; ``read`` says what it is on the host."""
    if x is None or (on_gpu(x) and place_of(x) == bucket.place):
        return x
    if not on_gpu(x):
        return machine.upload(np.array([read()], np.float32))
    kept = machine.empty(x.shape, x.dtype)  # as long as the launch needs it
    kept[...] = moved(x, bucket.place)
    return kept


def ready(bucket: Bucket) -> None:
    """Give a bucket that a GPU counts a counter of its own: a new one, or one for just its parameters."""
    if bucket.counter is None:
        bucket.counter = Counter.start(bucket.rule, bucket.k, bucket.registers, bucket.place)
    elif bucket.counter.sharers != len(bucket.tasks):
        bucket.counter = bucket.counter.split()
