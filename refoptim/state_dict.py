"""State dicts in torch's layout: copied out, checked in.

``{"state": {id: {name: value}}, "param_groups": [{…, "params": [ids], "param_names": [names]}]}``: ids count the
parameters in the order of the groups. Arrays may come back as NumPy arrays, as torch tensors, or as nested lists, and
ids as strings, so that a state dict survives JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from .arith import Array, DType
from .groups import Group
from .parameter import Parameter
from .rule import get_default_dtype

StateDict = dict[str, Any]

FLAGS = frozenset({"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"})
"""Settings that a state dict written by an older or another library may lack; the optimizer's own then stay."""


def dump(state: Mapping[Any, Any], groups: Sequence[Group]) -> StateDict:
    """Return a copy of everything an optimizer holds, parameters replaced by their ids."""
    members = [p for group in groups for p in group["params"]]
    ids = {p: i for i, p in enumerate(members)}
    packed = [
        {
            **deepcopy({key: x for key, x in group.items() if key != "params"}),
            "params": [ids[p] for p in group["params"]],
        }
        for group in groups
    ]
    return {"state": {ids.get(key, key): deepcopy(x) for key, x in state.items()}, "param_groups": packed}


def read(
    loaded: Mapping[str, Any], groups: Sequence[Group], read_state: Callable[[Group, Parameter, Any, str], Any]
) -> tuple[dict[Any, Any], list[Group]]:
    """Check a state dict against the groups of an optimizer and return the state and the groups to take over."""
    saved = _saved_groups(loaded, groups)
    owners: dict[str, tuple[Group, Parameter]] = {}
    merged = []
    for i, (group, new) in enumerate(zip(groups, saved, strict=True)):
        merged.append(_merge(i, group, new))
        ids = _ids_in_order(i, group, new)
        owners |= {str(key): (merged[-1], p) for key, p in zip(ids, group["params"], strict=True)}
    state: dict[Any, Any] = {}
    for key, values in loaded["state"].items():
        if str(key) in owners:
            group, p = owners[str(key)]
            state[p] = read_state(group, p, values, f"state {key}")
        else:
            state[key] = deepcopy(values)
    return state, merged


def _saved_groups(loaded: Any, groups: Sequence[Group]) -> list[Group]:
    if not isinstance(loaded, Mapping) or not {"state", "param_groups"} <= set(loaded):
        raise ValueError("a state dict must be a dict with the keys 'state' and 'param_groups'")
    saved = loaded["param_groups"]
    if not isinstance(loaded["state"], Mapping) or not isinstance(saved, (list, tuple)):
        raise ValueError("a state dict must hold a dict 'state' and a list 'param_groups'")
    if len(saved) != len(groups):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups ({len(saved)}, expected {len(groups)})"
        )
    for i, (group, new) in enumerate(zip(groups, saved, strict=True)):
        if not isinstance(new, Mapping) or not isinstance(new.get("params"), (list, tuple)):
            raise ValueError(f"param_groups[{i}] of a state dict must be a dict with a list 'params'")
        if len(new["params"]) != len(group["params"]):
            raise ValueError(
                f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group "
                f"(group {i}: {len(new['params'])} parameters, expected {len(group['params'])})"
            )
    return list(saved)


def _merge(i: int, group: Group, new: Mapping[str, Any]) -> Group:
    """Return a saved group with the optimizer's own parameters; a setting it lacks is an error, a flag is not."""
    kept = {"params", "param_names", "initial_lr"}
    missing = [key for key in group if key not in new and key not in kept | FLAGS]
    if missing:
        raise ValueError(
            f"loaded state dict is not one of this optimizer: param_groups[{i}] lacks {', '.join(map(repr, missing))}"
        )
    own = {key: group[key] for key in group if key in FLAGS | {"param_names"}}
    return own | {key: _plain(x) for key, x in new.items()} | {"params": group["params"]} | _own_names(group)


def _own_names(group: Group) -> Group:
    return {"param_names": group["param_names"]} if "param_names" in group else {}


def _plain(value: Any) -> Any:
    """Copy a setting; a list of numbers, as JSON leaves a tuple, becomes a tuple again."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numpy"):
        return np.array(value.detach().cpu().numpy())
    return tuple(_plain(x) for x in value) if isinstance(value, (list, tuple)) else deepcopy(value)


def _ids_in_order(i: int, group: Group, new: Mapping[str, Any]) -> list[Any]:
    """Return the saved ids in the order of the group's parameters: by name where both sides have names."""
    ids = list(new["params"])
    if "param_names" not in group or "param_names" not in new:
        return ids
    by_name = dict(zip(new["param_names"], ids, strict=False))
    unknown = [name for name in group["param_names"] if name not in by_name]
    if unknown or len(by_name) != len(ids):
        raise ValueError(
            f"loaded state dict names other parameters: param_groups[{i}] has {list(new['param_names'])}, "
            f"expected {group['param_names']}"
        )
    return [by_name[name] for name in group["param_names"]]


def array_like(value: Any, shape: tuple[int, ...], dtype: DType, where: str) -> Array:
    """Return a copy of ``value`` as an array of exactly this shape and dtype, or raise ValueError."""
    x = _as_array(value, dtype, where)
    if x.shape != shape:
        raise ValueError(f"{where} must have shape {shape}, got {x.shape}")
    if x.dtype != dtype:
        raise ValueError(f"{where} must have dtype {dtype}, got {x.dtype}")
    return np.array(x, copy=True, order="K")


def _as_array(value: Any, dtype: DType, where: str) -> Array:
    if isinstance(value, (list, float, int)):
        try:
            return np.asarray(value, dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} must be an array: {error}") from error
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach") and "bfloat16" in str(value.dtype) and dtype.name == "bfloat16":
        return value.detach().view(_torch_int16(value)).numpy().view(dtype)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise ValueError(f"{where} must be an array, got {type(value).__name__}")


def _torch_int16(tensor: Any) -> Any:
    import sys

    return sys.modules["torch"].int16


def step_count(value: Any, where: str) -> int:
    """Return a step count as an exact integer, or raise ValueError."""
    number = float(value) if hasattr(value, "__array__") or isinstance(value, (int, float)) else math.nan
    if not number >= 0 or number != int(number):
        raise ValueError(f"{where} must be an integer in [0, inf), got {value!r}")
    return int(value)


def register(value: Any, where: str) -> Any:
    """Return a number kept per parameter as a NumPy scalar of its own dtype, or of the default one."""
    dtype = np.asarray(value).dtype if hasattr(value, "__array__") else get_default_dtype()
    if dtype.name not in ("float32", "float64") or np.size(value) != 1:
        raise ValueError(f"{where} must be one float32 or float64 number, got {value!r}")
    return dtype.type(value)
