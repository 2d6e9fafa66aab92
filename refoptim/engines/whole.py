"""Runs rules on whole arrays of any library, or on rows: the new values first, then each is written in its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.array_types import at, plain
from ..step.plan import Bucket, Task
from . import pure, reference


def run(bucket: Bucket) -> None:
    """Update the parameters and the state arrays of a bucket."""
    with at(bucket.place):
        for task in bucket.tasks:
            _update(bucket, task)


def _update(bucket: Bucket, task: Task) -> None:
    """Update the arrays of one parameter, or their rows that a sparse gradient touches."""
    g, rows = task.grad, None
    if bucket.sparse:
        rows, g = task.grad.coalesce()
    where = ... if rows is None else np.unravel_index(rows, task.grad.shape[: len(task.grad.indices)])
    p, arrays = plain(task.updated), {name: plain(x) for name, x in task.arrays.items()}
    old: dict[str, Any] = {name: None if bucket.unmade else x[where] for name, x in arrays.items()}
    rounding = reference.get_rounding() if task.master is None else "store"
    new, state = pure.run(bucket.rule, bucket.s, p[where], g, old, rounding)
    p[where] = new
    if task.master is not None:
        plain(task.parameter.data)[where] = new.astype(task.parameter.dtype)
    for name, x in state.items():
        arrays[name][where] = x
