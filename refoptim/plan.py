"""Plans a step: everything is checked here, and nothing is written.

A plan is a list of buckets: parameters of one group and one dtype that are at the same step, so that the scalars of the
step are computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arith import Array
from .groups import Group
from .parameter import Parameter, check_writable
from .rule import Hypers, Record, Rule, get_default_dtype, record, resolve, step_scalars
from .sparse import SparseGrad, as_sparse


@dataclass
class Task:
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


def label(group: int, index: int, p: Parameter) -> str:
    """Name a parameter in a message."""
    return f"parameter {index} of group {group}" + (f" ({p.name})" if p.name else "")


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


def make_plan(
    rule: type[Rule], groups: Sequence[Group], state: dict[Any, Any], grads: Iterable[Any] | None
) -> list[Bucket]:
    """Check everything and return the buckets of the next step; raise and change nothing if something is wrong."""
    buckets: dict[tuple[Any, ...], Bucket] = {}
    owners = {id(owner(p.data)) for group in groups for p in group["params"]}
    for i, (group, group_grads) in enumerate(zip(groups, gradients(groups, grads), strict=True)):
        h = resolve(rule, group)
        for j, (p, grad) in enumerate(zip(group["params"], group_grads, strict=True)):
            if grad is not None:
                where = label(i, j, p)
                grad = rule.accept(h, checked_gradient(where, p, grad, owners))
                _add(buckets, rule, i, group, h, p, grad, state.get(p, {}), where)
    return list(buckets.values())


def owner(x: Any) -> Any:
    """Return the object whose memory ``x`` looks at."""
    return x if getattr(x, "base", None) is None else x.base


def checked_gradient(where: str, p: Parameter, grad: Any, owners: set[int]) -> Any:
    """Return a gradient that fits its parameter and that writing to parameters does not change, or raise."""
    if not isinstance(p.data, np.ndarray):
        raise TypeError(f"{where} must be a NumPy array, got {type(p.data).__name__}")
    check_writable(p.data)
    sparse = as_sparse(grad)
    if sparse is None and not isinstance(grad, np.ndarray):
        if not hasattr(grad, "__dlpack__") or isinstance(grad, np.generic):
            raise TypeError(f"the gradient of {where} must be an array, got {type(grad).__name__}")
        grad = np.from_dlpack(grad)
    grad = grad if sparse is None else sparse
    if grad.shape != p.shape:
        raise ValueError(f"the gradient of {where} must have shape {p.shape}, got {grad.shape}")
    if grad.dtype != p.dtype:
        raise TypeError(f"the gradient of {where} must have dtype {p.dtype}, got {grad.dtype}")
    if sparse is None and id(owner(grad)) in owners:
        return grad.copy()
    return grad


def _add(
    buckets: dict[tuple[Any, ...], Bucket],
    rule: type[Rule],
    i: int,
    group: Group,
    h: Hypers,
    p: Parameter,
    grad: Any,
    state: dict[str, Any],
    where: str,
) -> None:
    """Put one parameter into the bucket it belongs to, which is made if it is the first."""
    k = state.get("step", 0) + 1
    registers = first_registers(rule, h, state)
    fills = rule.arrays(h, p.shape)
    unmade = any(fill is None and name not in state for name, fill in fills.items())
    sparse = isinstance(grad, SparseGrad)
    key = (i, p.dtype, k, *registers.values(), unmade, sparse)
    if key not in buckets:
        s = record(step_scalars(rule, h, k, registers) | {"sparse": sparse}, p.dtype)
        buckets[key] = Bucket(rule, group, s, k, rule.advance(h, k, registers), unmade, sparse)
    arrays = state_arrays(rule, fills, p, state, where)
    buckets[key].tasks.append(Task(p, grad, arrays))


def first_registers(rule: type[Rule], h: Hypers, state: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers kept per parameter, those that do not exist yet at their first values."""
    return {name: state.get(name, get_default_dtype().type(x)) for name, x in rule.registers(h).items()}


def state_arrays(
    rule: type[Rule], fills: dict[str, float | None], p: Parameter, state: dict[str, Any], where: str
) -> dict[str, Array]:
    """Return the state arrays of a parameter, those that do not exist yet newly made."""
    shapes = rule.shapes(p.shape)
    arrays = {}
    for name, fill in fills.items():
        shape = shapes.get(name, p.shape)
        arrays[name] = state[name] if name in state else filled(p.data, shape, fill or 0.0)
        if arrays[name].shape != shape or arrays[name].dtype != p.dtype:
            raise ValueError(
                f"the state {name} of {where} must have shape {shape} and dtype {p.dtype}, "
                f"got {arrays[name].shape} and {arrays[name].dtype}"
            )
    return arrays


def filled(like: Array, shape: tuple[int, ...], value: float) -> Array:
    """Make an array laid out like ``like``, every real of it ``value``."""
    of_shape: dict[str, Any] = {} if shape == like.shape else {"shape": shape}
    if not value:
        return np.zeros_like(like, **of_shape)
    return np.full_like(like, complex(value, value) if like.dtype.kind == "c" else value, **of_shape)
