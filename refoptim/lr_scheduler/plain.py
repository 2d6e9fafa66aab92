"""Plain values: what a state dict holds, so that JSON keeps every bit of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral, Real
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

from ..step.changes import Change
from ..step.hyper import number
from .stage import is_tensor

NON_FINITE = ("inf", "-inf", "nan")


def plain(where: str, x: Any) -> Any:
    """Return ``x`` as numbers, strings, lists and dicts; numbers that JSON has no text for become strings.

    Raises:
        TypeError: ``x`` is, or holds, something else.
    """
    if x is None or isinstance(x, (bool, str)):
        return x
    if isinstance(x, np.bool_):
        return bool(x)
    if isinstance(x, Integral):
        return int(x)
    if isinstance(x, Real) or hasattr(x, "__array__"):
        value = float(number(where, x))
        return value if math.isfinite(value) else str(value)
    if isinstance(x, (list, tuple)):
        return [plain(f"{where}[{i}]", item) for i, item in enumerate(x)]
    if isinstance(x, Mapping):
        return {str(key): plain(f"{where}[{key!r}]", item) for key, item in x.items()}
    raise TypeError(f"{where} cannot stand in a state dict: it is {type(x).__name__}, not a number, str, list or dict")


def as_number(where: str, value: Any) -> float:
    """Return a saved number."""
    return float(value) if isinstance(value, str) and value in NON_FINITE else number(where, value)


def like(where: str, current: Any, value: Any) -> Any:
    """Return a saved value in the type of the one it replaces, or raise TypeError or ValueError."""
    if isinstance(current, bool):
        return _of(bool, where, value)
    if isinstance(current, np.generic):
        return type(current)(as_number(where, value))
    if is_tensor(current):
        return current.new_tensor(as_number(where, value))
    if isinstance(current, Real):
        return as_number(where, value)
    if isinstance(current, str):
        return _of(str, where, value)
    if isinstance(current, (list, tuple)):
        _of((list, tuple), where, value)
        nearest = [*current, *[current[-1] if current else None] * len(value)]
        return type(current)(like(f"{where}[{i}]", nearest[i], item) for i, item in enumerate(value))
    if isinstance(current, Mapping):
        return {key: like(f"{where}[{key!r}]", current.get(key), x) for key, x in _of(Mapping, where, value).items()}
    return _copy(value)


def _of(kind: Any, where: str, value: Any) -> Any:
    if not isinstance(value, kind):
        names = " or ".join(x.__name__ for x in (kind if isinstance(kind, tuple) else (kind,)))
        raise TypeError(f"{where} of a state dict must be a {names}, got {value!r}")
    return value


def _copy(value: Any) -> Any:
    copiers: dict[type, Callable[[Any], Any]] = {
        list: lambda x: [_copy(item) for item in x],
        dict: lambda x: {key: _copy(item) for key, item in x.items()},
    }
    return copiers.get(type(value), lambda x: x)(value)


def without_functions(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is a function or another callable object."""
    return {name: x for name, x in attributes.items() if not callable(x)}


def memory(f: Any) -> Any:
    """Return what a state dict holds of a function: None, or the attributes of a callable object; lists alike."""
    if isinstance(f, list):
        return [memory(x) for x in f]
    named = isinstance(f, (FunctionType, BuiltinFunctionType, MethodType, type))
    return None if named or not hasattr(f, "__dict__") else dict(vars(f))


def remembered(where: str, f: Any, saved: Any) -> Any:
    """Return what was saved of a function in the types of its attributes, or raise TypeError or ValueError."""
    if isinstance(f, list):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(f):
            raise ValueError(f"{where} of a state dict must be a list of {len(f)} entries, got {saved!r}")
        return [remembered(f"{where}[{i}]", x, kept) for i, (x, kept) in enumerate(zip(f, saved, strict=True))]
    if saved is None:
        return {}
    own = memory(f)
    if own is None or not isinstance(saved, Mapping):
        raise TypeError(f"{where} of a state dict does not fit {f!r}: {saved!r}")
    return {key: like(f"{where}.{key}", own.get(key), value) for key, value in saved.items()}


def recalling(where: str, f: Any, saved: Any) -> list[Change]:
    """Return what gives a callable object, or a list of them, the attributes saved of it."""
    kept = remembered(where, f, saved)
    pairs = zip(f, kept, strict=True) if isinstance(f, list) else [(f, kept)]
    return [partial(dict.update, vars(x), attributes) for x, attributes in pairs if attributes]
