"""Repeats a step without planning it anew, as long as the same objects stand where they stood.

A plan looks at every array of every parameter, which takes longer than a kernel needs to update small tensors. Here the
objects of the last step are compared with those that are there now, and only gradients that are new are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from marshal import dumps
from operator import attrgetter, is_, is_not, itemgetter
from types import NoneType
from typing import Any
from weakref import ref

import numpy as np

from ..engines.standing import Launches, Standing
from ..engines.workspace import Workspace
from ..numerics.arith import Array
from ..numerics.array_types import HOST, layout_of
from ..numerics.libraries import library_of
from ..step.changes import Change, for_all
from ..step.groups import Group
from ..step.hyper import declared
from ..step.limits import check_constants, fitting
from ..step.parameter import Borrowed, told
from ..step.plan import Bucket, Memory, Terms, checked_gradient, settled
from ..step.rule import Registers, Rule, is_measured, next_registers, resolve, step_scalars, unread
from ..step.scaling import Scaling

FLAGS = ("fused", "differentiable", "capturable")
"""Settings that decide who runs a step."""

CONSTANTS = {float, int, bool, str, NoneType}
"""Types whose objects have one value for good."""


class Repeat:
    """The step after one that was planned.

    Args:
        groups: the groups of the optimizer.
        state: its state after the step.
        plan: what the step consisted of.
        standing: what updates its buckets again, in order.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        state: Mapping[Any, Any],
        plan: Sequence[Bucket],
        standing: Sequence[Standing],
    ) -> None:
        self.rule, self.groups = plan[0].rule, list(groups)
        self.lists = [(type(group["params"]), list(group["params"])) for group in groups]
        self.members = [p for group in groups for p in group["params"]]
        self.data = [p.data for p in self.members]
        self.masters = [p.master for p in self.members]
        self.memory = Memory(self.data)
        self.parts = [_Part(state, *pair) for pair in zip(plan, standing, strict=True)]
        kept = [x for part in self.parts for column in part.columns for x in column.arrays]
        self.told = told(p for part in self.parts for p in part.parameters)
        self.pins = [ref(x) for x in self.data + kept if isinstance(x, np.ndarray)]  # NumPy resizes none that has one
        self.idle = [group for group in groups if all(part.bucket.group is not group for part in self.parts)]
        numbers = {id(p): (part, i) for part in self.parts for i, p in enumerate(part.parameters)}
        self.numbers = [numbers.get(id(p)) for p in self.members]
        self.rows = [[i for i, at in enumerate(self.numbers) if at and at[0] is part] for part in self.parts]
        self.present = [number is not None for number in self.numbers]
        self.missing = self.present.count(False)
        self.grads = [_nothing if number is None else number[0].grads[number[1]] for number in self.numbers]
        self.forms = _forms([x for x in (reference() for reference in self.grads) if x is not None])
        self.now: list[Any] = []
        self.lent = _Lent.of(self)
        self.written = kept if self.lent else self.data + kept
        self.layout = layout_of(self.written)
        self.layouts = list(map(self.layout, self.written))

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
        return (
            all(map(self._has, groups, self.lists))
            and (self.lent.lie_as_before() if self.lent else all(map(is_, map(_data, self.members), self.data)))
            and list(map(_master, self.members)) == self.masters
            and list(map(self.layout, self.written)) == self.layouts
            and all(part.same(state, terms) for part in self.parts)
        )

    @staticmethod
    def _has(group: Any, members: tuple[type, list[Any]]) -> bool:
        """Tell whether a group has the members that it had."""
        params = group["params"]
        return len(params) == len(members[1]) and all(map(is_, params, members[1])) and type(params) is members[0]

    def _take(self, grads: Any) -> bool:
        """Tell whether the gradients are the old ones, or can take their place."""
        if self.lent:
            return self.lent.take(grads)
        now = list(map(_grad, self.members)) if grads is None else grads
        if not isinstance(now, (list, tuple)) or len(now) != len(self.grads):
            return False
        if sum(map(is_, now, repeat(None))) != self.missing:
            return False  # a gradient that is gone and one that is missing look alike below
        old = [reference() for reference in self.grads]
        if not all(map(is_, now, old)) and not self._exchange([i for i, x in enumerate(now) if x is not old[i]], now):
            return False
        self.now = list(now)
        return _forms(self.now if not self.missing else [x for x in now if x is not None]) == self.forms

    def _exchange(self, new: list[int], now: Sequence[Any]) -> bool:
        """Tell whether gradients that are new can take the place of others, and let them."""
        if not all(self._fits(i, now[i]) for i in new):
            return False
        for i in new:
            part, number = self.numbers[i]  # type: ignore[misc]
            self.grads[i] = ref(now[i])
            part.standing.move_gradient(number, now[i])
        return True

    def _fits(self, i: int, grad: Any) -> bool:
        """Tell whether a new gradient is one piece of memory that can be taken as it is."""
        if grad is None or self.numbers[i] is None or not self.data[i].flags.c_contiguous:
            return False
        in_line = grad.flags.c_contiguous and getattr(grad.flags, "aligned", True)
        return in_line and checked_gradient(self.members[i], grad, self.memory) is grad

    def changes(self, scaling: Scaling, workspace: Workspace) -> list[Change]:
        """Return what takes the step, nothing to skip it; raise ValueError if a setting has become wrong."""
        now, self.now = self.now, []  # gradients live no longer than their owner wants
        if scaling.skips() and not all(part.bucket.counted for part in self.parts):
            return []
        with np.errstate(all="ignore"):
            for part in self.parts:
                part.advance(scaling)
            grads = [[now[i] for i in rows] if now else [] for rows in self.rows]
            pairs = zip(self.parts, grads, strict=True)
            return [*self.told, *(change for part, g in pairs for change in part.changes(scaling, g, workspace))]


class _Lent:
    """The arrays of another library that all Parameters are made of, looked at all at once.

    Views of new gradients, one by one, would take longer than the step: their addresses are enough.
    """

    def __init__(self, of: Repeat, library: Any) -> None:
        self._library, self.members = library, of.members
        self.sources = [p.source for p in of.members]
        self.lying = library.lying(self.sources)
        present = [i for i, number in enumerate(of.numbers) if number is not None]
        self.missing = [not present for present in of.present]
        self.forms = (library.in_line([self.sources[i] for i in present]) or [None])[0]
        self.sizes, self.items = np.array([(of.data[i].nbytes, of.data[i].itemsize) for i in present], np.int64).T
        parts = [number[0] for number in of.numbers if number is not None]  # in each, tensors come in this order too
        self.rows: Any = [
            (part.standing, np.array([row for row, x in enumerate(parts) if x is part])) for part in of.parts
        ]
        self.starts, self.reach = (np.array(x, np.int64) for x in of.memory.bounds)

    @classmethod
    def of(cls, repeat: Repeat) -> _Lent | None:
        """Return those of a step, None where Parameters are made of others, or do not lie in one piece, in C order."""
        libraries = [library_of(p.source) if isinstance(p, Borrowed) else None for p in repeat.members]
        library = libraries[0]
        if library is None or library.lying is None or any(x is not library for x in libraries):
            return None
        kernels = all(isinstance(part.standing, Launches) for part in repeat.parts)
        return cls(repeat, library) if kernels and all(x.flags.c_contiguous for x in repeat.data) else None

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
        for kernels, rows in self.rows:
            kernels.move_gradients(addresses[rows])
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
    """A bucket of the step, its tasks left out, and what updates it."""

    def __init__(self, state: Mapping[Any, Any], bucket: Bucket, standing: Standing) -> None:
        self.bucket, self.standing, self.dtype = bucket, standing, bucket.tasks[0].updated.dtype
        self.parameters = [task.parameter for task in bucket.tasks]
        self.grads = [ref(task.grad) for task in bucket.tasks]
        self.states: list[Any] = [state.get(p) for p in self.parameters]
        self.measured = is_measured(bucket.rule)
        shapes = {p.shape: list(task.arrays) for p, task in zip(self.parameters, bucket.tasks, strict=True)}
        self.layouts = shapes if self.measured else {(1,): list(bucket.tasks[0].arrays)}
        self.columns = [_Column(name, self.states) for name in self._names(bucket.tasks[0].master is not None)]
        rule: type = bucket.rule
        self.names = (*declared(rule), *FLAGS)
        self.flags = [bucket.group.get(name) for name in FLAGS]
        self.settings: list[Any] = []
        self.scalars, self.varying = b"", False
        self.numbers = self._counts(bucket.k, bucket.registers)
        bucket.tasks = []  # gradients live no longer than their owner wants

    def _names(self, master: bool) -> list[str]:
        """Return the names of the arrays that the states hold, each once."""
        names = dict.fromkeys(name for layout in self.layouts.values() for name in layout)
        return [*names, *(["master"] if master else [])]

    def same(self, state: Mapping[Any, Any], terms: Terms) -> bool:
        """Tell whether the settings and the state are those that the last step left behind."""
        return (
            self._has_settings(terms)
            and all(map(is_, map(state.get, self.parameters), self.states))
            and all(map(_Column.stands, self.columns))
            and self._same_counts(terms)
        )

    def _has_settings(self, terms: Terms) -> bool:
        """Tell whether the settings ask for a step of the same kind; resolve them if one is new, or can be changed."""
        bucket, settings = self.bucket, list(map(self.bucket.group.get, self.names, repeat(_nothing)))
        if self.settings and all(map(is_, settings, self.settings)):
            return bucket.place == HOST or terms.on_gpu(bucket.group, bucket.place) == bucket.counted
        bucket.h = resolve(bucket.rule, unread(bucket.group) if bucket.counted else bucket.group)
        self.settings = settings if all(map(_is_constant, settings)) else []
        self.scalars, self.varying = b"", False
        return (
            [bucket.group.get(name) for name in FLAGS] == self.flags
            and terms.on_gpu(bucket.group, bucket.place) == bucket.counted
            and all(list(bucket.rule.arrays(bucket.h, shape)) == names for shape, names in self.layouts.items())
        )

    def _same_counts(self, terms: Terms) -> bool:
        if self.bucket.counted:
            counter: Any = self.bucket.counter
            counters = map(terms.counters.get, self.parameters)
            stands = all(counter.stands_in(s or {}, self.bucket.rule.counts_steps) for s in self.states)
            return stands and all(x is counter for x in counters)
        return all(set(map(itemgetter(name), self.states)) == {x} for name, x in self.numbers.items())

    def _counts(self, k: int, registers: Registers) -> dict[str, Any]:
        return {"step": k, **registers} if self.bucket.rule.counts_steps else {**registers}

    def advance(self, scaling: Scaling) -> None:
        """Compute the scalars of the next step, unless the GPU does; no array has changed yet."""
        bucket, k = self.bucket, self.bucket.k + 1
        if bucket.counted:
            return
        scalars = step_scalars(bucket.rule, bucket.h, k, bucket.registers)
        self.registers = next_registers(bucket.rule, bucket.h, k, bucket.registers)
        scalars |= {"sparse": False, "grad_scale": scaling.scale()}
        packed = b"" if self.varying else _packed(scalars)
        if not packed or packed != self.scalars:
            bucket.s = fitting(bucket.rule, bucket.h, scalars, self.dtype)
            for shape in self.layouts if self.measured else ():
                check_constants(bucket.rule, bucket.h, bucket.s, shape, self.dtype)
            self.varying = bool(self.scalars)  # they will be others in each step
            self.scalars = packed

    def changes(self, scaling: Scaling, grads: Sequence[Any], workspace: Workspace) -> list[Change]:
        """Return what updates the arrays, and keeps the step count and the registers unless the GPU does."""
        bucket = self.bucket
        changes = self.standing.changes(bucket, scaling, grads, workspace)
        if bucket.counted:
            return changes
        counts = self._counts(bucket.k + 1, self.registers)
        after = partial(vars(bucket).update, k=bucket.k + 1, registers=self.registers)
        kept = [for_all(dict.update, self.states, repeat(counts))] if counts else []
        return [*changes, after, partial(setattr, self, "numbers", counts), *kept]


class _Column:
    """The arrays of one name, and the states that hold them."""

    def __init__(self, name: str, states: Sequence[Any]) -> None:
        self.states = [s for s in states if s and name in s]
        self.pick, self.arrays = itemgetter(name), [s[name] for s in self.states]

    def stands(self) -> bool:
        """Tell whether the states hold the same arrays still."""
        return all(map(is_, map(self.pick, self.states), self.arrays))


def _is_constant(x: Any) -> bool:
    """Tell whether an object has one value for good; a setting that is not there counts as one."""
    return type(x) in CONSTANTS or x is _nothing or (type(x) is tuple and all(type(y) in CONSTANTS for y in x))


def _packed(scalars: Mapping[str, Any]) -> bytes:
    """Return bytes that are the same for the same values, signs of zeros included; none where there can be no such."""
    values = (*scalars.values(),)
    return dumps(values, 2) if CONSTANTS.issuperset(map(type, values)) else b""


def _forms(grads: Sequence[Any]) -> list[Any]:
    """Return what is the same for all gradients that can take the place of one another."""
    shapes, dtypes, in_c = list(map(_shape, grads)), list(map(_dtype, grads)), list(map(_in_c, grads))
    return [shapes, dtypes, in_c, None if all(in_c) else list(map(_in_fortran, grads))]


def takes_dense_gradients(rule: type[Rule]) -> bool:
    """Tell whether a rule takes every dense gradient as it is, which is not asked again then."""
    return rule.accept.__module__.rpartition(".")[0] in (__package__, Rule.__module__.rpartition(".")[0])


def _nothing() -> None:
    """Stand for the gradient of a parameter that had none, and for a setting that is not there."""


_data, _master, _grad = map(attrgetter, ("data", "master", "grad"))
_shape, _dtype, _in_c, _in_fortran = map(attrgetter, ("shape", "dtype", "flags.c_contiguous", "flags.f_contiguous"))
