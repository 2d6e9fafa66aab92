"""Runs rules on whole arrays of any library, or on rows: the new values first, then each is written in its place."""

from __future__ import annotations

from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from ..numerics.array_types import at, plain
from ..step.changes import Change, there
from ..step.plan import Bucket, Task
from . import pure, reference


def prepare(bucket: Bucket) -> list[Change]:
    """Compute the new values of a bucket; return what writes them."""
    with at(bucket.place):
        changes = [change for task in bucket.tasks for change in _changes(bucket, task)]
    return there(bucket.place, changes)


def _changes(bucket: Bucket, task: Task) -> list[Change]:
    """Return what updates the arrays of one parameter, or their rows that a sparse gradient touches."""
    g, rows = task.grad, None
    if bucket.sparse:
        rows, g = task.grad.coalesce()
    where = ... if rows is None else np.unravel_index(rows, task.grad.shape[: len(task.grad.indices)])
    p, arrays = plain(task.updated), {name: plain(x) for name, x in task.arrays.items()}
    old: dict[str, Any] = {name: None if name in bucket.unmade else x[where] for name, x in arrays.items()}
    rounding = reference.get_rounding() if task.master is None else "store"
    new, state = pure.run(bucket.rule, bucket.s, p[where], g, old, rounding, estimate=task.estimate)
    pairs = [(p, new), *((arrays[name], x) for name, x in state.items())]
    if task.master is not None:
        pairs.append((plain(task.parameter.data), new.astype(task.parameter.dtype)))
    return [partial(setitem, x, where, value) for x, value in pairs]
