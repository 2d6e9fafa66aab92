"""Repeats a step without planning it anew, as long as the same objects stand where they stood.

A plan looks at every array of every parameter, which takes longer than a kernel needs to update small tensors. Here the
objects of the last step are compared with those that are there now, and only gradients that are new are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from itertools import chain, compress, repeat
from operator import attrgetter, is_, is_not, itemgetter
from types import NoneType
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from ..engines.layouts import Layouts, layouts
from ..engines.standing import Launches, Standing
from ..engines.threads import setting
from ..engines.workspace import Workspace
from ..numerics.arith import Array
from ..numerics.array_types import HOST
from ..numerics.libraries import library_of
from ..step.changes import Change
from ..step.groups import Group
from ..step.hyper import declared
from ..step.parameter import Borrowed, told
from ..step.plan import Bucket, Memory, Terms, checked_gradient, layout, settled
from ..step.rule import (
    Rule,
    checks_groups,
    keeps_shapes,
    module_of,
    resolve,
    unread,
)
from ..step.scaling import UNSCALED, Scaling
from .ahead import Ahead

FLAGS = ("fused", "differentiable", "capturable", "cautious")
"""Settings that decide who runs a step, or what."""

FORM = attrgetter("shape", "dtype", "flags.c_contiguous")
FORM_OF_ANY = attrgetter("shape", "dtype", "flags.c_contiguous", "flags.f_contiguous")
"""What is the same of all gradients that can take the place of one another, where they are in C order, or not."""

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
        self.rule, self.groups, self.state = plan[0].rule, list(groups), state
        self.lists = [copy(group["params"]) for group in groups]
        self.members = [p for group in groups for p in group["params"]]
        self.data = [p.data for p in self.members]
        self.memory = Memory(self.data)
        self.parts = [_Part(state, *pair) for pair in zip(plan, standing, strict=True)]
        self.counted = all(part.bucket.counted for part in self.parts)
        kept = [x for part in self.parts for x in part.kept]
        self.told = told(p for part in self.parts for p in part.parameters)
        self.pins = [ref(x) for x in self.data + kept if isinstance(x, np.ndarray)]  # NumPy resizes none that has one
        first = [next((part for part in self.parts if part.bucket.group is group), None) for group in groups]
        self.first = first if None in first or checks_groups(self.rule) else []
        numbers = {id(p): (part, i) for part in self.parts for i, p in enumerate(part.parameters)}
        self.numbers = [numbers.get(id(p)) for p in self.members]
        self.count = sum(number is not None for number in self.numbers)
        self.computes = any(part.standing.computes for part in self.parts)
        for part in self.parts:
            part.standing.rows = [i for i, at in enumerate(self.numbers) if at and at[0] is part]
        self.grads = [_GONE if number is None else number[0].grads[number[1]] for number in self.numbers]
        given = [x for x in map(_alive, self.grads) if x is not None]
        self.form = FORM if all(map(attrgetter("flags.c_contiguous"), given)) else FORM_OF_ANY
        self.forms = list(map(self.form, given))
        self.now: list[Any] = []
        self.lent = _Lent.of(self)
        self.written = kept if self.lent else self.data + kept
        self.layouts = layouts(self.written)
        self.all_layouts: Layouts | None = None
        looks = [_Look(setting.get, [*setting]), _Look(_master, self.members)]  # launches are for so many threads
        looks += [look for part in self.parts for look in part.looks(state)]
        self.objects = _Objects(looks if self.lent else [_Look(_data, self.members), *looks])
        settings = (look for part in self.parts for look in part.settings.looks)
        self.settings_and_objects = _Objects([*settings, *self.objects.looks])
        self.settings_and_objects.forget()
        counts = (_Look(getter, part.states) for part in self.parts for getter in part.steps.getters)
        self.functions, self.things = zip(*self.settings_and_objects.looks, *counts, strict=True)
        # what more the terms of a step say concerns GPUs, and what settings together say, groups that have no part
        self.all_are_seen = None not in first and all(part.bucket.place == HOST for part in self.parts)

    def holds(self, groups: Sequence[Group], state: Mapping[Any, Any], grads: Any, terms: Callable[[], Terms]) -> bool:
        """Tell whether everything is as it was but for the values, and take note of new gradients."""
        try:
            if not self._stand(groups, state):
                if not self._same(groups, state, terms):
                    return False
                self._check_together(terms)
            if self.lent:
                return self.lent.lie_as_before() and self.layouts.hold(self.written) and self.lent.take(grads)
            return self._take(grads)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
            return False  # the plan says what is wrong

    def _stand(self, groups: Sequence[Group], state: Mapping[Any, Any]) -> bool:
        """Tell, in one go, whether all settings, states and counts are the same objects: nothing is asked then."""
        there = chain(groups, chain.from_iterable(map(map, self.functions, self.things)))
        seen = chain(self.groups, self.settings_and_objects.found, chain.from_iterable(map(_left, self.parts)))
        return (
            self.all_are_seen
            and state is self.state
            and len(groups) == len(self.groups)
            and [*map(_params, groups)] == self.lists
            and all(map(is_, there, seen))
        )

    def _same(self, groups: Sequence[Group], state: Mapping[Any, Any], terms: Callable[[], Terms]) -> bool:
        return (
            state is self.state
            and len(groups) == len(self.groups)
            and all(map(is_, groups, self.groups))
            and [*map(_params, groups)] == self.lists
            and (self.settings_and_objects.stay() or (self.objects.stay() and self._settle()))
            and all(map(_Part.counts_hold, self.parts, repeat(terms)))
        )

    def _settle(self) -> bool:
        """Tell whether settings that are others, or may have changed inside, ask for a step of the same kind."""
        if not all(map(_Part.settle, self.parts)):
            return False
        if all(part.settings.stay() for part in self.parts):
            self.settings_and_objects.look_again()
        else:
            self.settings_and_objects.forget()
        return True

    def _check_together(self, terms: Callable[[], Terms]) -> None:
        """Raise if settings of groups without a part are wrong, or do not go with those of others."""
        if self.first:
            pairs = zip(self.first, self.groups, strict=True)
            settings = [part.bucket.h if part else settled(self.rule, group, terms()) for part, group in pairs]
            self.rule.check_groups(settings)

    def _take(self, grads: Any) -> bool:
        """Tell whether the gradients are the old ones, or can take their place."""
        if grads is None:
            now = [*map(_grad, self.members)]
        elif isinstance(grads, (list, tuple)) and len(grads) == len(self.grads):
            now = list(grads)
        else:
            return False
        given = [*compress(now, map(is_not, now, repeat(None)))]
        if len(given) != self.count:
            return False  # a gradient that is gone and one that is missing look alike below
        old = [*map(_alive, self.grads)]
        same = all(map(is_, now, old))
        if not same and not self._exchange([i for i, x in enumerate(now) if x is not old[i]], now):
            return False
        self.now = now
        if same and self.all_layouts is not None:
            return self.all_layouts.hold([*self.written, *given])
        return self._same_layouts(given, same)

    def _same_layouts(self, given: Sequence[Any], same: bool) -> bool:
        """Tell whether the arrays that are written to lie as they did, and gradients, perhaps the same ones, too."""
        self.all_layouts = layouts([*self.written, *given]) if same else None  # new ones seldom come twice
        return self.layouts.hold(self.written) and [*map(self.form, given)] == self.forms

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

    def changes(self, scaling: Scaling, workspace: Workspace) -> list[Change] | None:
        """Return what takes the step, None to skip it; raise ValueError if a setting has become wrong.

        If it ``computes``, it is called, and the changes are made, where floating-point flags raise nothing.
        """
        now, self.now = self.now, []  # gradients live no longer than their owner wants
        if scaling is not UNSCALED and not self.counted and scaling.skips():  # a GPU that counts reads it by itself
            for part in self.parts:
                part.look(scaling)
            return None
        changes = [*self.told]
        for part in self.parts:
            if not part.bucket.counted:
                changes += part.steps.take(None if scaling is UNSCALED else scaling.scale())
            always = part.standing.always
            changes += part.standing.changes(part.bucket, scaling, now, workspace) if always is None else always
        return changes


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
        self.bucket, self.standing = bucket, standing
        self.parameters = [task.parameter for task in bucket.tasks]
        self.grads = [ref(task.grad) for task in bucket.tasks]
        self.states: list[Any] = [state.get(p) for p in self.parameters]
        self.whole = keeps_shapes(bucket.rule)
        shapes = {task.parameter.shape: {name: x.shape for name, x in task.arrays.items()} for task in bucket.tasks}
        self.layouts = shapes if self.whole else {(1,): dict.fromkeys(bucket.tasks[0].arrays, (1,))}
        self.columns = [_column(name, self.states) for name in self._names(bucket.tasks[0].master is not None)]
        self.kept = [x for column in self.columns for x in column.objects()]
        rule: type = bucket.rule
        self.settings = _Settings(rule, bucket.group)
        refusing = self.layouts if self.whole else ()
        self.steps = Ahead(bucket, standing, self.states, refusing, bucket.tasks[0].updated.dtype)
        bucket.tasks = []  # gradients live no longer than their owner wants

    def _names(self, master: bool) -> list[str]:
        """Return the names of the arrays that the states hold, each once."""
        names = dict.fromkeys(name for layout in self.layouts.values() for name in layout)
        return [*names, *(["master"] if master else [])]

    def looks(self, state: Mapping[Any, Any]) -> list[_Look]:
        """Return what finds the state of the parameters, and its arrays."""
        return [_Look(state.get, self.parameters), *self.columns]

    def settle(self) -> bool:
        """Tell whether the settings are those of the last step, or ask for one of the same kind."""
        return self.settings.stay() or self._can_change_settings()

    def counts_hold(self, terms: Callable[[], Terms]) -> bool:
        """Tell whether who counts steps is who did, and the states hold what the last step left behind."""
        if self.bucket.place != HOST and terms().on_gpu(self.bucket.group, self.bucket.place) != self.bucket.counted:
            return False
        return self._same_counters(terms) if self.bucket.counted else self.steps.hold()

    def _can_change_settings(self) -> bool:
        """Resolve the settings, and tell whether they ask for a step of the same kind."""
        bucket = self.bucket
        bucket.h = resolve(bucket.rule, unread(bucket.group) if bucket.counted else bucket.group)
        bucket.rule.check_step(bucket.h)
        self.steps.forget()
        same = all(self._keeps(shape, arrays) for shape, arrays in self.layouts.items())
        same = same and not bucket.rule.without_kernels(vars(bucket.h)) and not bucket.rule.takes_part(bucket.h)
        return same and self.settings.renew(bucket.group)

    def _keeps(self, shape: tuple[int, ...], arrays: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether the state arrays of a parameter of some shape still are those, each of its shape."""
        kept = layout(self.bucket.rule, self.bucket.h, shape)
        return {name: x.shape for name, x in kept.items()} == arrays

    def _same_counters(self, terms: Callable[[], Terms]) -> bool:
        counter: Any = self.bucket.counter
        stands = all(counter.stands_in(s or {}, self.bucket.rule.counts_steps) for s in self.states)
        return stands and all(x is counter for x in map(terms().counters.get, self.parameters))

    def look(self, scaling: Scaling) -> None:
        """Raise what is wrong with the scalars of a step that is to be skipped."""
        if not self.bucket.counted:
            self.steps.look(scaling.scale())


class _Look(NamedTuple):
    """A function that finds an object in each thing of a list."""

    function: Callable[[Any], Any]
    things: Sequence[Any]

    def objects(self) -> list[Any]:
        """Return the objects that are there now."""
        return [*map(self.function, self.things)]


class _Objects:
    """Objects by where they are found; functions written in C look and compare, however many there are."""

    def __init__(self, looks: Sequence[_Look]) -> None:
        self.looks = looks
        self.functions, self.things = zip(*looks, strict=True)
        self.look_again()

    def look_again(self) -> None:
        """Take note of what is there now."""
        self.found = [*chain.from_iterable(map(map, self.functions, self.things))]

    def forget(self) -> None:
        """Let nothing stay until somebody looks again: no object is the same as a new one."""
        self.found = [object()]

    def stay(self) -> bool:
        """Tell whether the same ones are found."""
        return all(map(is_, chain.from_iterable(map(map, self.functions, self.things)), self.found))


class _Settings(_Objects):
    """The settings of a group that a rule or an engine reads; those that can change inside never stay."""

    def __init__(self, rule: type, group: Group) -> None:
        names = dict.fromkeys((*declared(rule), *FLAGS))
        present, absent = ([name for name in names if (name in group) is there] for there in (True, False))
        super().__init__([_Look(group.__getitem__, present), _Look(group.get, absent)])
        self.flags = [group.get(name) for name in FLAGS]
        self.forget()

    def renew(self, group: Group) -> bool:
        """Take others, and tell whether they let the same engine run a step."""
        self.look_again()
        if not all(map(_is_constant, self.found)):
            self.forget()
        return [group.get(name) for name in FLAGS] == self.flags


def _column(name: str, states: Sequence[Any]) -> _Look:
    """Return what finds the arrays of a name in the states that hold one."""
    return _Look(itemgetter(name), [s for s in states if s and name in s])


def _is_constant(x: Any) -> bool:
    """Tell whether an object has one value for good."""
    return type(x) in CONSTANTS or (type(x) is tuple and all(type(y) in CONSTANTS for y in x))


def takes_dense_gradients(rule: type[Rule]) -> bool:
    """Tell whether a rule takes every dense gradient as it is, which is not asked again then."""
    return module_of(rule.accept).rpartition(".")[0] in (__package__, Rule.__module__.rpartition(".")[0])


_data, _master, _grad = map(attrgetter, ("data", "master", "grad"))

_left = attrgetter("steps.last.left")

_params = itemgetter("params")

_alive = ref.__call__
"""Returns what a weak reference refers to, None if that is gone."""

_GONE: ref[Any] = ref(Workspace())
"""Stands for the gradient of a parameter that had none."""
