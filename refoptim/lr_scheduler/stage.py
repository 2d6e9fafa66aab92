"""Where steps are tried: copies of an optimizer's groups, whose values it then gets all at once.

The learning rate of a group is a number, or an array of one element (NumPy's, CuPy's, or a torch tensor), which stays
that array: it is written in place, and computed with in its own dtype.
"""

from __future__ import annotations

from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from ..numerics.arith import Array
from ..step.changes import Change
from ..step.groups import Group
from ..step.hyper import number

LR = Any
"""A learning rate: a Python number, or a scalar of the dtype of the array that holds it."""

RATES = ("lr", "initial_lr")
"""What a group may hold as an array that is written in place."""


class Stage:
    """Stands in for an optimizer while something is tried: its groups are copies, all else is the optimizer's.

    Attributes:
        actual: the optimizer.
        groups: its groups themselves.
        param_groups: their copies.
        silent: whether nothing is to be printed.
        also: other changes to be made when the values of the copies are taken over.
    """

    def __init__(self, optimizer: Any, checked: bool = True) -> None:
        self.actual = optimizer
        self.groups: list[Group] = list(optimizer.groups if isinstance(optimizer, Stage) else optimizer.param_groups)
        if checked:
            for i, group in enumerate(optimizer.param_groups):
                check_lr(i, group)
        self._before = [dict(group) for group in optimizer.param_groups]
        self.param_groups: list[Group] = [copy_group(group) for group in optimizer.param_groups]
        self.silent = False
        self.also: list[Change] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.actual, name)

    def changes(self) -> list[Change]:
        """Return what gives the optimizer's groups the values of the copies, where they differ."""
        rows = zip(self.groups, self._before, self.param_groups, strict=True)
        return [*(change for row in rows for change in _changes(*row)), *self.also]


def _changes(group: Group, before: Group, tried: Group) -> list[Change]:
    values = {key: x for key, x in tried.items() if before.get(key, tried) is not x}
    held = [key for key in RATES if key in values and is_array(values[key]) and is_array(before.get(key))]
    writing = [_writing(before[key], values.pop(key)) for key in held]
    return [partial(dict.update, group, values), *writing]


def _writing(array: Any, value: Any) -> Change:
    """Return the call that copies one array to another of the same dtype."""
    return partial(array.detach().copy_, value) if is_tensor(array) else partial(setitem, array, ..., value)


def is_array(x: Any) -> bool:
    """Tell whether ``x`` is an array, not a NumPy scalar."""
    return type(x) is not float and hasattr(x, "shape") and not isinstance(x, np.generic)


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is an array with torch's methods."""
    return hasattr(x, "detach") and hasattr(x, "new_tensor")


def copy_group(group: Group) -> Group:
    """Copy a group; of its values only the arrays of learning rates are copied too."""
    copied = dict(group)
    for key in RATES:
        if is_array(group.get(key, 0.0)):
            copied[key] = _copy(group[key])
    return copied


def _copy(array: Any) -> Any:
    return array.detach().clone() if is_tensor(array) else array.copy()


def as_lr(group: Group, value: float) -> LR:
    """Return a number in the type that the group's learning rate computes in."""
    lr = group["lr"]
    if not is_array(lr):
        return value
    return lr.new_tensor(value) if is_tensor(lr) else lr.dtype.type(value)


def read_lr(group: Group, key: str = "lr") -> LR:
    """Return ``group[key]`` in the type that the group's learning rate computes in."""
    value = group[key]
    return as_lr(group, value if type(value) is float else number(key, value))


def write_lr(group: Group, value: LR | Array, key: str = "lr") -> None:
    """Set a learning rate of a group, in place if an array holds it."""
    if is_array(group.get(key)):
        group[key][...] = value
    else:
        group[key] = value


def check_lr(i: int, group: Group) -> None:
    """Raise unless the learning rate of a group is a number, or an array of one float that can be written to."""
    lr = group["lr"]
    if type(lr) is float:
        return
    number("lr", lr)
    if is_array(lr) and not (lr.is_floating_point() if is_tensor(lr) else np.dtype(lr.dtype).kind not in "iu"):
        raise TypeError(f"lr of param_groups[{i}] must hold a float to be scheduled, got dtype {lr.dtype}")
    if isinstance(lr, np.ndarray) and not lr.flags.writeable:
        raise ValueError(f"lr of param_groups[{i}] must be a writable array to be scheduled, got a read-only one")
