"""What a rank holds of the parameters: a shard of each, empty ones included, which look at the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, DType, as_reals, storage
from ..numerics.array_types import place, plain
from ..optimizers.closure import ClosureOptimizer
from ..step.groups import Group
from ..step.parameter import Parameter
from ..step.plan import label
from ..step.rule import Rule, needs_whole
from . import layout
from .layout import Range, Ranges


class Kind(NamedTuple):
    """How a rule's parameters are divided: as "elements", by "owners", or as one "flat" vector."""

    name: str

    @classmethod
    def of(cls, rule: type[Rule], cautious: bool = False) -> Kind:
        """Return how those of a rule are, of which cautious steps need whole ones."""
        if issubclass(rule, ClosureOptimizer):
            return cls("flat")
        return cls("owners" if cautious or needs_whole(rule) else "elements")

    def ranges(self, params: Sequence[Parameter], loads: Sequence[int]) -> Ranges:
        """Return who holds what of the parameters of a group; ``loads`` are the bytes that ranks hold already."""
        sizes = [reals(p) for p in params]
        if self.name == "flat":
            return layout.flat(sizes, len(loads))
        if self.name == "owners":
            return layout.owners(sizes, [p.data.nbytes for p in params], loads)
        return layout.elements(sizes, [(p.dtype.name, p.master) for p in params], len(loads))

    def shard(self, p: Parameter, held: Range) -> Parameter:
        """Return the Parameter that a rank updates in the place of a whole one."""
        return Parameter(self.view(p, held), name=p.name, master=p.master)

    def view(self, p: Parameter, held: Range) -> Array:
        """Return what a rank holds of the array of a parameter."""
        data = plain(p.data)
        if self.name == "owners":
            return data if held[1] else data.reshape(-1)[:0].reshape((0,) * max(1, data.ndim))
        vector = vector_of(data)[held[0] : held[1]]
        return vector if self.name == "flat" else of_reals(vector, data.dtype)


def reals(p: Parameter) -> int:
    """Return the number of reals of a parameter."""
    return int(p.data.size) * (2 if p.dtype.kind == "c" else 1)


def vector_of(x: Array) -> Array:
    """Return an array as a vector of reals in one piece of memory: a view where it is C-contiguous, else a copy."""
    x = plain(x)
    return as_reals(x if x.flags.c_contiguous else x.copy(order="C")).reshape(-1)


def of_reals(x: Array, dtype: DType) -> Array:
    """Return a vector of reals as one of a dtype, perhaps a complex one."""
    return x.view(dtype) if dtype.kind == "c" else x


def per_element(dtype: DType) -> int:
    """Return the number of reals of an element."""
    return 2 if dtype.kind == "c" else 1


def check(i: int, group: Group, where: Any) -> None:
    """Raise ValueError unless the parameters of a group lie in one piece of memory each, and all in one place."""
    for j, p in enumerate(group["params"]):
        name = label(i, j, p, group.get("param_names", ()))
        if not p.data.flags.c_contiguous:
            raise ValueError(
                f"{name}: what is sharded must be C-contiguous, got shape {p.shape} and strides {p.data.strides}: "
                "make it numpy.ascontiguousarray(x), or optimize its transpose"
            )
        if place(p.data) != where:
            raise ValueError(f"{name}: all parameters of a rank must lie in one place, got {place(p.data)} and {where}")


def dtype_of_sum(p: Parameter, grad: DType) -> DType:
    """Return the dtype of the reals of a sum of gradients: with a master copy float32, else that of the parameter."""
    return np.dtype(np.float32) if p.master else storage(grad)
