"""Engines run the array half of rules, bucket by bucket.

``reference`` does it in place on NumPy arrays, ``whole`` on rows of them and on those of CuPy; ``pure`` makes new
arrays, of any type; ``fused`` runs compiled kernels, on the processors of this computer (``host``) or on a GPU
(``cuda``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from ..numerics.array_types import HOST, Place, at, on_gpu, place, plain
from ..step.changes import Change
from ..step.groups import Group
from ..step.parameter import Borrowed, Parameter
from ..step.plan import Bucket, Task
from ..step.rule import Rule
from ..step.scaling import Scaling
from . import cuda, fused, host, pure, reference, steps, whole
from .fused import Work
from .kernel import Kernel, counts, kernel_of
from .machine import Machine
from .standing import Words
from .workspace import Workspace


def prepare(bucket: Bucket, workspace: Workspace) -> Work:
    """Return what updates the parameters and the state arrays of a bucket; raise RuntimeError if nothing can."""
    chosen = _fused(bucket.rule, bucket.group, bucket.place)
    if bucket.counted:
        steps.ready(bucket)
    if chosen:
        return fused.prepare(*chosen, bucket, workspace)
    return Work(_changes(bucket, workspace), Words(bucket) if Words.suit(bucket) else None)


@np.errstate(all="ignore")
def totals(bucket: Bucket) -> list[tuple[float, ...]]:
    """Return what each parameter of a bucket adds to the sums over all; on a GPU this waits for them."""
    chosen = _fused(bucket.rule, bucket.group, bucket.place)
    if chosen:
        return fused.totals(*chosen, bucket)
    with at(bucket.place):
        return [pure.totals(bucket.rule, bucket.s, *_operands(bucket, task)) for task in bucket.tasks]


def _operands(bucket: Bucket, task: Task) -> tuple[Any, Any, dict[str, Any]]:
    """Return what a rule is given of a task: None for state that is yet to be made."""
    arrays = {name: None if name in bucket.unmade else plain(x) for name, x in task.arrays.items()}
    return plain(task.updated), plain(task.grad), arrays


def check(rule: type[Rule], settings: Mapping[str, Any]) -> None:
    """Raise RuntimeError if kernels are asked for and there are none, or arrays cannot be replaced by new ones."""
    if settings.get("differentiable"):
        for p in settings["params"]:
            _check_replaceable(p)
    if settings.get("fused"):
        for where in {place(p.data) for p in settings["params"]} or {HOST}:
            _fused(rule, settings, where)


def machine(rule: type[Rule], settings: Mapping[str, Any], where: Place | None) -> Machine | None:
    """Return what runs the kernels of a rule at a place, None where the rule itself is to be run."""
    chosen = _fused(rule, settings, where)
    return chosen[0] if chosen else None


def machine_at(where: Place | None) -> Machine:
    """Return what runs kernels at a place, the memory of the computer if none is given; RuntimeError if nothing can."""
    return host.machine() if where is None or where.device is None else cuda.machine(where.device)


def machine_if_any(where: Place | None) -> Machine | None:
    """Return what runs kernels at a place, the memory of the computer if none is given; None if nothing can."""
    missing = host.missing() if where is None or where.device is None else cuda.missing(where.device)
    return None if missing else machine_at(where)


def counts_on_gpu(rule: type[Rule], scaling: Scaling, group: Group, where: Place) -> bool:
    """Tell whether a GPU is to count the steps of a group at a place; raise RuntimeError if it should but cannot."""
    if where.device is None:
        return False
    kernel, capturable = kernel_of(rule), bool(group.get("capturable"))
    counting = kernel is not None and kernel.hypers and counts(rule)
    if group.get("fused") is False or group.get("differentiable") or not counting or rule.without_kernels(group):
        if capturable:
            raise RuntimeError(
                "capturable=True on a GPU needs the kernels: leave fused=None and differentiable=False, and override "
                "no scalars"
            )
        return False
    return capturable or on_gpu(scaling.found_inf) or on_gpu(scaling.grad_scale)


def _fused(rule: type[Rule], settings: Mapping[str, Any], where: Place | None) -> tuple[Machine, Kernel] | None:
    """Return the machine and the kernels that update arrays at a place, None where the rule itself is to be run."""
    on_gpu, asked = where is not None and where.device is not None, settings.get("fused")
    if not (asked or (asked is None and on_gpu and not settings.get("differentiable"))):
        return None
    kernel, lacking = kernel_of(rule), rule.without_kernels(settings)
    if asked and kernel is None:
        raise RuntimeError(f"fused=True needs kernels, and {rule.__name__} has none: leave fused=None")
    if asked and lacking:
        raise RuntimeError(f"fused=True needs kernels, and those of {rule.__name__} do not know {lacking}")
    if lacking:
        return None
    return (_machine(where), kernel) if kernel else None


def _machine(where: Place | None) -> Machine:
    """Return what runs kernels on arrays at a place, if kernels can be compiled for it."""
    found = machine_at(where)
    if isinstance(found, cuda.Cuda):
        _ = found.arch
    return found


@np.errstate(all="ignore")
def _changes(bucket: Bucket, workspace: Workspace) -> list[Change]:
    if bucket.group.get("differentiable"):
        return [_replacement(bucket, task) for task in bucket.tasks]
    if bucket.sparse or bucket.place != HOST:
        return whole.prepare(bucket)
    jobs = [reference.Job(task.updated, task.grad, task.arrays, task.estimate) for task in bucket.tasks]
    pack = bucket.group.get("foreach") is not False
    changes = reference.prepare(bucket.rule, bucket.s, jobs, workspace, unmade=bucket.unmade, pack=pack)
    masters = [(plain(task.parameter.data), task.master) for task in bucket.tasks if task.master is not None]
    return [*changes, *(partial(setitem, copy, ..., master) for copy, master in masters)]


def _check_replaceable(p: Parameter) -> None:
    if isinstance(p, Borrowed):
        raise RuntimeError(
            f"differentiable=True makes new arrays, and a {type(p.source).__name__} is changed in place: "
            "refoptim.functional computes steps on it that can be differentiated"
        )


def _replacement(bucket: Bucket, task: Task) -> Change:
    """Compute new arrays for a parameter and its state; return what gives the parameter its array."""
    _check_replaceable(task.parameter)
    old: dict[str, Any] = {name: None if name in bucket.unmade else plain(x) for name, x in task.arrays.items()}
    data = plain(task.parameter.data)
    with at(bucket.place):
        rounding = reference.get_rounding()
        new, state = pure.run(bucket.rule, bucket.s, data, task.grad, old, rounding, estimate=task.estimate)
    task.arrays.update(state)
    return task.parameter.holding(new)
