"""Repeats a step without planning it anew, as long as the same objects stand where they stood.

A plan looks at every array of every parameter, which takes longer than a kernel needs to update small tensors. Here the
objects of the last step are compared with those that are there now, and only gradients that are new are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from operator import attrgetter, is_, is_not, itemgetter
from typing import Any
from weakref import ref

import numpy as np

from ..engines import steps
from ..engines.launches import Launch, Step
from ..engines.machine import Recorder
from ..numerics.arith import Array
from ..numerics.array_types import layouts
from ..numerics.libraries import library_of
from ..step.changes import Change, for_all, there
from ..step.groups import Group
from ..step.limits import check_constants, fitting
from ..step.parameter import Borrowed, told
from ..step.plan import Bucket, Memory, Terms, checked_gradient, settled
from ..step.rule import Registers, is_measured, next_registers, resolve, step_scalars, unread
from ..step.scaling import Scaling

FLAGS = ("fused", "differentiable", "capturable")
"""Settings that decide who runs a step."""


class Repeat:
    """The step after one that was planned.

    Args:
        groups: the groups of the optimizer.
        state: its state after the step.
        plan: what the step consisted of.
        launches: the launches of its buckets, in order.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        state: Mapping[Any, Any],
        plan: Sequence[Bucket],
        launches: Sequence[Launch | None],
    ) -> None:
        self.rule, self.groups, self.sizes = plan[0].rule, list(groups), _sizes(groups)
        self.members = _members(groups)
        self.data = [p.data for p in self.members]
        self.masters = [p.master for p in self.members]
        self.memory = Memory(self.data)
        self.parts = [_Part(state, bucket, launch) for bucket, launch in zip(plan, launches, strict=True) if launch]
        kept = [x for part in self.parts for _, column in part.arrays.values() for x in column]
        self.told = told(p for part in self.parts for p in part.parameters)
        self.pins = [ref(x) for x in self.data + kept if isinstance(x, np.ndarray)]  # NumPy resizes none that has one
        self.idle = [group for group in groups if all(part.bucket.group is not group for part in self.parts)]
        numbers = {id(p): (part, i) for part in self.parts for i, p in enumerate(part.parameters)}
        self.numbers = [numbers.get(id(p)) for p in self.members]
        self.missing = self.numbers.count(None)
        self.grads = [_nothing if number is None else number[0].grads[number[1]] for number in self.numbers]
        self.forms = _forms([x for x in (reference() for reference in self.grads) if x is not None])
        self.lent = _Lent.of(self)
        self.written = kept if self.lent else self.data + kept
        self.layouts = layouts(self.written)

    def holds(self, groups: Sequence[Group], state: Mapping[Any, Any], grads: Any, terms: Terms) -> bool:
        """Tell whether everything is as it was but for the values, and take note of new gradients."""
        try:
            return self._same(groups, state, terms) and self._take(grads)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
            return False  # the plan says what is wrong

    def _same(self, groups: Sequence[Group], state: Mapping[Any, Any], terms: Terms) -> bool:
        if len(groups) != len(self.groups) or not all(map(is_, groups, self.groups)):
            return False
        for group in self.idle:
            settled(self.rule, group, terms)
        members = _members(groups)
        return (
            _sizes(groups) == self.sizes
            and all(map(is_, members, self.members))
            and (self.lent.lie_as_before() if self.lent else all(map(is_, map(attrgetter("data"), members), self.data)))
            and list(map(attrgetter("master"), members)) == self.masters
            and layouts(self.written) == self.layouts
            and all(part.same(state, terms) for part in self.parts)
        )

    def _take(self, grads: Any) -> bool:
        """Tell whether the gradients are the old ones, or can take their place."""
        if self.lent:
            return self.lent.take(grads)
        now = list(map(attrgetter("grad"), self.members)) if grads is None else grads
        if not isinstance(now, (list, tuple)) or len(now) != len(self.grads):
            return False
        if sum(map(is_, now, repeat(None))) != self.missing:
            return False  # a gradient that is gone and one that is missing look alike below
        old = [reference() for reference in self.grads]
        new = [] if all(map(is_, now, old)) else [i for i, x in enumerate(now) if x is not old[i]]
        if not all(self._fits(i, now[i]) for i in new):
            return False
        for i in new:
            part, number = self.numbers[i]  # type: ignore[misc]
            self.grads[i] = ref(now[i])
            part.launch.move_gradient(number, now[i])
        return _forms([x for x in now if x is not None]) == self.forms

    def _fits(self, i: int, grad: Any) -> bool:
        """Tell whether a new gradient is one piece of memory that the kernel can take as it is."""
        if grad is None or self.numbers[i] is None or not self.data[i].flags.c_contiguous:
            return False
        in_line = grad.flags.c_contiguous and getattr(grad.flags, "aligned", True)
        return in_line and checked_gradient(self.members[i], grad, self.memory) is grad

    def changes(self, scaling: Scaling) -> list[Change]:
        """Return what takes the step, nothing to skip it; raise ValueError if a setting has become wrong."""
        if not all(part.bucket.counted for part in self.parts) and scaling.skips():
            return []
        with np.errstate(all="ignore"):
            ready = [part.ready(scaling) for part in self.parts]
        steps = zip(self.parts, ready, strict=True)
        return [*self.told, *(change for part, step in steps for change in part.changes(step, scaling))]


class _Lent:
    """The arrays of another library that all Parameters are made of, looked at all at once.

    Views of new gradients, one by one, would take longer than the step: their addresses are enough.
    """

    def __init__(self, of: Repeat, library: Any) -> None:
        self._library, self.members = library, of.members
        self.sources = [p.source for p in of.members]
        self.lying = library.lying(self.sources)
        present = [i for i, number in enumerate(of.numbers) if number is not None]
        self.missing = [number is None for number in of.numbers]
        self.forms = (library.in_line([self.sources[i] for i in present]) or [None])[0]
        self.sizes, self.items = np.array([(of.data[i].nbytes, of.data[i].itemsize) for i in present], np.int64).T
        parts = [number[0] for number in of.numbers if number is not None]  # in each, tensors come in this order too
        self.rows = [(part, np.array([row for row, x in enumerate(parts) if x is part])) for part in of.parts]
        self.starts, self.reach = (np.array(x, np.int64) for x in of.memory.bounds)

    @classmethod
    def of(cls, repeat: Repeat) -> _Lent | None:
        """Return those of a step, None where Parameters are made of others, or do not lie in one piece, in C order."""
        libraries = [library_of(p.source) if isinstance(p, Borrowed) else None for p in repeat.members]
        library = libraries[0]
        if library is None or library.lying is None or any(x is not library for x in libraries):
            return None
        return cls(repeat, library) if all(x.flags.c_contiguous for x in repeat.data) else None

    def lie_as_before(self) -> bool:
        """Tell whether the arrays have the memory that the Parameters look at."""
        return bool(self._library.lying(self.sources) == self.lying)

    def take(self, grads: Any) -> bool:
        """Tell whether gradients can take the place of the old ones, and take note of where they lie."""
        now = self._held() if grads is None else grads
        if not isinstance(now, (list, tuple)) or list(map(is_, now, repeat(None))) != self.missing:
            return False
        found = self._library.in_line([x for x in now if x is not None])
        if found is None or found[0] != self.forms:
            return False
        addresses = np.array(found[1], np.int64)
        if np.any(addresses % self.items) or self._meet(addresses):
            return False
        for part, rows in self.rows:
            part.launch.move_gradients(addresses[rows])
        return True

    def _held(self) -> list[Any] | None:
        """Return the gradients that the arrays hold, None if a Parameter has been given one."""
        given = any(map(is_not, map(attrgetter("_grad"), self.members), repeat(None)))
        return None if given else list(map(self._library.gradient, self.sources))

    def _meet(self, addresses: Array) -> bool:
        """Tell whether some gradients lie in the memory of parameters, which the step changes."""
        before = np.searchsorted(self.starts, addresses + self.sizes)
        return bool(np.any((before > 0) & (self.reach[before - 1] > addresses)))


class _Part:
    """A bucket of the step, its tasks left out, and its launch."""

    def __init__(self, state: Mapping[Any, Any], bucket: Bucket, launch: Launch) -> None:
        self.bucket, self.launch, self.dtype = bucket, launch, bucket.tasks[0].updated.dtype
        self.flags = [bucket.group.get(name) for name in FLAGS]
        self.parameters = [task.parameter for task in bucket.tasks]
        self.grads = [ref(task.grad) for task in bucket.tasks]
        self.states: list[Any] = [state.get(p) for p in self.parameters]
        self.measured = is_measured(bucket.rule)
        shapes = {p.shape: list(task.arrays) for p, task in zip(self.parameters, bucket.tasks, strict=True)}
        self.layouts = shapes if self.measured else {(1,): list(bucket.tasks[0].arrays)}
        self.arrays = {name: _column(name, self.states) for name in self._names(bucket.tasks[0].master is not None)}
        bucket.tasks = []  # gradients live no longer than their owner wants

    def _names(self, master: bool) -> list[str]:
        """Return the names of the arrays that the states hold, each once."""
        names = dict.fromkeys(name for layout in self.layouts.values() for name in layout)
        return [*names, *(["master"] if master else [])]

    def same(self, state: Mapping[Any, Any], terms: Terms) -> bool:
        """Tell whether the settings and the state are those that the last step left behind."""
        bucket = self.bucket
        bucket.h = resolve(bucket.rule, unread(bucket.group) if bucket.counted else bucket.group)
        return (
            [bucket.group.get(name) for name in FLAGS] == self.flags
            and terms.on_gpu(bucket.group, bucket.place) == bucket.counted
            and all(list(bucket.rule.arrays(bucket.h, shape)) == names for shape, names in self.layouts.items())
            and all(map(is_, map(state.get, self.parameters), self.states))
            and all(all(map(is_, map(itemgetter(name), having), x)) for name, (having, x) in self.arrays.items())
            and self._same_counts(terms)
        )

    def _same_counts(self, terms: Terms) -> bool:
        if self.bucket.counted:
            counter: Any = self.bucket.counter
            counters = map(terms.counters.get, self.parameters)
            stands = all(counter.stands_in(s or {}, self.bucket.rule.counts_steps) for s in self.states)
            return stands and all(x is counter for x in counters)
        counts = self._counts(self.bucket.k, self.bucket.registers)
        return all(set(map(itemgetter(name), self.states)) == {x} for name, x in counts.items())

    def _counts(self, k: int, registers: Registers) -> dict[str, Any]:
        return {"step": k, **registers} if self.bucket.rule.counts_steps else {**registers}

    def ready(self, scaling: Scaling) -> Step | None:
        """Return the next step, None if the GPU counts it; nothing has changed yet."""
        bucket, k = self.bucket, self.bucket.k + 1
        if bucket.counted:
            return None
        scalars = step_scalars(bucket.rule, bucket.h, k, bucket.registers)
        self.registers = next_registers(bucket.rule, bucket.h, k, bucket.registers)
        scalars |= {"sparse": False, "grad_scale": scaling.scale()}
        bucket.s = fitting(bucket.rule, bucket.h, scalars, self.dtype)
        for shape in self.layouts if self.measured else ():
            check_constants(bucket.rule, bucket.h, bucket.s, shape, self.dtype)
        return steps.given(self.launch.machine, bucket.s, unmade=False)

    def changes(self, step: Step | None, scaling: Scaling) -> list[Change]:
        """Return what updates the arrays, and keeps the step count and the registers unless the GPU does."""
        bucket, launch = self.bucket, self.launch
        self.recorder = Recorder(launch.machine)  # keeps what the launch uses
        step = step or steps.counted(self.recorder, launch.kernel, bucket, scaling, self.dtype)
        self.step = step  # the launch reads its scale, which must live as long
        launch.run(step, self.recorder)
        changes = there(launch.place, [*self.recorder.changes, *launch.after])
        if bucket.counted:
            return changes
        after = {"k": bucket.k + 1, "registers": self.registers}
        counts = self._counts(bucket.k + 1, self.registers)
        kept = [for_all(dict.update, self.states, repeat(counts))] if counts else []
        return [*changes, partial(vars(bucket).update, after), *kept]


def _column(name: str, states: Sequence[Any]) -> tuple[list[Any], list[Array]]:
    """Return the states that hold an array of a name, and those arrays."""
    having = [s for s in states if s and name in s]
    return having, [s[name] for s in having]


def _members(groups: Iterable[Group]) -> list[Any]:
    return list(chain.from_iterable(map(itemgetter("params"), groups)))


def _forms(grads: Sequence[Any]) -> list[Any]:
    """Return what is the same for all gradients that can take the place of one another."""
    shapes, dtypes, in_c = (list(map(attrgetter(name), grads)) for name in ("shape", "dtype", "flags.c_contiguous"))
    return [shapes, dtypes, in_c, None if all(in_c) else list(map(attrgetter("flags.f_contiguous"), grads))]


def _sizes(groups: Iterable[Group]) -> list[tuple[type, int]]:
    """Return how many parameters each group has, and the type of what holds them."""
    return [(type(group["params"]), len(group["params"])) for group in groups]


def _nothing() -> None:
    """Stand for the gradient of a parameter that had none."""
