"""Buckets that are updated again and again: their arrays stay where they are, and are not looked at anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter, setitem
from typing import Any, Protocol

import numpy as np

from ..numerics.arith import Array, DType, as_reals
from ..numerics.array_types import HOST, plain
from ..step.changes import Change, there
from ..step.plan import Bucket
from ..step.rule import apply, is_measured
from ..step.scaling import Scaling
from . import blocks, reference, steps
from .host import Host
from .launches import BUCKET, Launch, Step, fields_of, struct_of
from .machine import Recorder
from .reference import get_rounding
from .workspace import Workspace


class Standing(Protocol):
    """What updates a bucket again."""

    def move_gradient(self, i: int, g: Array) -> None:
        """Take note that the gradient of task ``i`` is another array now."""

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return what updates the arrays by the scalars of the bucket; the gradients are those of its tasks."""


def of_launch(launch: Any, dtype: DType) -> Launches:
    """Return what repeats launches of kernels on arrays that a rule updates in ``dtype``."""
    single = type(launch) is Launch and isinstance(launch.machine, Host)
    return Call(launch, dtype) if single else Launches(launch, dtype)


class Launches:
    """Launches of kernels, which are written down in each step."""

    def __init__(self, launch: Any, dtype: DType) -> None:
        self.launch, self.dtype = launch, dtype
        self.move_gradient, self.move_gradients = launch.move_gradient, launch.move_gradients

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return the launches, and what is to be done when they have been made."""
        launch = self.launch
        recorder = Recorder(launch.machine)
        step = steps.of(bucket, launch.kernel, self.dtype, recorder, scaling)
        launch.run(step, recorder)
        self.kept = recorder, step  # a GPU reads them when the step is over here
        return there(launch.place, [*recorder.changes, *launch.after])


class Call(Launches):
    """One launch on this computer, which reads its arguments from arrays that stay."""

    def __init__(self, launch: Launch, dtype: DType) -> None:
        super().__init__(launch, dtype)
        self.record = np.zeros((), struct_of(launch.kernel, launch.dtype))
        self.bucket, self.scale = np.zeros((), BUCKET), np.zeros(1, np.float32)
        self.fields = attrgetter(*launch.kernel.record)
        self.s: Any = None
        self.flags: tuple[bool, ...] = ()
        self.call = self._calls()

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return the launch, none if there are no elements, and what is to be done when it has been made."""
        launch = self.launch
        if bucket.s is not self.s:
            self._take(bucket.s)
        if launch.chunks.count > 1:
            self.call = self._calls()
        return [*self.call, *launch.after]

    def _calls(self) -> list[Change]:
        """Return the call of the kernel, on as many threads as there are now, none if there are no elements."""
        launch, chunks = self.launch, self.launch.chunks
        arguments = launch.entry, chunks.count, self.record, self.bucket
        return [launch.machine.standing(*arguments, elements=chunks.elements)] if chunks.count else []

    def _take(self, s: Any) -> None:
        """Write down the scalars of a step."""
        s.unmade = False
        self.record[()] = self.fields(s)
        if s.grad_scale is not None:
            self.scale[0] = s.grad_scale
        flags = s.maximize, s.grad_scale is None
        if flags != self.flags:
            launch, step = self.launch, Step(s, False, grad_scale=None if s.grad_scale is None else self.scale)
            self.bucket[()] = launch.chunks.fields(launch.machine, launch.tables, fields_of(launch.machine, step))
        self.s, self.flags = s, flags


class Words:
    """The words of a rule, on arrays that are one piece of memory each, in C order."""

    def __init__(self, bucket: Bucket) -> None:
        jobs = [(task.updated, task.grad, *task.arrays.values()) for task in bucket.tasks]
        flats = blocks.Flats([blocks.flat(job) for job in jobs])
        self.wide, self.complex = jobs[0][0].dtype != jobs[0][1].dtype, jobs[0][1].dtype.kind == "c"
        self.written = sum(x.nbytes for p, _, *state in jobs for x in (p, *state))
        self.work = {pack: list(flats.blocks(pack)) for pack in (True, False)}
        self.lines = [(p, state) for p, _, *state in flats.jobs]
        self.is_small = len(jobs) == 1 and 0 < jobs[0][0].size <= blocks.CHUNK and not (self.wide or self.complex)
        masters = [(plain(task.parameter.data), task.master) for task in bucket.tasks if task.master is not None]
        self.after = [partial(setitem, copy, ..., master) for copy, master in masters]

    @staticmethod
    def suit(bucket: Bucket) -> bool:
        """Tell whether a bucket can be updated so."""
        if bucket.sparse or bucket.place != HOST or bucket.group.get("differentiable") or is_measured(bucket.rule):
            return False
        arrays = [x for task in bucket.tasks for x in (task.parameter.data, task.grad, *task.kept.values())]
        return all(type(x) is np.ndarray and x.flags.c_contiguous for x in arrays)

    def move_gradient(self, i: int, g: Array) -> None:
        """Do nothing: gradients are given."""

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return what runs the rule, and what rounds master copies then."""
        if self.is_small and get_rounding() == "each" and workspace.takes(self.written):
            return [*self._results(bucket, *grads), *self.after]
        lines = map(as_reals, grads) if self.complex else grads
        jobs = [(p, g.reshape(-1), *state) for (p, state), g in zip(self.lines, lines, strict=True)]
        walk = reference.Walk(blocks.Flats(jobs), bucket.rule, bucket.s, unmade=False, wide=self.wide)
        pack = bucket.group.get("foreach") is not False
        return [*walk.changes(self.work[pack], self.written, workspace), *self.after]

    def _results(self, bucket: Bucket, g: Array) -> list[Change]:
        """Run the rule itself on one small array, and return what writes its results."""
        p, state = self.lines[0]
        new = reference.results(partial(apply, bucket.rule, bucket.s), (p, g.reshape(-1), *state), unmade=False)
        return [partial(setitem, x, ..., y) for x, y in zip((p, *state), new, strict=True)]
