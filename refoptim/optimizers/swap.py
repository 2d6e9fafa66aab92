"""Lend an optimizer other parameters and another state for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import setitem
from reprlib import repr as short
from typing import Any

from ..numerics.arith import Array
from ..step.changes import Change, make
from ..step.groups import Group, sharing
from ..step.parameter import Parameter, as_parameter
from ..step.state_dict import StateDict
from ..step.states import States
from .base import Optimizer


@contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: Mapping[str, Array | Parameter], swapin_optim_state: StateDict
) -> Iterator[None]:
    """Let an optimizer work on other parameters, state and settings inside a ``with`` block.

    Args:
        optimizer: an optimizer that has state.
        swapin_parameters: as many arrays or Parameters as the optimizer has, in its order, by name.
        swapin_optim_state: a state dict whose groups have the optimizer's settings and sizes. Its arrays are used, not
            copied: a step inside the block writes into them. Other changes stay inside the block.

    Raises:
        TypeError: an argument has the wrong type.
        RuntimeError: the optimizer has no state, or parameters or groups do not correspond.
    """
    _check_types(optimizer, swapin_parameters)
    optimizer = optimizer._innermost()
    parameters = [as_parameter(x) for x in swapin_parameters.values()]
    groups = _matched(optimizer, parameters, swapin_optim_state)
    state = _states(groups, swapin_optim_state)
    own_state, own_list, own_groups = optimizer.state, optimizer.param_groups, list(optimizer.param_groups)
    lending = [partial(setattr, optimizer, "state", state), *_replacing(own_groups, groups)]
    own = {"state": own_state, "param_groups": own_list}
    members = partial(setitem, own_list, slice(None), own_groups)
    returning = [partial(vars(optimizer).update, own), members, *_replacing(own_groups, map(dict, own_groups))]
    try:
        make(lending)
        yield
    finally:
        make(returning)


def _check_types(optimizer: Any, parameters: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    if not isinstance(parameters, Mapping):
        raise TypeError(f"swapin_parameters must be a dict of parameters by name, got {type(parameters).__name__}")


def _replacing(groups: list[Group], contents: Iterable[Group]) -> list[Change]:
    """Return what gives each group dict new contents; the dicts and their list stay the same objects."""
    pairs = zip(groups, contents, strict=True)
    return [change for group, new in pairs for change in (partial(group.clear), partial(group.update, new))]


def _matched(optimizer: Optimizer, parameters: list[Parameter], swapin: StateDict) -> list[Group]:
    """Return the groups to work on, or raise RuntimeError if they do not correspond to the optimizer's."""
    if not optimizer.state:
        raise RuntimeError("the optimizer must have state: take a step or load a state dict first")
    if not isinstance(swapin, Mapping) or not {"state", "param_groups"} <= set(swapin):
        raise RuntimeError("swapin_optim_state must be a dict with the keys 'state' and 'param_groups'")
    saved = swapin["param_groups"]
    if not isinstance(saved, (list, tuple)) or len(saved) != len(optimizer.param_groups):
        raise RuntimeError(
            f"swapin_optim_state must have {len(optimizer.param_groups)} parameter groups, got {short(saved)}"
        )
    expected = sum(len(group["params"]) for group in optimizer.param_groups)
    if len(parameters) != expected:
        raise RuntimeError(f"swapin_parameters must hold {expected} parameters, got {len(parameters)}")
    pair = sharing(parameters)
    if pair is not None:
        raise RuntimeError(f"swapin_parameters must not share memory, as parameters {pair[0]} and {pair[1]} do")
    rest = iter(parameters)
    return [_group(i, *pair, rest) for i, pair in enumerate(zip(optimizer.param_groups, saved, strict=True))]


def _states(groups: list[Group], swapin: StateDict) -> dict[Any, Any]:
    """Return the state by parameter, or raise RuntimeError."""
    saved = swapin["state"]
    _check_ids(saved, [i for group in swapin["param_groups"] for i in group["params"]])
    state: dict[Any, Any] = States(dict)
    for group, ids in zip(groups, (g["params"] for g in swapin["param_groups"]), strict=True):
        for p, i in zip(group["params"], ids, strict=True):
            if not isinstance(saved, Mapping) or not isinstance(saved.get(i, {}), Mapping):
                raise RuntimeError(
                    f"the state of swapin_optim_state must hold a dict per parameter, got {short(saved)}"
                )
            state[p] = dict(saved.get(i, {}))
    return state


def _check_ids(saved: Any, ids: list[Any]) -> None:
    """Raise RuntimeError if two parameters have one id, or a state is that of none."""
    if len(set(ids)) < len(ids):
        raise RuntimeError(f"the ids in the param_groups of swapin_optim_state must differ, got {short(ids)}")
    extra = [key for key in saved if key not in ids] if isinstance(saved, Mapping) else []
    if extra:
        raise RuntimeError(
            f"the state of swapin_optim_state must be keyed by the ids in param_groups, got extra keys {short(extra)}"
        )


def _group(i: int, group: Group, saved: Group, rest: Iterator[Parameter]) -> Group:
    ids = saved.get("params") if isinstance(saved, Mapping) else None
    if not isinstance(ids, (list, tuple)) or not all(isinstance(x, (int, str)) for x in ids):
        raise RuntimeError(
            f"param_groups[{i}] of swapin_optim_state must be a dict with ids in 'params', got {short(saved)}"
        )
    if set(saved) != set(group):
        differing = sorted(set(saved) ^ set(group))
        raise RuntimeError(f"param_groups[{i}] of swapin_optim_state must have the optimizer's settings: {differing}")
    if len(ids) != len(group["params"]):
        raise RuntimeError(
            f"param_groups[{i}] of swapin_optim_state must have {len(group['params'])} parameters, got {len(ids)}"
        )
    members = [next(rest) for _ in group["params"]]
    for p, own in zip(members, group["params"], strict=True):
        if p.shape != own.shape:
            raise RuntimeError(f"swapin_parameters must have the optimizer's shapes: {own.shape}, got {p.shape}")
    return {**saved, "params": members}
