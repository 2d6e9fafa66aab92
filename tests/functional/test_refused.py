"""Everything that can be wrong with the arguments of a pure rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.refusals import DTYPE, NUMBER, SHAPE, SPARSE_ONLY, SUPPORTED, R, T, V, f4, f8, refused
from refoptim import Parameter, SparseGrad, functional


def pure(name: str = "adam", **given: Any) -> Callable[[], Any]:
    """Call a pure rule, right but for what is given."""
    arguments = {"params": [f4(3)], "grads": [f4(3)], "state": None, "t": 1} | given
    return lambda: getattr(functional, name)(**arguments)


T_RANGE = "t must be an integer in [1, inf), got"
NO_RULE_ARRAY = (
    "must be an array that understands NumPy's functions, or one of torch, JAX, autograd or the array API, got"
)
LISTED = "must be a list or tuple, got"
ONE_EACH = "must have one entry per parameter: 1, got 0"
ROW = SparseGrad([[0]], f4(1), (3,))

PURE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "step 0": (pure(t=0), V, f"{T_RANGE} 0"),
    "half a step": (pure(t=1.5), V, f"{T_RANGE} 1.5"),
    "a whole float": (pure(t=1.0), V, f"{T_RANGE} 1.0"),
    "a flag for a step": (pure(t=True), V, f"{T_RANGE} True"),
    "no step": (pure(t=None), V, f"{T_RANGE} None"),
    "a step beyond doubles": (pure(t=10**400), V, "params[0]: the scalars of step 1000"),
    "a bare array": (pure(params=f4(3)), T, f"params {LISTED} ndarray"),
    "a generator": (pure(grads=(g for g in [f4(3)])), T, f"grads {LISTED} generator"),
    "a tree": (pure(params={"w": f4(3)}), T, f"params {LISTED} dict: give the arrays of a tree as a list"),
    "a dict of states": (pure(state={}), T, f"state {LISTED} dict"),
    "no gradients": (pure(grads=[]), V, f"grads {ONE_EACH}"),
    "no states": (pure(state=[]), V, f"state {ONE_EACH}"),
    "a state that is none": (pure(state=[None]), T, "state must hold dicts, got ['NoneType']"),
    "a list of numbers": (pure(params=[[1.0]]), T, f"params[0]: a parameter {NO_RULE_ARRAY} list"),
    "a Parameter": (pure(params=[Parameter(f4(3))]), T, f"params[0]: a parameter {NO_RULE_ARRAY} Parameter"),
    "a masked array": (pure(params=[np.ma.ones(3)]), T, f"params[0]: a parameter {NO_RULE_ARRAY} MaskedArray"),
    "a masked gradient": (pure(grads=[np.ma.ones(3)]), T, f"params[0]: the gradient {NO_RULE_ARRAY} MaskedArray"),
    "a list for a gradient": (pure(grads=[[1.0]]), T, f"params[0]: the gradient {NO_RULE_ARRAY} list"),
    "a gradient's shape": (pure(grads=[f4(4)]), V, f"params[0]: {SHAPE} (3,), got (4,)"),
    "a gradient's dtype": (pure(grads=[f8(3)]), T, f"params[0]: {DTYPE} float32, got float64"),
    "integers": (pure(params=[np.ones(3, "i8")], grads=[np.ones(3, "i8")]), T, f"params[0]: dtype int64 {SUPPORTED}"),
    "a state's shape": (
        pure(state=[{"exp_avg": f4(1)}]),
        V,
        "params[0]: the state exp_avg must have shape (3,), got (1,)",
    ),
    "a state's dtype": (pure(state=[{"exp_avg": f8(3)}]), T, "the state exp_avg must have dtype float32, got float64"),
    "a number for a state": (pure(state=[{"exp_avg": 0.0}]), T, f"params[0]: the state exp_avg {NO_RULE_ARRAY} float"),
    "an unknown state": (
        pure(state=[{"m": f4(3)}]),
        V,
        "the state has 'm', it must be one of ['exp_avg', 'exp_avg_sq', 'step']",
    ),
    "a register of text": (
        pure("nadam", state=[{"mu_product": "1"}]),
        V,
        f"params[0]: the state mu_product {NUMBER} '1'",
    ),
    "an unknown setting": (pure(rate=1), T, "unexpected keyword argument 'rate'"),
    "another rounding": (pure(rounding="up"), V, "rounding must be 'each' or 'store', got 'up'"),
    "sparse for Adam": (pure(grads=[ROW]), R, "params[0]: Adam does not support sparse gradients"),
    "sparse and decay": (
        pure("sgd", grads=[ROW], weight_decay=0.1),
        R,
        "params[0]: weight_decay option is not compatible",
    ),
    "dense for SparseAdam": (pure("sparse_adam"), R, f"params[0]: {SPARSE_ONLY}"),
    "a vector for Muon": (
        pure("muon"),
        V,
        "params[0]: Muon only supports 2D parameters whereas we found a parameter with size",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), PURE.values(), ids=PURE)
def test_pure_rule(act: Callable[[], Any], error: type[Exception], message: str) -> None:
    refused([ROW], act, error, message)
