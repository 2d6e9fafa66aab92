"""Plans a step: everything is checked here, and nothing is written.

A plan is a list of buckets: parameters of one group, dtype, library and device that are at the same step, so that the
scalars of the step are computed once for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from reprlib import repr as short
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..numerics import array_types as types
from ..numerics.arith import Array, DType, storage
from ..numerics.array_types import HOST, Place, copied, place
from ..numerics.codes import CODE, SINGLE, Code, parts_of
from ..numerics.followed import Followed, rounded
from .counter import Counter
from .estimates import about_estimates
from .groups import Group, check_once
from .limits import check_constants, check_number, fitting
from .parameter import Parameter, array_again, as_gradient, check_no_overlap, check_writable
from .rule import (
    Hypers,
    Record,
    Rule,
    is_measured,
    next_registers,
    register_dtype,
    resolve,
    rule_of,
    step_scalars,
    unread,
)
from .scaling import Scaling
from .sparse import SparseGrad
from .state_dict import register, step_count


class Task(NamedTuple):
    """One parameter of a step: its gradient, its state arrays as they will be kept, its master copy if it has one.

    ``estimate`` is an array like ``updated``, which is only read; None where the step has none.
    """

    parameter: Parameter
    grad: Any
    arrays: dict[str, Array]
    master: Array | None = None
    estimate: Array | None = None

    @property
    def updated(self) -> Array:
        """The array that the rule updates: the master copy, or the parameter itself."""
        return self.parameter.data if self.master is None else self.master

    @property
    def kept(self) -> dict[str, Array]:
        """The arrays that the state of the parameter holds."""
        return self.arrays if self.master is None else {**self.arrays, "master": self.master}


@dataclass
class Bucket:
    """Tasks at one place that share the scalars ``s`` of step ``k``; ``unmade`` names the state that is yet to be made.

    If a GPU counts the steps (``counted``), it does so by ``counter`` (None: by one yet to be made, which begins after
    step ``k``), and computes the scalars too: ``s`` is None.
    """

    rule: type[Rule]
    group: Group
    h: Hypers
    s: Record | None
    k: int
    registers: dict[str, Any]
    unmade: frozenset[str]
    sparse: bool
    place: Place
    scaling: Scaling
    estimated: bool = False
    counted: bool = False
    counter: Counter | None = None
    tasks: list[Task] = field(default_factory=list)


class Terms(NamedTuple):
    """What a step is taken under, besides settings, state and gradients.

    ``counters`` are those of the parameters whose steps a GPU counts; ``on_gpu`` tells whether one is to count those of
    a group at a place. ``estimates`` are given beside the gradients, None without any. ``shared`` is the state of a
    parameter that holds the registers which all share; None where each has its own.
    """

    scaling: Scaling
    counters: Mapping[Parameter, Counter]
    on_gpu: Callable[[Group, Place], bool]
    estimates: Sequence[Any] | None = None
    shared: Mapping[str, Any] | None = None


def make_plan(
    rule: type[Rule], groups: Sequence[Group], state: Mapping[Any, Any], grads: Sequence[Any] | None, terms: Terms
) -> list[Bucket]:
    """Check everything and return the buckets of the next step; raise and change nothing if something is wrong."""
    params = parameters(groups)
    plan = _buckets(rule, groups, state, gradients(groups, grads), Memory([p.data for p in params]), terms)
    _check_apart(params, plan)
    return plan


def parameters(groups: Sequence[Group]) -> list[Parameter]:
    """Return the parameters of all groups; raise TypeError for what is none, ValueError for one that stands twice."""
    for i, group in enumerate(groups):
        if not isinstance(group, dict) or not isinstance(group.get("params"), (list, tuple)):
            raise TypeError(f"param_groups[{i}] must be a dict with a list 'params', got {short(group)}")
        for j, p in enumerate(group["params"]):
            if not isinstance(p, Parameter):
                raise TypeError(
                    f"parameter {j} of group {i} must be a Parameter, got {type(p).__name__}: "
                    "add_param_group makes Parameters of arrays"
                )
            if type(p) is not Parameter:
                _look(label(i, j, p, group.get("param_names", ())), p)
    check_once(groups)
    return [p for group in groups for p in group["params"]]


def _look(where: str, p: Parameter) -> None:
    """Look whether a Parameter of another library's array still has the data that it had; what is wrong says where."""
    try:
        _ = p.data
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


@np.errstate(all="ignore")
def _buckets(
    rule: type[Rule],
    groups: Sequence[Group],
    state: Mapping[Any, Any],
    grads: list[list[Any]],
    memory: Memory,
    terms: Terms,
) -> list[Bucket]:
    buckets: list[Bucket] = []
    estimates = _estimates(groups, terms)
    plans = [_GroupPlan(rule, i, group, memory, terms) for i, group in enumerate(groups)]
    rule.check_groups([plan.h for plan in plans])
    for i, (group, group_grads, plan) in enumerate(zip(groups, grads, plans, strict=True)):
        for j, (p, grad, estimate) in enumerate(zip(group["params"], group_grads, estimates[i], strict=True)):
            if grad is not None:
                plan.add(j, p, grad, state.get(p, {}), estimate)
        buckets += plan.buckets.values()
    return buckets


def _estimates(groups: Sequence[Group], terms: Terms) -> list[list[Any]]:
    """Return the estimates of all groups, None where there are none."""
    if terms.estimates is None:
        return [[None] * len(group["params"]) for group in groups]
    with about_estimates():
        return gradients(groups, terms.estimates)


def _check_apart(params: Sequence[Parameter], plan: Sequence[Bucket]) -> None:
    """Raise ValueError if arrays that are written share memory: what they come to would depend on the order."""
    tasks = [task for bucket in plan for task in bucket.tasks]
    kept = [x for task in tasks for x in (*task.arrays.values(), task.master) if x is not None]
    arrays = [*(p.data for p in params), *kept]
    pair = types.sharing(arrays)
    if pair is None:
        return
    names = [p.name or f"parameter {i}" for i, p in enumerate(params)]
    number = {id(p): name for p, name in zip(params, names, strict=True)}
    names += [
        f"the state {name} of {number[id(task.parameter)]}"
        for task in tasks
        for name, x in (*task.arrays.items(), ("master", task.master))
        if x is not None
    ]
    raise ValueError(f"parameters and state must not share memory, but {names[pair[0]]} and {names[pair[1]]} do")


def gradients(groups: Sequence[Group], grads: Sequence[Any] | None) -> list[list[Any]]:
    """Return the gradients of all groups: those given, in the order of the parameters, or those the parameters hold."""
    if grads is None:
        return [[p.grad for p in group["params"]] for group in groups]
    expected = sum(len(group["params"]) for group in groups)
    if len(grads) != expected:
        raise ValueError(f"grads must hold one gradient (or None) per parameter: {expected}, got {len(grads)}")
    rest = iter(grads)
    return [[next(rest) for _ in group["params"]] for group in groups]


def label(group: int, index: int, p: Parameter, names: Sequence[str] = ()) -> str:
    """Name a parameter in a message; ``names`` are those of its group."""
    name = p.name or (names[index] if index < len(names) else "")
    return f"parameter {index} of group {group}" + (f" ({name})" if name else "")


class Memory:
    """The memory of some arrays: ``x in memory`` tells whether writing to them can change ``x``."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = [x for x in arrays if place(x) is not None]
        owners = [types.owner(x) for x in self.arrays]
        self.owners = {id(x) for x in owners}
        self.foreign = not all(map(types.is_its_own, owners))

    def __contains__(self, x: Any) -> bool:
        if isinstance(x, SparseGrad):
            return x.values in self or x.indices in self
        source = types.owner(x)
        if self.foreign or not types.is_its_own(source):
            return self._spans(x)
        return id(source) in self.owners

    def _spans(self, x: Array) -> bool:
        """Compare addresses: memory that NumPy did not allocate may have several owners."""
        low, high = types.bounds(x)
        starts, reach = self.bounds
        before = bisect_left(starts, high)
        return before > 0 and reach[before - 1] > low

    @cached_property
    def bounds(self) -> tuple[list[int], list[int]]:
        """The first addresses of the arrays, in order, and how far they and those before them reach."""
        spans = sorted(types.bounds(x) for x in self.arrays)
        return [low for low, _ in spans], list(accumulate((high for _, high in spans), max))


def settled(rule: type[Rule], group: Group, terms: Terms) -> Hypers:
    """Return the resolved hyperparameters of a step of a group, or raise.

    A learning rate that only a GPU needs is not read.
    """
    unneeded = types.on_gpu(group.get("lr")) and all(
        p in terms.counters and terms.on_gpu(group, place(p.data) or HOST) for p in group["params"]
    )
    h = resolve(rule, unread(group) if unneeded else group)
    rule.check_step(h)
    return h


class _GroupPlan:
    """The buckets of one group, filled parameter by parameter."""

    def __init__(self, rule: type[Rule], number: int, group: Group, memory: Memory, terms: Terms) -> None:
        self.number, self.group, self.memory, self.terms = number, group, memory, terms
        self.h = settled(rule, group, terms)
        self.rule = rule_of(rule, self.h)
        self.measured, self.counting = is_measured(self.rule), bool(terms.counters)
        self.buckets: dict[tuple[Any, ...], Bucket] = {}
        self.layouts: dict[tuple[tuple[int, ...], DType], Layout] = {}

    @cached_property
    def first(self) -> dict[str, float]:
        """The first values of the registers; a learning rate that has not been read is read for them."""
        h = resolve(self.rule, self.group) if types.on_gpu(self.group.get("lr")) else self.h
        return self.rule.registers(h)

    def add(self, index: int, p: Parameter, grad: Any, state: Any, estimate: Any) -> None:
        """Check one parameter and put it into the bucket it belongs to."""
        try:
            grad = self.rule.accept(self.h, checked_gradient(p, grad, self.memory))
            estimate = None if estimate is None else checked_estimate(p, estimate, self.memory)
            if not isinstance(state, dict):
                raise TypeError(f"the state must be a dict, got {type(state).__name__}")
            if p.master and self.group.get("differentiable"):
                raise RuntimeError("`differentiable` replaces parameters, and a master copy is updated in place")
            master = master_copy(p, state)
            updated = p.data if master is None else master
            state = {} if self.counting and self._is_skipped(p, state) else state
            arrays, unmade = state_arrays(self._layout(updated), updated, state)
            bucket = self._bucket(p, state, unmade, grad, estimate is not None)
            if self.measured and bucket.s is not None:
                check_constants(self.rule, self.h, bucket.s, p.shape, updated.dtype)
            bucket.tasks.append(Task(p, grad, arrays, master, estimate))
        except (TypeError, ValueError, RuntimeError) as error:
            where = label(self.number, index, p, self.group.get("param_names", ()))
            raise type(error)(f"{where}: {error}") from None

    def _is_skipped(self, p: Parameter, state: dict[str, Any]) -> bool:
        """Tell whether the host is to count from now on, and the state is one whose making a GPU has skipped."""
        counter = self.terms.counters.get(p)
        if counter is None or self.terms.on_gpu(self.group, place(p.data) or HOST):
            return False
        return counter.is_ahead_of(state, self.rule.counts_steps)

    def _layout(self, data: Array) -> Layout:
        """Return the state arrays of a parameter, checked once per shape and dtype."""
        key = data.shape, data.dtype
        if key not in self.layouts:
            storage(data.dtype)
            self.rule.check_parameter("the parameter", *key)
            self.layouts[key] = layout(self.rule, self.h, data.shape)
        return self.layouts[key]

    def _bucket(
        self, p: Parameter, state: dict[str, Any], unmade: frozenset[str], grad: Any, estimated: bool
    ) -> Bucket:
        """Return the bucket of a parameter, made if it is the first one there."""
        where, sparse = place(p.data) or HOST, isinstance(grad, SparseGrad)
        by_gpu, k = self.terms.on_gpu(self.group, where), 0
        if not by_gpu:
            k = step_count(state.get("step", 0), "the state step") + 1
            if k == 1 and self.rule.counts_steps:  # a GPU may have skipped every step so far
                unmade = without_values(self._layout(p.data))
        kind = (where, p.data.dtype, p.master, unmade, sparse, p.master and grad.dtype, estimated)
        if by_gpu:
            return self._counted(p, state, bool(unmade), kind)
        registers = first_registers(self.rule, self.first, state if self.terms.shared is None else self.terms.shared)
        key = (*kind, k, *registers.values())
        if key not in self.buckets:
            more = {"sparse": sparse, "grad_scale": self.terms.scaling.scale(), "estimated": estimated}
            scalars = step_scalars(self.rule, self.h, k, registers, **more)
            after = next_registers(self.rule, self.h, k, registers)
            dtype = np.dtype(np.float32) if p.master else p.data.dtype
            self.buckets[key] = self._new(fitting(self.rule, self.h, scalars, dtype), k, after, kind)
        return self.buckets[key]

    def _new(self, s: Record | None, k: int, registers: dict[str, Any], kind: tuple[Any, ...]) -> Bucket:
        where, _, _, unmade, sparse, _, estimated = kind
        shared = self.rule, self.group, self.h, s, k, registers
        return Bucket(*shared, unmade, sparse, where, self.terms.scaling, estimated)

    def _counted(self, p: Parameter, state: dict[str, Any], unmade: bool, kind: tuple[Any, ...]) -> Bucket:
        """Return the bucket of a parameter whose steps the GPU counts: from now on, or by the counter it has."""
        counter = self.terms.counters.get(p)
        if counter and (unmade or not counter.stands_in(state, self.rule.counts_steps)):
            counter = None
        k, registers = (0, {}) if counter else self._so_far(state)
        key = (*kind, id(counter), k, *registers.values())
        if key not in self.buckets:
            self.buckets[key] = bucket = self._new(None, k, registers, kind)
            bucket.counted, bucket.counter = True, counter
        return self.buckets[key]

    def _so_far(self, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the number of steps taken so far, and the registers; a rule that counts none has taken one or none."""
        registers = first_registers(self.rule, self.first, state)
        if self.rule.counts_steps:
            return step_count(state.get("step", 0), "the state step"), registers
        return int(bool(state)), registers


def checked_gradient(p: Parameter, grad: Any, memory: Container[Any]) -> Any:
    """Return a gradient that fits its parameter and that writing to ``memory`` does not change, or raise."""
    data = p.data
    if type(data) is not np.ndarray and not types.is_array(data):
        raise TypeError(f"the data must be a NumPy or CuPy array, got {type(data).__name__}")
    if type(data) is not np.ndarray or not data.flags.carray:  # arrays that are in order need no closer look
        check_writable(data)
        check_no_overlap("the data", data)
    grad = as_gradient(grad, data, p.master)
    return deepcopy(grad) if memory and grad in memory else grad


def checked_estimate(p: Parameter, x: Any, memory: Container[Any]) -> Array:
    """Return an estimate as a dense array like the one that the rule updates, checked as a gradient is, or raise."""
    with about_estimates():
        x = checked_gradient(p, x, memory)
    if isinstance(x, SparseGrad):
        raise TypeError("the estimate must be dense")
    return copied(x, np.dtype(np.float32)) if p.master and x.dtype != np.float32 else x


def master_copy(p: Parameter, state: Mapping[str, Any]) -> Array | None:
    """Return the float32 copy of a parameter, made if there is none yet; None if it is to have none."""
    if not p.master:
        return None
    if p.dtype.itemsize != 2:
        raise ValueError(f"master=True keeps a float32 copy of 16-bit data, but the data has dtype {p.dtype}")
    x = array_again(state.get("master"))
    if x is None:
        return copied(p.data, np.dtype(np.float32))
    check_state("master", x, p.shape, p.data, np.dtype(np.float32))
    return x


class Kept(NamedTuple):
    """A state array: its shape, its first value or values (None: it is made in the first update), and its dtype.

    The dtype is that of the parameter if it is None.
    """

    shape: tuple[int, ...]
    first: Any
    dtype: DType | None = None


Layout: TypeAlias = "dict[str, Kept]"
"""The state arrays of a parameter by name."""


def layout(rule: type[Rule], h: Hypers, shape: tuple[int, ...]) -> Layout:
    """Return the state arrays of a parameter of ``shape``."""
    shapes = rule.shapes(h, shape)
    arrays = {name: Kept(shapes.get(name, shape), fill) for name, fill in rule.arrays(h, shape).items()}
    for name, code in rule.coded(h, shape).items():
        arrays |= zip((name, *parts_of(name)), _of_code(shape, code), strict=True)
    return arrays


def _of_code(shape: tuple[int, ...], code: Code) -> tuple[Kept, Kept, Kept]:
    """Return the codes of an array, the scales of their blocks, and the table."""
    scales = (prod(shape) // code.block,)
    return Kept(shape, 0.0, CODE), Kept(scales, 0.0, SINGLE), Kept(code.table.shape, code.table, SINGLE)


def first_registers(rule: type[Rule], values: Mapping[str, float], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that a rule keeps per parameter, those that do not exist yet at their first ``values``."""
    return {name: _register(rule, name, x, state) for name, x in values.items()} if values else {}


def _register(rule: type[Rule], name: str, first: float, state: Mapping[str, Any]) -> Any:
    if name in state:
        x = state[name]
        return x if isinstance(x, Followed) else register(rule, x, f"the state {name}")
    check_number(f"the first {name}", first, register_dtype(rule))
    return rounded(first, register_dtype(rule))


def without_values(arrays: Layout) -> frozenset[str]:
    """Return the names of the state arrays that the first update makes."""
    return frozenset(name for name, like in arrays.items() if like.first is None)


def state_arrays(arrays: Layout, data: Array, state: Mapping[str, Any]) -> tuple[dict[str, Array], frozenset[str]]:
    """Return the state arrays of a parameter, missing ones newly made, and the names of those that an update must make.

    If one that has no first value is missing, the update makes all such.
    """
    kept, unmade = {}, False
    for name, like in arrays.items():
        x = array_again(state.get(name))
        dtype = like.dtype or data.dtype
        if x is None:
            x = begun(name, like, data)
            unmade |= like.first is None
        elif not _is_simple(x, data) or x.shape != like.shape or x.dtype != dtype:
            check_state(name, x, like.shape, data, dtype)
        kept[name] = x
    return kept, without_values(arrays) if unmade else frozenset()


def begun(name: str, like: Kept, data: Array) -> Array:
    """Make a state array of a parameter, zeros where the first update is to make it."""
    if like.dtype is None:
        check_number(f"the first {name}", like.first or 0.0, storage(data.dtype))
        return filled(data, like.shape, like.first or 0.0)
    if isinstance(like.first, np.ndarray):
        return types.moved(like.first.copy(), place(data))
    return types.filled(data, like.shape, like.first, like.dtype)


def _is_simple(x: Any, data: Array) -> bool:
    """Tell whether two arrays are NumPy's own and the first can be written to, so that it needs no closer look."""
    return type(x) is np.ndarray and type(data) is np.ndarray and x.flags.carray


def check_state(name: str, x: Any, shape: tuple[int, ...], data: Array, dtype: DType | None = None) -> None:
    """Raise ValueError if a state array is not one that can be updated in place, beside the parameter."""
    dtype = dtype or data.dtype
    if not types.is_array(x) or place(x) != place(data):
        raise ValueError(f"the state {name} must be {types.described(data)}, got {types.described(x)}")
    if not types.is_writable(x):
        raise ValueError(f"the state {name} must be writable, but it is read-only")
    if x.shape != shape or x.dtype != dtype:
        raise ValueError(f"the state {name} must have shape {shape} and dtype {dtype}, got {x.shape} and {x.dtype}")
    check_no_overlap(f"the state {name}", x)


def filled(like: Array, shape: tuple[int, ...], value: float) -> Array:
    """Make an array laid out like ``like``, every real of it ``value``."""
    return types.filled(like, shape, complex(value, value) if value and like.dtype.kind == "c" else value)
