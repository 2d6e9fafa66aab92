"""Master copies in saved states that come from, or go to, runs in float32.

A state with a float32 copy of the weights continues in float32 where the parameters are that copy, or the copy rounded
to 16 bits: they become the copy. A float32 state continues with master copies: these are made of the parameters in the
next step, unless the state is given ``master`` entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from ..numerics.arith import Array, to_bfloat16
from ..numerics.array_types import moved, place, plain
from .changes import Change, there
from .parameter import Parameter, check_writable, told


def check_kind(p: Parameter, values: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if a saved state has a master copy and the parameter can neither keep one nor become it."""
    if "master" in values and not p.master and p.dtype != np.float32:
        raise ValueError(
            f"{where} has a master copy, in float32, and the parameter is {p.dtype}: it must be float32, or have 16 "
            "bits and master=True"
        )


def check_copy(p: Parameter, master: Array, where: str) -> None:
    """Raise ValueError unless a parameter is its saved master copy, rounded to 16 bits perhaps, and can be written."""
    check_writable(p.data)
    x, y = (moved(z, None) for z in (plain(p.data), master))
    with np.errstate(all="ignore"):
        rounded = (y, y.astype(np.float16).astype(np.float32), to_bfloat16(y))
    if not any(np.array_equal(x, z, equal_nan=True) for z in rounded):
        raise ValueError(
            f"{where} must be the float32 copy of the parameter, which is another array, not the copy rounded: put the "
            "weights of that run back first, or leave master out of the state"
        )


def taken_over(state: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[Change]]:
    """Return a state without the master copies of float32 parameters, and what writes these into the parameters."""
    left, changes = dict(state), []
    for p, values in state.items():
        if isinstance(p, Parameter) and not p.master and "master" in values:
            rest = {name: x for name, x in values.items() if name != "master"}
            left.update({p: rest})
            if not rest:
                left.pop(p)
            writing = there(place(p.data), [partial(setitem, plain(p.data), ..., values["master"])])
            changes += [*told([p]), *writing]
    return left, changes
