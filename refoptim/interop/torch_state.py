"""The state of an inner optimizer as torch sees it: tensors that share memory with its arrays, and its numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import chain
from operator import is_, itemgetter, setitem
from typing import Any, TypeAlias

import numpy as np
import torch

from ..numerics.arith import Array
from ..numerics.array_types import is_array
from ..optimizers.base import Optimizer
from ..optimizers.closure import ClosureOptimizer
from ..optimizers.sparse_adam import SparseAdam
from ..step.changes import Change

Entry: TypeAlias = dict[str, Any]
"""What is kept of one parameter, or the settings of one group, by name."""

LAST_EXACT = 1 << 24
"""float32, in which torch counts steps, holds every integer up to this one."""


class Column:
    """A number of each of some parameters, a step count or a register, as tensors without axes that share one array.

    Attributes:
        kept: the states of those parameters in the inner optimizer.
        numbers: the array.
        shown: a copy of it, by which is seen whether others have written into the tensors.
    """

    def __init__(self, kept: Sequence[Entry], numbers: Array) -> None:
        self.kept, self.numbers, self.shown = kept, numbers, numbers.copy()
        self.tensors = torch.from_numpy(numbers).unbind()

    def is_of(self, kept: Sequence[Entry], numbers: Array) -> bool:
        """Tell whether this column is that of some states, and can hold such numbers."""
        same = len(kept) == len(self.kept) and all(map(is_, kept, self.kept))
        return same and self.numbers.dtype == numbers.dtype

    def showing(self, numbers: Array) -> list[Change]:
        """Return what puts other numbers there."""
        return [partial(setitem, x, ..., numbers) for x in (self.numbers, self.shown)]

    def is_untouched(self) -> bool:
        """Tell whether the numbers are those that were put there."""
        return np.array_equal(self.numbers, self.shown)


class Board:
    """The tensors of an optimizer of torch, the Parameters made of them, and the state that was shown last.

    Attributes:
        shown: the state as a whole, a shallow copy.
        entries: the state of each tensor, None where there is none.
        values: what the entries hold, one after the other.
        columns: step counts and registers by their names.
        arrays: the arrays of the state and their tensors, by the identities of the arrays.
        repeat: what repeats the step after which the state was shown; if it did so, only numbers have changed.
        sharded: whether some tensors are shards of tensors.
    """

    def __init__(self, groups: Sequence[Entry], own: Sequence[Entry]) -> None:
        self.tensors, self.parameters = members(groups), members(own)
        self.sizes = [len(group["params"]) for group in groups]
        self.sharded = any(isinstance(x, sharded_type()) for x in self.tensors)
        self.shown: dict[Any, Any] = {}
        self.entries: list[Entry | None] = [None] * len(self.tensors)
        self.values: list[Any] = []
        self.columns: dict[str, Column] = {}
        self.arrays: dict[int, tuple[Array, Any]] = {}
        self.repeat: Any = None

    def pairs(self) -> Iterable[tuple[Any, Any]]:
        """Return the tensors, each with its Parameter."""
        return zip(self.tensors, self.parameters, strict=True)

    def is_of(self, groups: Sequence[Entry]) -> bool:
        """Tell whether the tensors are those of groups, and the Parameters look at the shards that are there."""
        tensors = members(groups)
        same = [len(group["params"]) for group in groups] == self.sizes and all(map(is_, tensors, self.tensors))
        return same and not (self.sharded and any(local(x) is not p.source for x, p in self.pairs()))

    def is_untouched(self, state: Mapping[Any, Any]) -> bool:
        """Tell whether a state is the one that was shown."""
        if len(state) != len(self.shown) or not all(map(is_, state, self.shown)):
            return False
        if not all(map(is_, state.values(), self.shown.values())):
            return False
        values = held(self.entries)
        same = len(values) == len(self.values) and all(map(is_, values, self.values))
        return same and all(column.is_untouched() for column in self.columns.values())

    def showing(self, inner: Optimizer, state: MutableMapping[Any, Any]) -> list[Change]:
        """Return what makes a state of torch's that of the inner optimizer."""
        if inner._repeat is not None and inner._repeat is self.repeat:
            numbers = {name: numbers_of(name, column.kept) for name, column in self.columns.items()}
            if all(column.is_of(column.kept, numbers[name]) for name, column in self.columns.items()):
                return [change for name, x in numbers.items() for change in self.columns[name].showing(x)]
        return self._showing_all(inner, state)

    def _showing_all(self, inner: Optimizer, state: MutableMapping[Any, Any]) -> list[Change]:
        kept = [inner.state.get(p) or {} for p in self.parameters]
        columns, changes = self._numbered(kept if counts_in_tensors(type(inner)) else [])
        numbers = {name: iter(column.tensors) for name, column in columns.items()}
        shown = _Shown(self.arrays, numbers)
        entries: list[Entry | None] = []
        for x, each in zip(self.tensors, kept, strict=True):
            entry, more = _entry(state, x, {name: shown.value(name, y, x) for name, y in each.items()})
            entries.append(entry)
            changes += more
        fields = {"entries": entries, "columns": columns, "arrays": shown.arrays, "repeat": inner._repeat}
        noted = [partial(self.shown.clear), partial(self.shown.update, state)]
        return [*changes, *noted, partial(vars(self).update, {**fields, "values": shown.values})]

    def _numbered(self, kept: Sequence[Entry]) -> tuple[dict[str, Column], list[Change]]:
        """Return the columns of some states, those that there are where they fit, and what fills these."""
        columns: dict[str, Column] = {}
        changes: list[Change] = []
        for name in {name: None for each in kept for name, x in each.items() if is_number(x)}:
            those = [each for each in kept if is_number(each.get(name))]
            numbers, column = numbers_of(name, those), self.columns.get(name)
            if column is not None and column.is_of(those, numbers):
                changes += column.showing(numbers)
            else:
                column = Column(those, numbers)
            columns[name] = column
        return columns, changes


class _Shown:
    """Makes what torch sees of values, with the tensors that there are already."""

    def __init__(self, before: Mapping[int, tuple[Array, Any]], numbers: Mapping[str, Iterator[Any]]) -> None:
        self.before, self.numbers = before, numbers
        self.arrays: dict[int, tuple[Array, Any]] = {}
        self.values: list[Any] = []

    def value(self, name: str, x: Any, like: Any) -> Any:
        """Return what torch sees of a value in the state of a tensor."""
        found = next(self.numbers[name]) if name in self.numbers and is_number(x) else self._value(x, like)
        self.values.append(found)
        return found

    def _value(self, x: Any, like: Any) -> Any:
        if isinstance(x, list):
            return [self._value(y, like) for y in x]
        if not is_array(x):
            return torch.from_numpy(np.array(x)) if isinstance(x, np.generic) else x
        array, tensor = self.before.get(id(x), (None, None))
        if array is not x:
            tensor = sharded_as(like, tensor_of(x))
        self.arrays[id(x)] = x, tensor
        return tensor


def _entry(state: MutableMapping[Any, Any], x: Any, values: Entry) -> tuple[Entry | None, list[Change]]:
    """Return the entry of a state that holds some values, the one that is there if there is one, and what fills it."""
    entry = state.get(x)
    if not values:
        return None, [partial(state.pop, x, None)] if entry is not None else []
    if not isinstance(entry, dict):
        return values, [partial(setitem, state, x, values)]
    if list(entry) == list(values) and all(map(is_, entry.values(), values.values())):
        return entry, []
    return entry, [partial(entry.clear), partial(entry.update, values)]


def members(groups: Iterable[Entry]) -> list[Any]:
    """Return the parameters of groups."""
    return list(chain.from_iterable(group["params"] for group in groups))


def held(entries: Iterable[Entry | None]) -> list[Any]:
    """Return what entries hold, one after the other."""
    return list(chain.from_iterable(map(dict.values, filter(None, entries))))


def is_number(x: Any) -> bool:
    """Tell whether a value of a state is a step count or a register, kept on the host."""
    return isinstance(x, (int, np.floating))


def numbers_of(name: str, kept: Sequence[Entry]) -> Array:
    """Return a number of each of some states as one array: step counts in float32, as torch counts, while it can."""
    numbers = list(map(itemgetter(name), kept))
    counted = isinstance(numbers[0], int)
    return np.array(numbers, count_type(max(numbers)) if counted else np.result_type(*{x.dtype for x in numbers}))


def count_type(k: int) -> type[np.floating[Any]]:
    """Return the type in which torch is shown a step count."""
    return np.float32 if k <= LAST_EXACT else np.float64


def counts_in_tensors(rule: type) -> bool:
    """Tell whether torch's optimizer of the name of a rule keeps its counts in tensors."""
    return not issubclass(rule, (ClosureOptimizer, SparseAdam))


def number_tensor(k: int) -> torch.Tensor:
    """Return a step count as a tensor."""
    return torch.from_numpy(np.array(k, count_type(k)))


def tensor_of(x: Any) -> Any:
    """Return the tensor that shares the memory of an array."""
    if not isinstance(x, np.ndarray):
        return torch.utils.dlpack.from_dlpack(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def sharded_type() -> Any:
    """Return torch's type of sharded tensors, nothing where it is not loaded, so that there are none."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())


def local(x: Any) -> Any:
    """Return the shard of a sharded tensor that lies here, and anything else as it is."""
    if not isinstance(x, sharded_type()):
        return x
    with torch.no_grad():
        return x.to_local()


def sharded_as(like: Any, x: Any) -> Any:
    """Return an array of the state of a sharded tensor, of the same shape as the shard, sharded like that."""
    kind = sharded_type()
    if not isinstance(like, kind):
        return x
    return kind.from_local(
        x, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
