"""The next steps of a bucket: what they need besides arrays, computed for several of them at once.

Arrays that a step goes through push Python's code out of the caches of a processor, so that the scalars of one step
take several times as long as those of the step after it, if they are computed together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, repeat
from operator import is_, itemgetter
from typing import Any, NamedTuple

import numpy as np

from ..engines.scalars import MOST, Compiled, Found
from ..engines.standing import Standing
from ..numerics.arith import DType
from ..step.changes import Change, for_all
from ..step.limits import check_constants
from ..step.plan import Bucket
from ..step.rule import Registers, is_steady, next_registers, step_scalars


class Coming(NamedTuple):
    """A step.

    Attributes:
        k: its number.
        registers: what they are after it.
        left: what it leaves behind in the states: the step count, if the rule has one, then the registers, each as
            often as there are states.
        changes: what writes these there, and scalars to where the kernel reads them.
        prepared: what ``Standing.take`` is to be given; None where the changes write it, or it is the last one.
    """

    k: int
    registers: Registers
    left: list[Any]
    changes: list[Change]
    prepared: Any = None


class Ahead:
    """The steps of a bucket, in their order.

    Args:
        bucket: what is updated, after a step.
        standing: what updates it again.
        states: those of its parameters.
        shapes: those of its parameters, if the rule may refuse numbers for one of them.
        dtype: the type of what is updated.

    Attributes:
        last: the step that was taken.
    """

    def __init__(
        self,
        bucket: Bucket,
        standing: Standing,
        states: Sequence[Any],
        shapes: Iterable[tuple[int, ...]],
        dtype: DType,
    ) -> None:
        self._bucket, self._standing, self._states = bucket, standing, states
        self._shapes, self._dtype = list(shapes), dtype
        self.last = self._coming_to(bucket.k, bucket.registers)
        names = [*(["step"] if bucket.rule.counts_steps else []), *bucket.registers]
        self.getters = [*map(itemgetter, names)]
        self._coming: deque[Coming] = deque()
        self._scale: float | None = math.nan
        self._is_steady: bool | None  # None until somebody has asked
        self._compiled: Compiled | None
        self.forget()

    def forget(self) -> None:
        """Drop the steps that were computed ahead, since settings have changed; the next one stays the next."""
        self._coming.clear()
        self._at_once, self._is_steady, self._compiled, self._has_asked = 1, None, None, False

    def hold(self) -> bool:
        """Tell whether all states hold what the last step left behind: the same objects, not only equal numbers."""
        return all(map(is_, chain.from_iterable(map(map, self.getters, repeat(self._states))), self.last.left))

    def take(self, scale: float | None) -> list[Change]:
        """Go on to the next step, whose gradients are divided by ``scale``, and return what writes its counts down.

        Raises:
            RuntimeError, ValueError: it has no scalars, or one is too large.
        """
        if scale != self._scale or not self._coming:
            self.look(scale)
            if not self._coming:
                return []  # the last step stands for all
        self.last = step = self._coming.popleft()
        if step.prepared is not None:
            self._standing.take(self._bucket, step.prepared)
        return step.changes

    def look(self, scale: float | None) -> None:
        """See that there is a next step, and raise what ``take`` would."""
        if scale != self._scale:
            self.forget()
            self._scale = scale
        if not self._coming and (self.last.left or not self._is_steady):
            self._compute()

    @np.errstate(all="ignore")
    def _compute(self) -> None:
        """Compute the next step and those after it: one, two, four, up to ``MOST``, as long as no setting changes."""
        self._coming.extend(self._after(self.last))
        while len(self._coming) < self._at_once:
            more = self._after_if_any(self._coming[-1])
            if not more:
                break
            self._coming.extend(more)
        self._at_once = min(2 * self._at_once, MOST)

    def _after_if_any(self, last: Coming) -> list[Coming]:
        """Compute steps after one; none if the first has no scalars, which it is to say when it is its turn."""
        try:
            return self._after(last)
        except Exception:
            if self._is_refused(last):
                return []
            raise  # it came from a signal handler

    def _is_refused(self, last: Coming) -> bool:
        try:
            self._after(last)
        except Exception:
            return True
        return False

    def _after(self, last: Coming) -> list[Coming]:
        """Compute steps after one, at least one; where nobody counts, all are of the same number, as in a plan."""
        k, missing = last.k + self._bucket.rule.counts_steps, self._at_once - len(self._coming)
        if self._is_steady:
            return [self._coming_to(k + i, last.registers) for i in range(missing)]
        found = self._compiled.after(k, last.registers, missing) if self._compiled else []
        return [self._coming_to(k + i, *step) for i, step in enumerate(found)] or [self._by_rule(k, last)]

    def _by_rule(self, k: int, last: Coming) -> Coming:
        bucket = self._bucket
        registers = next_registers(bucket.rule, bucket.h, k, last.registers)
        prepared = self._prepared(k, last.registers)
        if self._at_once > 1 and not (self._has_asked or self._is_steady or self._shapes):
            self._ask_for_compiled(k, last.registers, (registers, prepared))
        return self._coming_to(k, registers, prepared)

    def _ask_for_compiled(self, k: int, before: Registers, found: Found) -> None:
        """Let a kernel compute the steps to come, if of this one it finds what the rule found, to the bit."""
        self._has_asked = True
        compiled = self._standing.compiled(self._bucket, before, self._scale)
        if compiled and repr(compiled.after(k, before, 1)) == repr([found]):
            self._compiled = compiled

    def _prepared(self, k: int, registers: Registers) -> Any:
        bucket = self._bucket
        scalars = step_scalars(bucket.rule, bucket.h, k, registers, sparse=False, grad_scale=self._scale)
        prepared = self._standing.prepared(bucket, scalars)
        for shape in self._shapes:
            check_constants(bucket.rule, bucket.h, prepared, shape, self._dtype)
        if self._is_steady is None:
            self._is_steady = not registers and is_steady(bucket.rule, bucket.h)
        return prepared

    def _coming_to(self, k: int, registers: Registers, prepared: Any = None) -> Coming:
        counts = {"step": k, **registers} if self._bucket.rule.counts_steps else registers
        left = [*chain.from_iterable(map(repeat, counts.values(), repeat(len(self._states))))]
        changes, write = [for_all(dict.update, self._states, repeat(counts))] if counts else [], self._standing.write
        if write is None or prepared is None:
            return Coming(k, registers, left, changes, prepared)
        return Coming(k, registers, left, [partial(write, prepared), *changes])
