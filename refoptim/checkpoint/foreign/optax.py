"""optax: the state of a chain of transformations, a tree of named tuples that hold trees like the parameters'."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ...numerics.arith import Array
from ...step.rule import get_default_dtype
from ...step.trees import join
from ..errors import CheckpointError
from .common import (
    EPS_IN_ROOT,
    LR_INSIDE,
    Difference,
    Slot,
    Target,
    fitted,
    host,
    leaves,
    members,
    rescaled,
    same_for_all,
    target,
    warn_of,
)

State = Any


class Transform(NamedTuple):
    """One of optax's transformations: names of its state's class, and refoptim's state by the names of its fields."""

    names: tuple[str, ...]
    fields: Mapping[str, str]
    counts: bool = True


class Node(NamedTuple):
    """A named tuple, or dict, in a state: the path to it, the name of its class, its fields, and itself."""

    path: str
    name: str
    fields: Mapping[str, Any]
    itself: Any


MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}
ADAM = Transform(("ScaleByAdamState",), MOMENTS)
AMSGRAD = Transform(("ScaleByAmsgradState",), {**MOMENTS, "nu_max": "max_exp_avg_sq"})
TRACE = Transform(("TraceState",), {"trace": "momentum_buffer"}, counts=False)
RMS = Transform(("ScaleByRmsState",), {"nu": "square_avg"}, counts=False)
STDDEV = Transform(("ScaleByRStdDevState",), {"mu": "grad_avg", "nu": "square_avg"}, counts=False)

TRANSFORMS: dict[str, Callable[[Mapping[str, Any]], tuple[Transform, ...]]] = {
    "SGD": lambda h: (TRACE,) if h["momentum"] else (),
    "Adam": lambda h: (AMSGRAD if h["amsgrad"] else ADAM,),
    "NAdam": lambda h: (ADAM,),
    "RAdam": lambda h: (ADAM,),
    "Adamax": lambda h: (Transform(("ScaleByAdamState",), {"mu": "exp_avg", "nu": "exp_inf"}),),
    "Adadelta": lambda h: (Transform(("ScaleByAdaDeltaState",), {"e_g": "square_avg", "e_x": "acc_delta"}, False),),
    "Adagrad": lambda h: (Transform(("ScaleByRssState",), {"sum_of_squares": "sum"}, False),),
    "RMSprop": lambda h: (STDDEV if h["centered"] else RMS, *((TRACE,) if h["momentum"] else ())),
    "Rprop": lambda h: (Transform(("ScaleByRpropState",), {"step_sizes": "step_size", "prev_updates": "prev"}, False),),
    "Muon": lambda h: (Transform(("MuonState",), {"mu": "momentum_buffer"}),),
}
"""The transformations whose state each rule goes on with, by settings."""

DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "SGD": (Difference(lambda h: h["momentum"] and h["dampening"], "it has no dampening"),),
    "Adam": (
        Difference(
            lambda h: h["amsgrad"],
            "the maximum is taken of corrected averages, unless bias_correction_nu=False",
            "AmsgradAfterCorrection",
        ),
    ),
    "NAdam": (
        Difference(
            lambda h: True,
            "the momentum has no schedule, here momentum_decay; mu_product was computed anew",
            "optax",
        ),
    ),
    "RAdam": (Difference(lambda h: h["eps"], "eps is added after the bias correction, here before", "EpsScaled"),),
    "Adagrad": (EPS_IN_ROOT,),
    "RMSprop": (EPS_IN_ROOT._replace(text=EPS_IN_ROOT.text + ", unless eps_in_sqrt=False"), LR_INSIDE),
    "Rprop": (
        Difference(
            lambda h: True,
            "each step is that of the step before, so one step that is due is not taken here",
            "StepLags",
        ),
    ),
    "Muon": (
        Difference(lambda h: True, "the momentum is corrected for its start, and the orthogonalization is another"),
    ),
}

DECIDING = ("momentum", "amsgrad", "centered")
"""Settings on which it depends what state there is."""

COUNTERS = ("ScaleByScheduleState", "InjectHyperparamsState", "InjectStatefulHyperparamsState")
"""States that count the updates of the whole chain."""

UNCOUNTED = ("SGD", "Muon")
"""Rules of refoptim whose state has no ``step``."""


def from_optax(state: State, params: Any, rule: Any, *, step: int | None = None, **settings: Any) -> dict[str, Any]:
    """Return a state dict, for ``load_state_dict``, with the state of an optax optimizer.

    Args:
        state: what ``tx.init`` or ``tx.update`` returned, or what was restored of it: with NumPy arrays, dicts in the
            place of named tuples, lists in the place of tuples. The transformation that fits the rule may stand
            anywhere in it; there must be exactly one whose arrays have the paths of ``params``.
        params: the parameters as optax was given them (dicts, lists, tuples of arrays); only paths, shapes and dtypes
            count. Of a state that ``optax.multi_transform`` or ``masked`` made, those of one transformation.
        rule: the optimizer that is to go on, whose parameters have these paths as names, or are these arrays; or its
            class, and its settings.
        step: how many steps were taken, where the state does not tell: of RMSprop, Adagrad, Adadelta and Rprop.
        settings: of the class.

    Raises:
        CheckpointError: no transformation fits, or several do; the message lists what is there.
        TypeError, ValueError: the rule is none that optax has, or the parameters are not its own.

    Source: optax 0.2, https://optax.readthedocs.io.
    """
    to = target(rule, params, settings, TRANSFORMS, "optax")
    same_for_all(to.slots, DECIDING)
    found = _matching(state, to)
    values: dict[int, dict[str, Any]] = {slot.number: {**slot.own} for slot in to.slots} if found else {}
    if found and to.rule not in UNCOUNTED:
        count = _count(state, found, step, to.rule)
        for slot in to.slots:
            values[slot.number].update(step=count, **_registers(to, slot, count))
    for transform, node in found:
        for field, name in transform.fields.items():
            tree = leaves(node.fields[field])
            for slot in to.slots:
                x = fitted(tree[slot.name], slot, field)
                values[slot.number][name] = rescaled(x, -1, slot, field, to) if _holds_lr(to.rule, transform) else x
                if field == "prev_updates" and "StepLags" in to.dialect:
                    values[slot.number]["waiting"] = -x
    warn_of("optax", to, DIFFERENCES)
    return to.filled(values)


def to_optax(optimizer: Any, state: State, params: Any, *, step: int | None = None) -> State:
    """Return a state of optax that goes on where an optimizer of refoptim is; nothing is changed in place.

    Args:
        optimizer: the optimizer, whose parameters have the paths of ``params`` as names, or are these arrays.
        state: what ``tx.init(params)`` returned. Its arrays are replaced, by arrays of the same kind; so are the counts
            of schedules.
        params: the parameters as optax was given them.
        step: how many steps were taken, where refoptim does not count them: of SGD and Muon.

    Raises:
        CheckpointError: no transformation fits, or several do; an array of optax's has another shape or dtype.
        TypeError, ValueError: the rule is none that optax has, the parameters are not its own, or they have not taken
            equally many steps, or none.
    """
    to = target(optimizer, params, {}, TRANSFORMS, "optax")
    same_for_all(to.slots, DECIDING)
    found = _matching(state, to)
    own = to.state_dict["state"]
    missing = [slot.name for slot in to.slots if found and not own.get(slot.number)]
    if missing:
        raise ValueError(f"{missing[0]} has no state: the optimizer has not stepped it yet")
    count = _own_count(own, to, step)
    new = {id(node.itself): _written(transform, node, to, count) for transform, node in found}
    warn_of("optax", to, DIFFERENCES)
    return _replaced(state, new, count)


def _holds_lr(rule: str, transform: Transform) -> bool:
    """Tell whether a transformation stands behind the one that multiplies by -lr."""
    return rule == "RMSprop" and transform is TRACE


# finding


def _nodes(x: Any, path: str = "") -> Iterator[Node]:
    """Yield the named tuples and dicts of a state."""
    inside = members(x)
    if inside is None:
        return
    fields = dict(inside)
    if isinstance(x, Mapping) or hasattr(x, "_fields"):
        yield Node(path, "" if isinstance(x, Mapping) else type(x).__name__, fields, x)
    for key, y in fields.items():
        yield from _nodes(y, join(path, key))


def _is(node: Node, transform: Transform) -> bool:
    """Tell whether a node is the state of a transformation; a dict is one by its keys."""
    wanted = {*transform.fields, *(["count"] if transform.counts else [])}
    if node.name:
        return node.name in transform.names and wanted <= set(node.fields)
    return wanted == set(node.fields) - ({"ns_coeffs"} if "MuonState" in transform.names else set())


def _matching(state: State, to: Target) -> list[tuple[Transform, Node]]:
    """Return the one node of each transformation that a rule goes on with, or raise CheckpointError."""
    nodes, paths = list(_nodes(state)), {slot.name for slot in to.slots}
    found = []
    for transform in TRANSFORMS[to.rule](to.group):
        fitting = [node for node in nodes if _is(node, transform)]
        own = [node for node in fitting if all(set(leaves(node.fields[x])) == paths for x in transform.fields)]
        if len(own) != 1:
            problem = f"{len(own)} transformations fit" if own or not fitting else "no transformation has the paths"
            wanted = f"{to.rule} needs one {transform.names[0]} of {', '.join(sorted(paths))}"
            raise CheckpointError(f"{problem}: {wanted}; the state holds {_listed(nodes)}")
        found.append((transform, own[0]))
    if not found and any(_is(node, TRACE) and set(leaves(node.fields["trace"])) == paths for node in nodes):
        raise CheckpointError("the state holds a TraceState, which SGD without momentum would lose")
    return found


def _listed(nodes: list[Node]) -> str:
    known = [node for node in nodes if node.name.endswith("State") and node.fields]
    dicts = [node for node in nodes if not node.name and {"count", "mu", "nu", "trace"} & set(node.fields)]
    return "; ".join(map(_described, known or dicts)) or "none that is known"


def _described(node: Node) -> str:
    paths = sorted({path for x in node.fields.values() if members(x) is not None for path in leaves(x)})
    of = f" of {', '.join(paths[:8])}{' …' if len(paths) > 8 else ''}" if paths else ""
    return f"{node.path or 'itself'}: {node.name or 'a dict'}({', '.join(node.fields)}){of}"


# counting


def _count(state: State, found: list[tuple[Transform, Node]], step: int | None, rule: str) -> int:
    """Return how many steps were taken: as the transformation counts, else as schedules do, else as is said."""
    counts = [node.fields["count"] for transform, node in found if transform.counts]
    counts = counts or [node.fields["count"] for node in _nodes(state) if node.name in COUNTERS]
    told = {_integer(x) for x in counts} | ({step} if step is not None else set())
    if len(told) != 1:
        problem = (
            f"the state and step= tell different numbers of steps: {sorted(told)}"
            if told
            else (f"the state of {rule} does not tell how many steps were taken: give step=")
        )
        raise ValueError(problem)
    return told.pop()


def _integer(x: Any) -> int:
    found = host(x)
    if found.shape != () or found.dtype.kind not in "iu" or found < 0:
        raise CheckpointError(f"a count must be an integer from 0 on, got {found.dtype} of shape {found.shape}")
    return int(found)


def _own_count(own: Mapping[int, Mapping[str, Any]], to: Target, step: int | None) -> int | None:
    """Return how many steps all parameters have taken."""
    counts = {int(host(own[slot.number]["step"])) for slot in to.slots if "step" in own.get(slot.number, {})}
    if step is not None:
        counts.add(step)
    if len(counts) > 1:
        raise ValueError(f"optax has one count for all parameters, and theirs differ: {sorted(counts)}")
    return counts.pop() if counts else None


def _registers(to: Target, slot: Slot, count: int) -> dict[str, Any]:
    """Return what a rule keeps that follows from the number of steps."""
    if to.rule != "NAdam":
        return {}
    h, number = SimpleNamespace(**slot.group), get_default_dtype().type
    kept: dict[str, Any] = {name: number(x) for name, x in to.made.registers(h).items()}
    for k in range(1, count + 1):
        kept = dict(to.made.advance(h, k, kept))
    return kept


# writing


def _written(transform: Transform, node: Node, to: Target, count: int | None) -> Any:
    """Return a named tuple with the state of refoptim in its fields."""
    own = to.state_dict["state"]
    new = {}
    for field, name in transform.fields.items():
        values = {slot.name: host(own[slot.number][name]) for slot in to.slots}
        if _holds_lr(to.rule, transform):
            values = {slot.name: values[slot.name] * slot.dtype.type(-_rate(to, slot)) for slot in to.slots}
        if field == "prev_updates" and "StepLags" in to.dialect:
            values = {slot.name: -host(own[slot.number]["waiting"]) for slot in to.slots}
        new[field] = _filled(node.fields[field], "", values)
    if transform.counts and count is None:
        raise ValueError(f"refoptim's {to.rule} does not count its steps: give step=")
    return _with(node.itself, {**new, **({"count": _like(node.fields["count"], count)} if transform.counts else {})})


def _rate(to: Target, slot: Slot) -> float:
    """Return the rate by which the momentum is to be multiplied, 1 where the rule has done it."""
    return 1.0 if LR_INSIDE.flag in to.dialect else float(slot.group["lr"])


def _with(node: Any, new: Mapping[str, Any]) -> Any:
    return node._replace(**new) if hasattr(node, "_replace") else type(node)({**node, **new})


def _replaced(x: Any, new: Mapping[int, Any], count: int | None) -> Any:
    """Return a state in which nodes are replaced, and the counts of schedules."""
    if id(x) in new:
        return new[id(x)]
    if type(x).__name__ in COUNTERS and count is not None:
        x = x._replace(count=_like(x.count, count))
    return _rebuilt(x, lambda _, y: _replaced(y, new, count))


def _filled(x: Any, path: str, values: Mapping[str, Array]) -> Any:
    """Return a tree with other arrays in it, of the same library."""
    if members(x) is None:
        return x if x is None else _like(x, values[path])
    return _rebuilt(x, lambda key, y: _filled(y, join(path, key), values))


def _rebuilt(x: Any, function: Callable[[str, Any], Any]) -> Any:
    """Return nested data with other members; what has none is returned as it is."""
    inside = members(x)
    if inside is None:
        return x
    new = [function(key, y) for key, y in inside]
    if isinstance(x, Mapping):
        return type(x)(dict(zip(x, new, strict=True)))  # type: ignore[call-arg]
    return type(x)(*new) if hasattr(x, "_fields") else type(x)(new)


def _like(template: Any, x: Any) -> Any:
    """Return an array, or a count, as one of the library, the dtype, and on the device of another."""
    found, dtype = np.array(x), np.dtype(str(template.dtype))
    if found.shape != tuple(template.shape) or not (found.dtype == dtype or isinstance(x, int)):
        other = f"{dtype} of shape {tuple(template.shape)}"
        raise CheckpointError(f"optax keeps {other}, where refoptim has {found.dtype} of shape {found.shape}")
    found = found.astype(dtype)
    if isinstance(template, np.ndarray):
        return found
    return sys.modules["jax"].device_put(found, template.sharding)
