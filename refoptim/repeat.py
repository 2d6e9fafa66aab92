"""Repeats a step without planning it anew, as long as the same objects stand where they stood.

A plan looks at every array of every parameter, which takes longer than a kernel needs to update small tensors. Here the
objects of the last step are compared with those that are there now, and only gradients that are new are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any
from weakref import ref

import numpy as np

from .engines.launches import Launch, Step
from .groups import Group
from .plan import Bucket, Memory, checked_gradient
from .rule import Rule, next_registers, record, resolve, step_scalars

FLAGS = ("fused", "differentiable", "capturable")
"""Settings that decide who runs a step."""


class Repeat:
    """The step after one that was planned.

    Args:
        rule: the rule.
        groups: the groups of the optimizer.
        state: its state after the step.
        plan: what the step consisted of.
        launches: the launches of its buckets, in order.
    """

    def __init__(
        self,
        rule: type[Rule],
        groups: Sequence[Group],
        state: Mapping[Any, Any],
        plan: Sequence[Bucket],
        launches: Sequence[Launch],
    ) -> None:
        self.rule = rule
        self.members = _members(groups)
        self.data = [p.data for p in self.members]
        self.memory = Memory(self.data)
        self.parts = [_Part(rule, state, bucket, launch) for bucket, launch in zip(plan, launches, strict=True)]
        self.writable = [x for x in self.data + [x for part in self.parts for x in part.kept] if _has_flag(x)]
        tasks = {id(task.parameter): (part, i) for part, b in zip(self.parts, plan) for i, task in enumerate(b.tasks)}
        self.places = [tasks.get(id(p)) for p in self.members]
        self.grads = [_nothing if place is None else place[0].grads[place[1]] for place in self.places]

    def holds(self, groups: Sequence[Group], state: Mapping[Any, Any], grads: Any) -> bool:
        """Tell whether everything is as it was but for the values, and take note of new gradients."""
        try:
            return self._same(groups, state) and self._take(grads)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
            return False

    def _same(self, groups: Sequence[Group], state: Mapping[Any, Any]) -> bool:
        members = _members(groups)
        return (
            len(members) == len(self.members)
            and all(map(is_, members, self.members))
            and all(map(is_, map(attrgetter("data"), members), self.data))
            and all(map(attrgetter("flags.writeable"), self.writable))
            and all(part.same(state) for part in self.parts)
        )

    def _take(self, grads: Any) -> bool:
        """Compare the gradients; tell whether those that are new can take the place of the old."""
        now = list(map(attrgetter("grad"), self.members)) if grads is None else grads
        if not isinstance(now, (list, tuple)) or len(now) != len(self.grads):
            return False
        old = [reference() for reference in self.grads]
        if all(map(is_, now, old)):
            return True
        moved = [i for i, (x, y) in enumerate(zip(now, old, strict=True)) if x is not y]
        if not all(self._fits(i, now[i]) for i in moved):
            return False
        for i in moved:
            part, number = self.places[i]  # type: ignore[misc]
            self.grads[i] = ref(now[i])
            part.launch.move_gradient(number, now[i])
        return True

    def _fits(self, i: int, grad: Any) -> bool:
        """Tell whether a new gradient is one piece of memory that the kernel can take as it is."""
        if grad is None or self.places[i] is None or not self.data[i].flags.c_contiguous:
            return False
        flags = getattr(grad, "flags", None)
        in_line = flags is not None and flags.c_contiguous and getattr(flags, "aligned", True)
        return in_line and checked_gradient(self.members[i], grad, self.memory) is grad

    def run(self, grad_scale: float | None) -> None:
        """Take the step; raise ValueError, and change nothing, if a setting has become wrong."""
        with np.errstate(all="ignore"):
            steps = [part.next(grad_scale) for part in self.parts]
        for part, (step, registers) in zip(self.parts, steps, strict=True):
            part.launch.run(step)
            part.commit(registers)


class _Part:
    """A bucket of the step, and its launch."""

    def __init__(self, rule: type[Rule], state: Mapping[Any, Any], bucket: Bucket, launch: Launch) -> None:
        self.rule, self.group, self.launch = rule, bucket.group, launch
        self.k, self.registers, self.dtype = bucket.k, bucket.registers, bucket.tasks[0].parameter.dtype
        self.flags = [bucket.group.get(name) for name in FLAGS]
        self.layout = self._layout()
        self.parameters = [task.parameter for task in bucket.tasks]
        self.grads = [ref(task.grad) for task in bucket.tasks]
        self.states = [state.get(p) for p in self.parameters]
        names = list(bucket.tasks[0].arrays) + (["master"] if bucket.tasks[0].master is not None else [])
        self.arrays = {name: [s[name] for s in self.states if s] for name in names}
        self.kept = [x for column in self.arrays.values() for x in column]

    def _layout(self) -> list[str]:
        return list(self.rule.arrays(resolve(self.rule, self.group), (1,)))

    def same(self, state: Mapping[Any, Any]) -> bool:
        """Tell whether the settings and the state are those that the last step left behind."""
        return (
            [self.group.get(name) for name in FLAGS] == self.flags
            and all(map(is_, map(state.get, self.parameters), self.states))
            and all(all(map(is_, map(itemgetter(name), self.states), column)) for name, column in self.arrays.items())
            and all(set(map(itemgetter(name), self.states)) == {x} for name, x in self._counts().items())
            and self._layout() == self.layout
        )

    def _counts(self) -> dict[str, Any]:
        return {**({"step": self.k} if self.rule.counts_steps else {}), **self.registers}

    def next(self, grad_scale: float | None) -> tuple[Step, dict[str, Any]]:
        """Return the scalars of the next step, and the registers after it."""
        h = resolve(self.rule, self.group)
        scalars = step_scalars(self.rule, h, self.k + 1, self.registers) | {"sparse": False, "grad_scale": grad_scale}
        registers = next_registers(self.rule, h, self.k + 1, self.registers)
        return Step(record(scalars, self.dtype), unmade=False), registers

    def commit(self, registers: dict[str, Any]) -> None:
        """Keep the step count and the registers."""
        self.k, self.registers = self.k + 1, registers
        kept = self._counts()
        for state in self.states if kept else ():
            state.update(kept)  # type: ignore[union-attr]


def _members(groups: Iterable[Group]) -> list[Any]:
    return list(chain.from_iterable(map(itemgetter("params"), groups)))


def _has_flag(x: Any) -> bool:
    return hasattr(x.flags, "writeable")


def _nothing() -> None:
    """Stand for the gradient of a parameter that had none."""
