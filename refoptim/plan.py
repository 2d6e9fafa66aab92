"""Plans a step: everything is checked here, and nothing is written.

A plan is a list of buckets: parameters of one group and one dtype that are at the same step, so that the scalars of the
step are computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .arith import Array
from .groups import Group
from .parameter import Parameter, check_writable
from .rule import Hypers, Record, Rule, get_default_dtype, record, resolve, step_scalars
from .sparse import SparseGrad, as_sparse


class Task(NamedTuple):
    """One parameter of a step: its gradient and its state arrays as they will be kept."""

    parameter: Parameter
    grad: Any
    arrays: dict[str, Array]


@dataclass
class Bucket:
    """Tasks that share the scalars ``s`` of step ``k``; ``unmade`` says that their state is yet to be made."""

    rule: type[Rule]
    group: Group
    s: Record
    k: int
    registers: dict[str, Any]
    unmade: bool
    sparse: bool
    tasks: list[Task] = field(default_factory=list)


def make_plan(
    rule: type[Rule], groups: Sequence[Group], state: Mapping[Any, Any], grads: Iterable[Any] | None
) -> list[Bucket]:
    """Check everything and return the buckets of the next step; raise and change nothing if something is wrong."""
    owners = {id(owner(p.data)) for group in groups for p in group["params"]}
    buckets: list[Bucket] = []
    for i, (group, group_grads) in enumerate(zip(groups, gradients(groups, grads), strict=True)):
        plan = _GroupPlan(rule, i, group, owners)
        for j, (p, grad) in enumerate(zip(group["params"], group_grads, strict=True)):
            if grad is not None:
                plan.add(j, p, grad, state.get(p, {}))
        buckets += plan.buckets.values()
    return buckets


def gradients(groups: Sequence[Group], grads: Iterable[Any] | None) -> list[list[Any]]:
    """Return the gradients of all groups: those given, in the order of the parameters, or those the parameters hold."""
    if grads is None:
        return [[p.grad for p in group["params"]] for group in groups]
    if hasattr(grads, "__array__") or not isinstance(grads, Iterable):
        raise TypeError(f"grads must be an iterable of gradients, got {type(grads).__name__}")
    given = list(grads)
    expected = sum(len(group["params"]) for group in groups)
    if len(given) != expected:
        raise ValueError(f"grads must hold one gradient (or None) per parameter: {expected}, got {len(given)}")
    rest = iter(given)
    return [[next(rest) for _ in group["params"]] for group in groups]


def label(group: int, index: int, p: Parameter) -> str:
    """Name a parameter in a message."""
    return f"parameter {index} of group {group}" + (f" ({p.name})" if p.name else "")


def owner(x: Any) -> Any:
    """Return the object whose memory ``x`` looks at."""
    return x if getattr(x, "base", None) is None else x.base


class _GroupPlan:
    """The buckets of one group, filled parameter by parameter."""

    def __init__(self, rule: type[Rule], number: int, group: Group, owners: set[int]) -> None:
        self.rule, self.number, self.group, self.owners = rule, number, group, owners
        self.h = resolve(rule, group)
        self.first = rule.registers(self.h)
        self.buckets: dict[tuple[Any, ...], Bucket] = {}
        self.layouts: dict[tuple[int, ...], Layout] = {}

    def add(self, index: int, p: Parameter, grad: Any, state: dict[str, Any]) -> None:
        """Check one parameter and put it into the bucket it belongs to."""
        try:
            grad = self.rule.accept(self.h, checked_gradient(p, grad, self.owners))
            shape = p.data.shape
            if shape not in self.layouts:
                self.layouts[shape] = layout(self.rule, self.h, shape)
            arrays, unmade = state_arrays(self.layouts[shape], p.data, state)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{label(self.number, index, p)}: {error}") from None
        self._bucket(p, state, unmade, isinstance(grad, SparseGrad)).tasks.append(Task(p, grad, arrays))

    def _bucket(self, p: Parameter, state: dict[str, Any], unmade: bool, sparse: bool) -> Bucket:
        """Return the bucket of a parameter, made if it is the first one there."""
        k = state.get("step", 0) + 1
        registers = first_registers(self.first, state)
        key = (p.data.dtype, k, unmade, sparse, *registers.values())
        if key not in self.buckets:
            scalars = step_scalars(self.rule, self.h, k, registers) | {"sparse": sparse}
            after = self.rule.advance(self.h, k, registers)
            s = record(scalars, p.data.dtype)
            self.buckets[key] = Bucket(self.rule, self.group, s, k, after, unmade, sparse)
        return self.buckets[key]


def checked_gradient(p: Parameter, grad: Any, owners: set[int]) -> Any:
    """Return a gradient that fits its parameter and that writing to parameters does not change, or raise."""
    if not isinstance(p.data, np.ndarray):
        raise TypeError(f"the data must be a NumPy array, got {type(p.data).__name__}")
    check_writable(p.data)
    grad = _as_gradient(grad)
    if grad.shape != p.data.shape:
        raise ValueError(f"the gradient must have shape {p.shape}, got {grad.shape}")
    if grad.dtype != p.data.dtype:
        raise TypeError(f"the gradient must have dtype {p.dtype}, got {grad.dtype}")
    if id(owner(grad)) in owners:
        return grad.copy()
    return grad


def _as_gradient(grad: Any) -> Any:
    """Return a gradient as a NumPy array or a SparseGrad, or raise TypeError."""
    if isinstance(grad, np.ndarray):
        return grad
    sparse = as_sparse(grad)
    if sparse is not None:
        return sparse
    if not hasattr(grad, "__dlpack__") or isinstance(grad, np.generic):
        raise TypeError(f"the gradient must be an array, got {type(grad).__name__}")
    return np.from_dlpack(grad)


Layout: TypeAlias = "dict[str, tuple[tuple[int, ...], float | None]]"
"""The state arrays of a parameter: name, shape and first value."""


def layout(rule: type[Rule], h: Hypers, shape: tuple[int, ...]) -> Layout:
    """Return the state arrays of a parameter of ``shape``."""
    shapes = rule.shapes(shape)
    return {name: (shapes.get(name, shape), fill) for name, fill in rule.arrays(h, shape).items()}


def first_registers(values: Mapping[str, float], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers kept per parameter, those that do not exist yet at their first ``values``."""
    return {name: state.get(name, get_default_dtype().type(x)) for name, x in values.items()} if values else {}


def state_arrays(arrays: Layout, data: Array, state: Mapping[str, Any]) -> tuple[dict[str, Array], bool]:
    """Return the state arrays of a parameter, missing ones newly made, and whether one of those has no first value."""
    kept, unmade = {}, False
    for name, (shape, fill) in arrays.items():
        x = state.get(name)
        if x is None:
            x = filled(data, shape, fill or 0.0)
            unmade |= fill is None
        kept[name] = x
        if x.shape != shape or x.dtype != data.dtype:
            raise ValueError(
                f"the state {name} must have shape {shape} and dtype {data.dtype}, got {x.shape} and {x.dtype}"
            )
    return kept, unmade


def filled(like: Array, shape: tuple[int, ...], value: float) -> Array:
    """Make an array laid out like ``like``, every real of it ``value``."""
    of_shape: dict[str, Any] = {} if shape == like.shape else {"shape": shape}
    if not value:
        return np.zeros_like(like, **of_shape)
    return np.full_like(like, complex(value, value) if like.dtype.kind == "c" else value, **of_shape)
