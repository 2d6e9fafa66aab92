"""State dicts in torch's layout: copied out, checked in.

``{"state": {id: {name: value}}, "param_groups": [{…, "params": [ids], "param_names": [names]}]}``: ids count the
parameters in the order of the groups. Arrays are copied on their device. They may come back as NumPy or CuPy arrays, as
torch tensors, or as nested lists, and ids as strings, so that a state dict survives JSON; each goes to the device of
its parameter.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from numbers import Real
from reprlib import repr as short
from typing import Any

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import bounds, is_array, moved, on_gpu, place
from .groups import Group, check_keys, check_names, check_once, check_spelling
from .hyper import is_number
from .parameter import Parameter, array_again, as_array
from .rule import Rule, has_sums_over_all, register_dtype, resolve

StateDict = dict[str, Any]

FLAGS = frozenset(
    (
        *("foreach", "maximize", "capturable", "differentiable", "fused"),
        *("cautious", "decoupled_weight_decay", "ns_dtype", "products"),
    )
)
"""Settings that a state dict written by an older or another library may lack; the optimizer's own then stay."""

OF_SCHEDULES = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")
"""What schedules write into groups: no sign of another optimizer, if one has a setting of that name."""

Owners = dict[str, tuple[Group, Parameter]]
"""The group and the parameter of each id."""

ReadState = Callable[[Group, Parameter, Any, str], Any]
"""Checks and copies the saved state of one parameter."""


@contextmanager
def reading() -> Iterator[None]:
    """Raise ValueError for what Python raises where a saved state, or a message about it, cannot be made sense of."""
    try:
        yield
    except (RecursionError, AttributeError, OverflowError) as reason:
        raise ValueError(
            f"a state dict must hold numbers, texts, arrays and few levels of lists and dicts: {reason}"
        ) from None


def copy_of(value: Any, where: str) -> Any:
    """Return a deep copy; raise ValueError for what has none, such as an array that is larger than its memory."""
    try:
        return deepcopy(value)
    except (TypeError, MemoryError) as error:
        raise ValueError(f"{where} cannot be copied: {error}") from error


def dump(state: Mapping[Any, Any], groups: Sequence[Group], copy: Callable[[Any], Any] = deepcopy) -> StateDict:
    """Return everything an optimizer holds, each value as ``copy`` returns it, parameters replaced by their ids.

    Raises:
        ValueError: a parameter stands in the groups twice, or two share memory.
    """
    check_once(groups)
    members = [p for group in groups for p in group["params"]]
    ids = {p: i for i, p in enumerate(members)}
    packed = [
        {
            **copy({key: x for key, x in group.items() if key != "params"}),
            "params": [ids[p] for p in group["params"]],
        }
        for group in groups
    ]
    kept = {ids.get(key, key): x for key, x in state.items() if key in ids or not isinstance(key, Parameter)}
    return {"state": copy(kept), "param_groups": packed}


@reading()
def read(
    loaded: Any, groups: Sequence[Group], own: Collection[str], foreign: Collection[str], read_state: ReadState
) -> tuple[dict[Any, Any], list[Group]]:
    """Check a state dict against the groups of an optimizer and return the state and the groups to take over.

    ``own`` are the names of the optimizer's hyperparameters, ``foreign`` those that only other optimizers have.
    """
    saved = saved_groups(loaded, groups)
    owners: Owners = {}
    merged = []
    for i, (group, new) in enumerate(zip(groups, saved, strict=True)):
        _check_settings(i, group, new, own, foreign)
        merged.append(_merge(i, group, new))
        for key, p in zip(ids_in_order(i, group, new), group["params"], strict=True):
            if str(key) in owners:
                raise ValueError(f"param_groups[{i}] of a state dict must have other ids than {key!r}, which is taken")
            owners[str(key)] = merged[-1], p
    return _read_states(loaded["state"], owners, read_state), merged


def check_shared(rule: type[Rule], group: Group, state: Mapping[Any, Any]) -> None:
    """Raise ValueError if registers that all parameters share are not the same in the state of each."""
    names = rule.registers(resolve(rule, group)) if rule.shares_registers else {}
    for name in names:
        found = {repr(x[name]) for p, x in state.items() if isinstance(p, Parameter) and name in x}
        if len(found) > 1:
            raise ValueError(
                f"loaded state dict is not one of {rule.__name__}: all parameters share {name}, got {sorted(found)}"
            )


def _read_states(saved: Mapping[Any, Any], owners: Owners, read_state: ReadState) -> dict[Any, Any]:
    """Read the state of every parameter; what belongs to none, under a key that is no id, is copied."""
    state: dict[Any, Any] = {}
    for key, values in saved.items():
        if str(key) not in owners:
            if isinstance(key, int) or str(key).isdecimal():
                raise ValueError(f"state {key} of a state dict belongs to no parameter: the ids are {list(owners)}")
            state[key] = copy_of(values, f"state {short(key)} of a state dict")
            continue
        group, p = owners[str(key)]
        if not isinstance(values, Mapping) or p in state:
            raise ValueError(f"a state dict must have one state {key}, a dict, got {short(values)}")
        state[p] = read_state(group, p, dict(values), f"state {key}")
    return state


def saved_groups(loaded: Any, groups: Sequence[Group]) -> list[Group]:
    """Return the groups of a state dict, as many and as large as those of an optimizer, or raise ValueError."""
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


def _check_settings(
    i: int, group: Group, new: Mapping[str, Any], own: Collection[str], foreign: Collection[str]
) -> None:
    """Raise ValueError if a saved group is one of another optimizer, or a setting is misspelt; it may lack flags."""
    stem = f"loaded state dict is not one of this optimizer: param_groups[{i}]"
    check_keys(new, f"param_groups[{i}] of a state dict")
    missing = [key for key in own if key not in new and key not in FLAGS]
    if missing:
        raise ValueError(f"{stem} lacks {', '.join(map(repr, missing))}")
    check_spelling(new, own, {*foreign, *group}, f"param_groups[{i}] of a state dict")
    strange = [key for key in new if key in foreign and key not in {*group, *FLAGS, *OF_SCHEDULES}]
    if strange:
        raise ValueError(f"{stem} has {', '.join(map(repr, strange))}")


def _merge(i: int, group: Group, new: Mapping[str, Any]) -> Group:
    """Return a saved group with the optimizer's own parameters and names; a setting that it lacks stays.

    Whether a compiled kernel runs depends on the machine, not on the state, so ``fused`` stays too.
    """
    where = f"param_groups[{i}] of a state dict"
    taken = {key: x for key, x in new.items() if key != "params" and not (key == "fused" and key in group)}
    merged = group | {key: _plain(x, f"{key} in {where}") for key, x in taken.items()}
    if "param_names" in new:
        check_names(new["param_names"], len(group["params"]), where)
        merged["param_names"] = list(group.get("param_names", new["param_names"]))
    return merged


def _plain(value: Any, where: str) -> Any:
    """Copy a setting; a list of numbers, as JSON leaves a tuple, becomes a tuple again."""
    if hasattr(value, "detach"):
        return copy_of(_from_torch(_widened(value, where), where), where)
    return tuple(_plain(x, where) for x in value) if isinstance(value, (list, tuple)) else copy_of(value, where)


def _widened(tensor: Any, where: str) -> Any:
    """Return a torch tensor of 16-bit numbers in float32, and another as it is."""
    try:
        return tensor.float() if tensor.dtype.itemsize == 2 else tensor
    except RuntimeError as error:
        raise ValueError(f"{where} cannot be copied: {error}") from error


def ids_in_order(i: int, group: Group, new: Mapping[str, Any]) -> list[Any]:
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


def array_like(value: Any, shape: tuple[int, ...], dtype: DType, where: str, beside: Array | None = None) -> Array:
    """Return a copy of ``value`` as an array of exactly this shape and dtype, or raise ValueError.

    It lies ``beside`` an array, or is NumPy's.
    """
    x = _as_array(value, dtype, where)
    if isinstance(value, list) and not x.size and not math.prod(shape):
        x = x.reshape(shape)  # a list cannot tell the shape of an empty array
    if x.shape != shape:
        raise ValueError(f"{where} must have shape {shape}, got {x.shape}")
    if x.dtype != dtype:
        raise ValueError(f"{where} must have dtype {dtype}, got {x.dtype}")
    return moved(x, place(beside))


def _as_array(value: Any, dtype: DType, where: str) -> Array:
    value = array_again(value)
    if isinstance(value, (list, float, int)):
        try:
            return np.asarray(value, dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{where} must be an array: {error}") from error
    if hasattr(value, "detach"):
        value = _from_torch(value, where)
    if not is_array(value):
        raise ValueError(f"{where} must be an array, got {type(value).__name__}")
    return value.view(dtype) if value.dtype == "V2" and dtype.name == "bfloat16" else value


def of_numpy(value: Any, where: str) -> Any:
    """Return a torch tensor as a NumPy array; raise ValueError for an array that is larger than its memory."""
    x = _from_torch(value, where) if hasattr(value, "detach") else value
    low, high = bounds(x) if is_array(x) else (0, 0)
    if is_array(x) and x.nbytes > high - low:
        raise ValueError(f"{where} must not repeat its elements, got strides {x.strides}")
    return x


def _from_torch(tensor: Any, where: str) -> Array:
    """Return a torch tensor as a NumPy array; one of bfloat16, which NumPy lacks, as its bits."""
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if str(tensor.dtype) == "torch.bfloat16":
            return tensor.view(sys.modules["torch"].int16).numpy().view("V2")
        return as_array(tensor)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise ValueError(f"{where} must be an array: {error}") from error


def step_count(value: Any, where: str) -> int:
    """Return a step count as an exact integer, or raise ValueError."""
    if type(value) is int and value >= 0:
        return value
    x = _element(value)
    if is_number(x, Real) and x >= 0 and x % 1 == 0:
        return int(x)
    raise ValueError(f"{where} must be an integer in [0, inf), got {value!r}")


def register(rule: type[Rule], value: Any, where: str) -> Any:
    """Return a number that a rule keeps per parameter as a NumPy scalar of its own dtype, or of that of the rule.

    On a GPU, where all such numbers lie in float64 arrays, the dtype of an array says nothing.
    """
    if type(value) is register_dtype(rule).type and value == value:
        return value  # as steps leave it
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    own = str(register_dtype(rule))
    dtype = own if not dtype or on_gpu(value) or (rule.double_registers and dtype == "float32") else dtype
    x, may_be_nan = _element(value), has_sums_over_all(rule)  # which are NaN where a gradient is
    try:
        x = float(x) if is_number(x, Real) else None
    except OverflowError:
        x = None
    if dtype not in ("float32", "float64") or x is None or (math.isnan(x) and not may_be_nan):
        raise ValueError(f"{where} must be one float32 or float64 number, got {value!r}")
    with np.errstate(over="ignore", under="ignore"):
        return np.dtype(dtype).type(x)


def _element(value: Any) -> Any:
    """Return the only element of an array as a Python number, and anything else as it is."""
    return value.item() if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1 else value
