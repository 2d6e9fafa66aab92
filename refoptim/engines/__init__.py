"""Engines run the array half of rules, bucket by bucket.

``reference`` does it in place on NumPy arrays; ``pure`` makes new arrays, of any type; ``fused`` runs compiled kernels,
on the processors of this computer (``host``) or on a GPU (``cuda``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..plan import Bucket, Task
from ..rule import Rule
from . import fused, host, pure, reference
from .kernel import Kernel, kernel_of
from .machine import Machine


def prepare(bucket: Bucket) -> Callable[[], None]:
    """Return what updates the parameters and the state arrays of a bucket; raise RuntimeError if nothing can."""
    if not bucket.group.get("fused"):
        return partial(_run, bucket)
    return partial(fused.run, *_fused(bucket.rule), bucket)


def check(rule: type[Rule], settings: Mapping[str, Any]) -> None:
    """Raise RuntimeError if kernels are asked for and there are none."""
    if settings.get("fused"):
        _fused(rule)


def _fused(rule: type[Rule]) -> tuple[Machine, Kernel]:
    kernel = kernel_of(rule)
    if kernel is None:
        raise RuntimeError(f"fused=True needs kernels, and {rule.__name__} has none: leave fused=None")
    return host.machine(), kernel


@np.errstate(all="ignore")
def _run(bucket: Bucket) -> None:
    if bucket.group.get("differentiable"):
        for task in bucket.tasks:
            _replace(bucket, task)
    elif bucket.sparse:
        for task in bucket.tasks:
            _update_rows(bucket, task)
    else:
        jobs = [reference.Job(task.parameter.data, task.grad, task.arrays) for task in bucket.tasks]
        pack = bucket.group.get("foreach") is not False
        reference.run(bucket.rule, bucket.s, jobs, unmade=bucket.unmade, pack=pack)


def _replace(bucket: Bucket, task: Task) -> None:
    """Give the parameter and its state new arrays."""
    old: dict[str, Any] = {name: None if bucket.unmade else np.asarray(x) for name, x in task.arrays.items()}
    data = np.asarray(task.parameter.data)
    task.parameter.data, state = pure.run(bucket.rule, bucket.s, data, task.grad, old, reference.get_rounding())
    task.arrays.update(state)


def _update_rows(bucket: Bucket, task: Task) -> None:
    """Update the rows that a sparse gradient touches: gathered, updated, and put back."""
    rows, values = task.grad.coalesce()
    at = np.unravel_index(rows, task.grad.shape[: len(task.grad.indices)])
    data, arrays = np.asarray(task.parameter.data), {name: np.asarray(x) for name, x in task.arrays.items()}
    gathered = reference.Job(data[at], values, {name: x[at] for name, x in arrays.items()})
    reference.run(bucket.rule, bucket.s, [gathered], unmade=bucket.unmade, pack=True)
    data[at] = gathered.p
    for name, x in gathered.state.items():
        arrays[name][at] = x
