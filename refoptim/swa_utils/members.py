"""What a model is made of: named parameters and buffers.

A model is a tree, and names are its paths (``step/trees.py``). Integers count as buffers, whatever holds them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..numerics.arith import Array
from ..step.parameter import Parameter, array_again
from ..step.trees import check_tree, leaves
from .averages import array, same_kind
from .wide import behind


class Member(NamedTuple):
    """One array of a model: its name, what holds it (a Parameter, or the array as the model has it), and the array."""

    name: str
    holder: Any
    array: Array
    is_buffer: bool

    @property
    def exact(self) -> Array:
        """The weights: of a Parameter with a master copy that copy, where the array still is what it rounds to."""
        master = self.holder.master_copy() if isinstance(self.holder, Parameter) else None
        return self.array if master is None else behind(self.array, master)

    @property
    def identity(self) -> int:
        """Equal for two members that are one array."""
        return id(self.array if isinstance(self.holder, Parameter) else self.holder)


def members(model: Any) -> list[Member]:
    """Return the arrays of a model; raise TypeError for what is no model, ValueError if two of them have one name."""
    check_tree(model)
    found = [_member(name, holder, is_buffer) for name, holder, is_buffer in leaves(model)]
    names = [member.name for member in found]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of parameters and buffers must differ, got {names}")
    return found


def _member(name: str, holder: Any, is_buffer: bool) -> Member:
    x = array(name, holder.data if isinstance(holder, Parameter) else array_again(holder))
    if x.dtype.kind not in "biufcV":
        raise TypeError(f"{name} must hold numbers, got dtype {x.dtype}")
    return Member(name, holder, x, is_buffer or x.dtype.kind in "biu")


def matched(own: list[Member], given: list[Member]) -> list[tuple[Member, Member]]:
    """Pair the members of two models by name, an array that stands in both twice once; raise if they differ in kind."""
    named = {y.name: y for y in given}
    missing = [x.name for x in own if x.name not in named]
    if missing or len(named) > len(own):
        extra = sorted(set(named) - {x.name for x in own})
        raise ValueError(f"model must hold what the average began with: it lacks {missing} and has {extra} besides")
    pairs: dict[int, tuple[Member, Member]] = {}
    for x in own:
        y = named[x.name]
        same_kind(f"the average of {x.name}", x.array, x.name, y.array)
        first = pairs.setdefault(x.identity, (x, y))
        if first[1].identity != y.identity:
            raise ValueError(f"{x.name} must be the same array as {first[1].name}, as when the average began")
    return list(pairs.values())
