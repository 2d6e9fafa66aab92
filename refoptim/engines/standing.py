"""Buckets that are updated again and again: their arrays stay where they are, and are not looked at anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter, setitem
from typing import Any, Protocol

import numpy as np

from ..numerics.arith import Array, DType, as_reals
from ..numerics.array_types import HOST, plain
from ..step.changes import Change, there
from ..step.limits import Records
from ..step.plan import Bucket
from ..step.rule import Record, Registers, Rule, apply, keeps_shapes
from ..step.scaling import Scaling
from . import blocks, reference, steps
from .host import Host
from .launches import BUCKET, Launch, address_of, struct_of
from .machine import Recorder
from .reference import get_rounding
from .scalars import Compiled, compiled
from .workspace import Workspace


class Standing(Protocol):
    """What updates a bucket again.

    Attributes:
        computes: whether NumPy or CuPy compute something for it, so that floating-point flags are to raise nothing.
        rows: which of the gradients of a step are those of the tasks of the bucket, in their order.
        write: writes rounded scalars to where the next step reads them, as a change.
        always: what updates the arrays in each step, on as many threads as when the bucket was planned.

    Whoever computes anew in each step has None for the last two, and is asked by ``take`` and ``changes``.
    """

    computes: bool
    rows: Sequence[int]
    write: Callable[[Any], Any] | None
    always: list[Change] | None

    def prepared(self, bucket: Bucket, scalars: dict[str, Any]) -> Any:
        """Round the scalars of a step to come; raise RuntimeError if one is too large where it is used."""

    def take(self, bucket: Bucket, prepared: Any) -> None:
        """Let rounded scalars be those of the next step."""

    def compiled(self, bucket: Bucket, registers: Registers, scale: float | None) -> Compiled | None:
        """Return what computes the scalars of steps in less time than the rule; None if nothing does."""

    def move_gradient(self, i: int, g: Array) -> None:
        """Take note that the gradient of task ``i`` is another array now."""

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return what updates the arrays by those scalars; the gradients are all that the step is given."""


def of_launch(launch: Any, rule: type[Rule], dtype: DType) -> Launches:
    """Return what repeats launches of kernels on arrays that a rule updates in ``dtype``."""
    single = type(launch) is Launch and isinstance(launch.machine, Host)
    return Call(launch, rule, dtype) if single else Launches(launch, rule, dtype)


class Launches:
    """Launches of kernels, which are written down in each step."""

    computes = True
    rows: Sequence[int] = ()
    write: Callable[[Any], Any] | None = None
    always: list[Change] | None = None

    def __init__(self, launch: Any, rule: type[Rule], dtype: DType) -> None:
        self.launch, self.dtype, self.records = launch, dtype, Records(rule, dtype)
        self.move_gradient, self.move_gradients = launch.move_gradient, launch.move_gradients

    def prepared(self, bucket: Bucket, scalars: dict[str, Any]) -> Record:
        """Return a record."""
        return self.records.next(bucket.h, scalars)

    def take(self, bucket: Bucket, prepared: Record) -> None:
        """Put a record into the bucket."""
        bucket.s = prepared

    def compiled(self, bucket: Bucket, registers: Registers, scale: float | None) -> Compiled | None:
        """Return None."""
        return None

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return the launches, and what is to be done when they have been made."""
        launch = self.launch
        recorder = Recorder(launch.machine)
        step = steps.of(bucket, launch.kernel, self.dtype, recorder, scaling)
        launch.run(step, recorder)
        self.kept = recorder, step  # a GPU reads them when the step is over here
        return there(launch.place, [*recorder.changes, *launch.after])


class Call(Launches):
    """One launch on this computer, which reads its arguments where they are written before it, side by side."""

    def __init__(self, launch: Launch, rule: type[Rule], dtype: DType) -> None:
        super().__init__(launch, rule, dtype)
        self.struct, self.fields = struct_of(launch.kernel, dtype), itemgetter(*launch.kernel.record)
        scale = "scale", np.float32, 2  # two, so that doubles of the record are aligned
        self.written = np.zeros(1, [("bucket", BUCKET), scale, ("record", self.struct)])
        memory: Any = memoryview(self.written.view(np.uint8))  # type: ignore[arg-type]
        self.write = partial(setitem, memory, slice(None))
        self.taking: tuple[bool, float | None] | None = None
        self.computes = bool(launch.after)
        self.always = [*self._call(), *launch.after]

    def prepared(self, bucket: Bucket, scalars: dict[str, Any]) -> bytes:
        """Return what is to be written: how gradients are taken, and a record in the layout of the kernel."""
        self.records.check(bucket.h, scalars)
        record = np.array(self.fields({**scalars, "unmade": False}), self.struct)
        return self._taking(scalars["maximize"], scalars["grad_scale"]) + record.tobytes()

    def compiled(self, bucket: Bucket, registers: Registers, scale: float | None) -> Compiled | None:
        """Return the kernel of the rule's scalars, if it has their bits."""
        head = self._taking(getattr(bucket.h, "maximize", False), scale)
        return compiled(self.launch, bucket, registers, head, self.records.largest)

    def _taking(self, maximize: bool, scale: float | None) -> bytes:
        """Return what is written before a record: how the kernel takes gradients, turned round, or scaled."""
        if self.taking != (maximize, scale):
            self.taking, self.head = (maximize, scale), self._head(maximize, scale)
        return self.head

    def _head(self, maximize: bool, scale: float | None) -> bytes:
        head, machine = np.zeros_like(self.written), self.launch.machine
        head["scale"] = scale or 0
        addresses = (None, None if scale is None else self.written["scale"], None)
        fields = int(maximize), *(address_of(machine, x) for x in addresses)
        head["bucket"] = self.launch.chunks.fields(machine, self.launch.tables, fields)
        return head.tobytes()[: -self.struct.itemsize]

    def _call(self) -> list[Change]:
        """Return the launch, none if there are no elements."""
        launch, chunks, arguments = self.launch, self.launch.chunks, (self.written["record"], self.written["bucket"])
        if not chunks.count:
            return []
        return [launch.machine.standing(launch.entry, chunks.count, *arguments, elements=chunks.elements).now()]


class Words:
    """The words of a rule, on arrays that are one piece of memory each, in C order."""

    computes = True
    rows: Sequence[int] = ()
    write: Callable[[Any], Any] | None = None
    always: list[Change] | None = None

    def __init__(self, bucket: Bucket) -> None:
        jobs = [(task.updated, task.grad, *task.arrays.values()) for task in bucket.tasks]
        self.records = Records(bucket.rule, jobs[0][0].dtype)
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
        if (
            bucket.estimated
            or bucket.sparse
            or bucket.place != HOST
            or bucket.group.get("differentiable")
            or keeps_shapes(bucket.rule)
        ):
            return False
        arrays = [x for task in bucket.tasks for x in (task.parameter.data, task.grad, *task.kept.values())]
        return all(type(x) is np.ndarray and x.flags.c_contiguous for x in arrays)

    def prepared(self, bucket: Bucket, scalars: dict[str, Any]) -> Record:
        """Return a record."""
        return self.records.next(bucket.h, scalars)

    def take(self, bucket: Bucket, prepared: Record) -> None:
        """Put a record into the bucket."""
        bucket.s = prepared

    def compiled(self, bucket: Bucket, registers: Registers, scale: float | None) -> None:
        """Return None."""

    def move_gradient(self, i: int, g: Array) -> None:
        """Do nothing: gradients are given."""

    def changes(self, bucket: Bucket, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return what runs the rule, and what rounds master copies then."""
        grads = [grads[i] for i in self.rows]
        if self.is_small and get_rounding() == "each" and workspace.takes(self.written):
            return [*self._results(bucket, *grads), *self.after]
        lines = map(as_reals, grads) if self.complex else grads
        jobs = [(p, g.reshape(-1), *state) for (p, state), g in zip(self.lines, lines, strict=True)]
        walk = reference.Walk(blocks.Flats(jobs), bucket.rule, bucket.s, unmade=frozenset(), wide=self.wide)
        pack = bucket.group.get("foreach") is not False
        return [*walk.changes(self.work[pack], self.written, workspace), *self.after]

    def _results(self, bucket: Bucket, g: Array) -> list[Change]:
        """Run the rule itself on one small array, and return what writes its results."""
        p, state = self.lines[0]
        new = reference.results(partial(apply, bucket.rule, bucket.s), (p, g.reshape(-1), *state), unmade=frozenset())
        return [partial(setitem, x, ..., y) for x, y in zip((p, *state), new, strict=True)]
