"""Pictures: what an optimizer holds, in a form that is equal to another only if nothing at all differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import refoptim
from refoptim import Optimizer, Parameter, SparseGrad
from refoptim.engines.reference import get_rounding


def picture(x: Any) -> Any:
    """Return everything there is to see of a value: arrays by identity, layout and bytes, the rest by digits."""
    if isinstance(x, Optimizer):
        hooks = [list(h) for name, h in sorted(vars(x).items()) if name.endswith("_hooks")]
        held = [id(x.param_groups), [id(group) for group in x.param_groups], id(x.state)]
        return [held, hooks, picture(x.param_groups), picture(x.state), picture(x.defaults), picture(settings())]
    if isinstance(x, np.ndarray):
        return [id(x), str(x.dtype), x.shape, x.strides, x.flags.writeable, np.asarray(x).tobytes()]
    if isinstance(x, Parameter):
        return [id(x), picture(x.data), picture(x.grad), x.name]
    if isinstance(x, SparseGrad):
        return [id(x), picture(x.indices), picture(x.values), x.shape]
    if isinstance(x, Mapping):
        return [(picture(key), picture(value)) for key, value in x.items()]
    if isinstance(x, (list, tuple)):
        return [type(x), *map(picture, x)]
    return [type(x), repr(x)]


def settings() -> list[Any]:
    """Return what holds for all optimizers."""
    return [refoptim.get_default_dtype(), refoptim.get_num_threads(), get_rounding(), np.geterr()]


def frozen(x: Any) -> Any:
    """Turn a value into one that compares bit for bit; a Python number is a number of 64 bits."""
    if isinstance(x, dict):
        return {key: frozen(y) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return [frozen(y) for y in x]
    return x if x is None or isinstance(x, str) else (np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes())


def same(x: Any, y: Any) -> bool:
    """Tell whether two values are equal, bit for bit."""
    return bool(frozen(x) == frozen(y))
