"""Arrays of models that look at the same memory: what is to be written into them must agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..formats.raw import words
from ..numerics.arith import Array
from ..numerics.array_types import bounds
from ..step.parameter import overlaps_itself


class Written(NamedTuple):
    """An array of a model, its name, and what is to be written into it: a NumPy array of the same shape and dtype."""

    name: str
    array: Array
    new: Array


def check_agreement(written: Sequence[Written]) -> None:
    """Raise ValueError if arrays share memory, and what is to be written into that differs, bit by bit.

    Tied weights, views of one buffer and transposed views agree with themselves. Of those that are no tied weights the
    memory is made once more, to try it.
    """
    for group in _meeting(written):
        different = _without_ties(group)
        if len(different) > 1 or overlaps_itself(different[0].array):
            _try(different)


def _meeting(written: Sequence[Written]) -> Iterator[list[Written]]:
    """Yield groups of arrays whose bounds overlap, within the groups in the order given."""
    group: list[int] = []
    reached = 0
    spans = sorted((*bounds(x.array), i) for i, x in enumerate(written) if x.array.size)
    for low, high, i in chain(spans, [(reached + (1 << 70), 0, 0)]):
        if group and low >= reached:
            yield [written[j] for j in sorted(group)]
            group, reached = [], 0
        group.append(i)
        reached = max(reached, high)


def _without_ties(group: Sequence[Written]) -> list[Written]:
    """Return the arrays of a group, those once that are the same elements in the same order."""
    found: dict[object, Written] = {}
    for x in group:
        first = found.setdefault((_address(x.array), x.array.shape, x.array.strides, x.array.dtype), x)
        if not _equal(first.new, x.new):
            raise ValueError(f"{first.name} and {x.name} are one array, and differ in what was saved")
    return list(found.values())


def _equal(x: Array, y: Array) -> bool:
    """Tell whether two arrays of one shape and dtype hold the same bits."""
    return x is y or bool(np.array_equal(words(x), words(y)))


def _try(group: Sequence[Written]) -> None:
    """Write everything into memory that lies as that of the arrays does, and read it again."""
    reaches = [bounds(x.array) for x in group]
    low = min(begin for begin, _ in reaches)
    memory = np.zeros(max(end for _, end in reaches) - low, np.uint8)
    tried = [(_view(memory, x.array, low), x) for x in group]
    for view, x in tried:
        view[...] = x.new
    for view, x in tried:
        if not _equal(view, x.new):
            others = (y.name for other, y in tried if y is not x and not _lasts(view, x, other, y))
            raise ValueError(f"{x.name} shares memory with {next(others, 'itself')}, and they differ in what was saved")


def _lasts(view: Array, x: Written, other: Array, y: Written) -> bool:
    """Tell whether what is written into one view is still there when another one has been written to."""
    view[...] = x.new
    other[...] = y.new
    return _equal(view, x.new)


def _view(memory: Array, x: Array, low: int) -> Array:
    return np.ndarray(x.shape, x.dtype, memory, _address(x) - low, x.strides)


def _address(x: Array) -> int:
    """Return where the first element of an array lies."""
    return int(x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x.data.ptr)
