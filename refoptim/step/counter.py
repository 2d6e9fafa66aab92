"""Step counts that live on a GPU, for steps that a graph repeats or that the GPU itself may skip."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..numerics.arith import DType
from ..numerics.array_types import Place, copied, moved
from .changes import Change
from .rule import Registers, Rule, register_dtype


class Counter:
    """The number of the last step of some parameters, and their registers after it.

    Args:
        values: a float64 array on the GPU: the number of the step, then the registers.
        names: the names of the registers.
        dtype: what these have on the host.

    Attributes:
        views: what the state of each of the parameters holds: ``step`` and the registers, as arrays on the GPU.
        record: the scalars of the last step, on the GPU; None before the first.
        sharers: how many parameters count by this.
    """

    def __init__(self, values: Any, names: tuple[str, ...], dtype: DType) -> None:
        self.values, self.names, self.dtype = values, names, dtype
        self.views = {name: values[i] for i, name in enumerate(("step", *names))}
        self.record: Any = None
        self.sharers = 0

    @classmethod
    def start(cls, rule: type[Rule], k: int, registers: Registers, where: Place) -> Counter:
        """Return a counter of a rule at a place that stands at step ``k``."""
        values = moved(np.array([k, *registers.values()], np.float64), where)
        return cls(values, tuple(registers), register_dtype(rule))

    def split(self) -> Counter:
        """Return a counter that stands where this one does, for some of its parameters."""
        return Counter(copied(self.values), self.names, self.dtype)

    def read(self) -> dict[str, Any]:
        """Return the step count and the registers as a state has them on the host; this waits for the GPU."""
        k, *registers = moved(self.values, None).tolist()
        return {"step": int(k), **{name: self.dtype.type(x) for name, x in zip(self.names, registers, strict=True)}}

    def stands_in(self, state: Mapping[str, Any], counts_steps: bool) -> bool:
        """Tell whether a state holds what this counter counts; a rule that counts no steps has state all the same."""
        names = (*(["step"] if counts_steps else []), *self.names)
        return all(state.get(name) is self.views[name] for name in names)

    def is_ahead_of(self, state: Mapping[str, Any], counts_steps: bool) -> bool:
        """Tell whether a GPU has skipped all steps of a rule that counts none, whose state says that there was one."""
        return not counts_steps and self.stands_in(state, counts_steps) and not self.read()["step"]


def recounted(
    counters: Mapping[Any, Counter], stepped: Iterable[tuple[Any, Counter | None]]
) -> tuple[MutableMapping[Any, Counter], list[Change]]:
    """Return the counters of parameters after some of them were counted by others, or by none.

    What makes the counters know how many share them is returned too.
    """
    now: MutableMapping[Any, Counter] = WeakKeyDictionary(counters)
    for parameter, counter in stepped:
        if counter is None:
            now.pop(parameter, None)
        else:
            now[parameter] = counter
    sharers = Count(now.values())
    return now, [partial(setattr, counter, "sharers", n) for counter, n in sharers.items()]
