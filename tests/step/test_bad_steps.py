"""Wrong gradients, wrong calls, and what was altered between steps: refused, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import aslinearoperator

from helpers.refusals import (
    DENSE_ONLY,
    DTYPE,
    FIT,
    LAST,
    NO_ARRAY,
    NUMBER,
    SHAPE,
    SPARSE_ONLY,
    SUPPORTED,
    R,
    Row,
    T,
    V,
    World,
    f4,
    f8,
    inf,
    nan,
    refused,
)
from refoptim import Parameter, SparseGrad, register_optimizer_step_post_hook

GRADIENTS: dict[str, Row] = {
    "wrong shape": ("Adam", lambda: f8(2, 3), V, f"{SHAPE} (3, 2), got (2, 3)"),
    "one element": ("Adam", lambda: f8(1), V, f"{SHAPE} (3, 2), got (1,)"),
    "other floats": ("Adam", lambda: f4(3, 2), T, f"{DTYPE} float64, got float32"),
    "integers": ("Adam", lambda: np.ones((3, 2), np.int64), T, f"{DTYPE} float64, got int64"),
    "objects": ("Adam", lambda: np.ones((3, 2), object), T, f"{DTYPE} float64, got object"),
    "swapped bytes": ("Adam", lambda: f8(3, 2).astype(">f8"), T, f"{DTYPE} float64, got >f8"),
    "masked": ("Adam", lambda: np.ma.ones((3, 2)), T, "the gradient must not be a masked array: fill what is masked"),
    "bytes": ("Adam", lambda: b"gradient", T, f"{NO_ARRAY}, got bytes"),
    "text": ("Adam", lambda: "gradient", T, f"{NO_ARRAY}, got str"),
    "a number": ("Adam", lambda: 1.0, T, f"{NO_ARRAY}, got float"),
    "a NumPy scalar": ("Adam", lambda: np.float64(1), V, f"{SHAPE} (3, 2), got ()"),
    "a Parameter": ("Adam", lambda: Parameter(f8(3, 2)), T, f"{NO_ARRAY}, got Parameter"),
    "an operator": ("Adam", lambda: aslinearoperator(f8(3, 2)), T, f"{NO_ARRAY}, got MatrixLinearOperator"),
    "a sparse shape": ("SGD", lambda: SparseGrad([[0]], f8(1, 2), (4, 2)), V, f"{SHAPE} (3, 2), got (4, 2)"),
    "a sparse dtype": ("SGD", lambda: SparseGrad([[0]], f4(1, 2), (3, 2)), T, f"{DTYPE} float64, got float32"),
    "scipy's integers": (
        "SGD",
        lambda: scipy.sparse.coo_array(np.eye(3, 2, dtype="i8")),
        T,
        f"dtype int64 {SUPPORTED}",
    ),
    "an index moved outside": ("SGD", lambda: spoiled(), V, "indices[0] must be in [0, 3), got 3"),
    "dense for SparseAdam": ("SparseAdam", lambda: f8(3, 2), R, SPARSE_ONLY),
} | {
    f"sparse for {name}": (
        name,
        lambda: SparseGrad([[0]], f8(1, 2), (3, 2)),
        R,
        f"{name} does not support sparse gradients",
    )
    for name in DENSE_ONLY
}
"""What the last gradient of a step may not be."""


def spoiled() -> SparseGrad:
    """Return a sparse gradient that was right when it was made."""
    g = SparseGrad(np.array([[0, 1]]), f8(2, 2), (3, 2))
    g.indices[0, 1] = 3
    return g


@pytest.mark.parametrize(("name", "grad", "error", "message"), GRADIENTS.values(), ids=GRADIENTS)
def test_gradient(name: str, grad: Callable[[], Any], error: type[Exception], message: str) -> None:
    world, given = World(name), grad()
    seen = [world.optimizer, world.arrays, given]
    refused(seen, lambda: world.step_with_last(given), error, LAST + message)
    world.last.grad = given
    refused(seen, world.optimizer.step, error, LAST + message)


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients_do_not_go_with_weight_decay(name: str) -> None:
    world, sparse = World(name, weight_decay=0.1), SparseGrad([[0]], f8(1, 2), (3, 2))
    message = f"{LAST}weight_decay option is not compatible with sparse gradients"
    refused([world.optimizer, sparse], lambda: world.step_with_last(sparse), R, message)


def step(*args: Any, **kwargs: Any) -> Callable[[World], Any]:
    return lambda w: w.optimizer.step(*args, **kwargs)


ITERABLE = "grads must be an iterable of gradients in order, or a dict of them by name"
NAMELESS = "goes by the names of parameters, and parameter 0 of group 0 has no name: make the optimizer of"

CALLS: dict[str, Row] = {
    "too few grads": ("Adam", step(grads=[None] * 2), V, "must hold one gradient (or None) per parameter: 3, got 2"),
    "too many grads": ("Adam", step(grads=[None] * 4), V, "must hold one gradient (or None) per parameter: 3, got 4"),
    "one array": ("Adam", step(grads=f4(3)), T, f"{ITERABLE}, got ndarray"),
    "one sparse matrix": ("Adam", step(grads=scipy.sparse.eye(3)), T, f"{ITERABLE}, got dia_"),
    "a dict": ("Adam", lambda w: w.optimizer.step(grads=dict(enumerate(w.grads))), T, f"dict of gradients {NAMELESS}"),
    "a list of numbers": (
        "Adam",
        lambda w: w.step_with_last([[1.0, 2.0]] * 3),
        T,
        f"grads[2] is a list and no array, a tree of gradients {NAMELESS}",
    ),
    "a set": ("SparseAdam", lambda w: w.optimizer.step(grads=set(w.grads)), T, f"{ITERABLE}, got set"),
    "text": ("Adam", step(grads="abc"), T, f"{ITERABLE}, got str"),
    "a number": ("Adam", step(grads=3), T, f"{ITERABLE}, got int"),
    "a closure and grads": ("Adam", step(lambda: 1.0, grads=[None] * 3), T, "step takes a closure or grads, not both"),
    "grads by position": ("Adam", step([f4(2)]), T, "closure must be a function that returns the loss, got [array(["),
    "a hook": ("Adam", lambda w: w.optimizer.register_step_pre_hook(3), T, "hook must be callable, got 3"),
    "a global hook": ("Adam", lambda w: register_optimizer_step_post_hook("f"), T, "hook must be callable, got 'f'"),
}


@pytest.mark.parametrize(("name", "act", "error", "message"), CALLS.values(), ids=CALLS)
def test_call(name: str, act: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World(name)
    refused([world.optimizer, world.arrays], lambda: act(world), error, message)


def data(make: Callable[[], Any]) -> Callable[[World], Any]:
    return lambda w: setattr(w.last, "data", make())


def state(**values: Any) -> Callable[[World], Any]:
    return lambda w: w.state.update(values)


def group(**settings: Any) -> Callable[[World], Any]:
    return lambda w: w.groups[1].update(settings)


def without(key: str) -> Callable[[World], Any]:
    return lambda w: w.groups[1].pop(key)


def to_vector(w: World) -> None:
    w.last.data = w.arrays[2] = f8(6)


COUNT = f"{LAST}the state step must be an integer in [0, inf), got"
UNSPECIFIED = "parameter group didn't specify a value of required optimization parameter"
LIST = "must be a dict with a list 'params', got"
WRITABLE = "optimizer can only optimize writable arrays, but one of the params is read-only"
MATRIX = "Muon only supports 2D parameters whereas we found a parameter with size: (6,)"
TWICE = "some parameters appear in more than one parameter group: parameter 0 of"
STRANGER = "parameter 1 of group 1 must be a Parameter, got ndarray: add_param_group makes Parameters of arrays"

ALTERED: dict[str, Row] = {
    "frozen": ("Adam", lambda w: w.last.data.setflags(write=False), V, f"{LAST}{WRITABLE}"),
    "data of another shape": ("Adam", data(lambda: f8(5)), V, f"{LAST}{SHAPE} (5,), got (3, 2)"),
    "data of another dtype": ("Adam", data(lambda: f4(3, 2)), T, f"{LAST}{DTYPE} float32, got float64"),
    "data that is none": ("Adam", data(lambda: None), T, f"{LAST}the data must be a NumPy or CuPy array, got NoneType"),
    "masked data": (
        "Adam",
        data(lambda: np.ma.ones((3, 2))),
        T,
        f"{LAST}the data must be a NumPy or CuPy array, got MaskedArray",
    ),
    "a count of text": ("Adam", state(step="2"), V, f"{COUNT} '2'"),
    "a negative count": ("Adam", state(step=-3), V, f"{COUNT} -3"),
    "a broken count": ("Adam", state(step=2.5), V, f"{COUNT} 2.5"),
    "a count without a value": ("Adam", state(step=nan), V, f"{COUNT} nan"),
    "an infinite count": ("Adam", state(step=inf), V, f"{COUNT} inf"),
    "a flag for a count": ("Adam", state(step=True), V, f"{COUNT} True"),
    "a count beyond doubles": ("Adam", state(step=10**400), V, f"{LAST}the scalars of step 1000"),
    "state of another shape": ("Adam", state(exp_avg=f8(6)), V, f"{LAST}the state exp_avg {FIT} (6,) and float64"),
    "state of another dtype": ("Adam", state(exp_avg=f4(3, 2)), V, f"{LAST}the state exp_avg {FIT} (3, 2) and float32"),
    "read-only state": (
        "SGD",
        state(momentum_buffer=np.broadcast_to(f8(1), (3, 2))),
        V,
        "momentum_buffer must be writable",
    ),
    "a list for state": ("Adam", state(exp_avg=[0.0]), V, f"{LAST}the state exp_avg must be a NumPy array, got list"),
    "masked state": ("Adam", state(exp_avg=np.ma.ones((3, 2))), V, "exp_avg must be a NumPy array, got MaskedArray"),
    "state that is no dict": (
        "Adam",
        lambda w: w.optimizer.state.update({w.last: None}),
        T,
        "the state must be a dict, got N",
    ),
    "a register of text": ("NAdam", state(mu_product="1"), V, f"{LAST}the state mu_product {NUMBER} '1'"),
    "two registers": ("NAdam", state(mu_product=np.ones(2)), V, f"{LAST}the state mu_product {NUMBER} array([1., 1.])"),
    "no register": ("ASGD", state(eta=None), V, f"{LAST}the state eta {NUMBER} None"),
    "a register without a value": ("ASGD", state(mu=nan), V, f"{LAST}the state mu {NUMBER} nan"),
    "a setting gone": ("Adam", without("lr"), V, f"{UNSPECIFIED} lr"),
    "a flag gone": ("Adam", without("foreach"), V, f"{UNSPECIFIED} foreach"),
    "members gone": ("Adam", without("params"), T, f"param_groups[1] {LIST}"),
    "a bare array among members": ("Adam", lambda w: w.groups[1]["params"].append(f8(2)), T, STRANGER),
    "a group twice": ("Adam", lambda w: w.groups.append(dict(w.groups[1])), V, f"{TWICE} group 1 and parameter 0 of g"),
    "a member of two groups": (
        "Adam",
        lambda w: w.groups[0]["params"].append(w.last),
        V,
        f"{TWICE.replace('0 of', '2 of')} group 0 and parameter 0 of group 1 are one, or share memory",
    ),
    "a member twice": ("Adam", lambda w: w.groups[1]["params"].append(w.last), V, f"{TWICE} group 1 and parameter 1"),
    "two members of one memory": (
        "Adam",
        lambda w: w.groups[0]["params"].append(Parameter(w.arrays[2][1:])),
        V,
        f"{TWICE.replace('0 of', '2 of')} group 0 and parameter 0 of group 1 are one, or share memory",
    ),
    "a group of nothing": ("Adam", lambda w: w.groups.append(None), T, f"param_groups[2] {LIST} None"),
    "a vector for Muon": ("Muon", to_vector, V, f"{LAST}{MATRIX}"),
}
"""What a user may have altered between two steps, so that the next one is refused."""


@pytest.mark.parametrize(("name", "alter", "error", "message"), ALTERED.values(), ids=ALTERED)
def test_altered(name: str, alter: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World(name, **({"momentum": 0.9} if name == "SGD" else {}))
    alter(world)
    refused([world.optimizer, world.arrays], world.step, error, message)
