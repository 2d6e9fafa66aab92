"""refoptim.functional: the optimizers' own bits, nothing changed in place, and derivatives that pass through."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.oracle import DENSE, Hyper, assert_same_bits, draw, gradient, sparse_gradient, stored
from refoptim import SparseGrad
from refoptim.numerics.arith import as_reals

STEPS = 8
MEASURED: dict[str, Hyper] = {
    "Adafactor": dict(lr=0.2, beta2_decay=-0.7, eps=(None, 0.02), d=1.3, weight_decay=0.05, maximize=True),
    "Muon": dict(lr=0.05, weight_decay=0.3, momentum=0.7, ns_steps=2, adjust_lr_fn="match_rms_adamw", maximize=True),
}
MODULES = {"SparseAdam": "sparse_adam"}
"""Names of functions that are not the lower-case name of the optimizer."""

NEEDS_ML_DTYPES = pytest.mark.skipif(not find_spec("ml_dtypes"), reason="bfloat16 arrays need ml_dtypes")
DTYPES = ["float64", "float32", "float16", pytest.param("bfloat16", marks=NEEDS_ML_DTYPES), "complex64"]
ROUNDINGS = [
    ("float64", "each"),
    ("float32", "store"),
    ("float16", "each"),
    ("float16", "store"),
    pytest.param("bfloat16", "each", marks=NEEDS_ML_DTYPES),
    pytest.param("bfloat16", "store", marks=NEEDS_ML_DTYPES),
    ("complex64", "each"),
]


def function(name: str) -> Callable[..., Any]:
    step: Callable[..., Any] = getattr(refoptim.functional, MODULES.get(name, name.lower()))
    return step


def configuration(name: str, dtype: str, i: int) -> Hyper:
    return MEASURED[name] if name in MEASURED else draw(name, dtype, i)


def drawn_gradients(name: str, rng: np.random.Generator, arrays: Sequence[Any], dtype: str) -> list[Any]:
    """Draw a gradient for each array; elementwise rules also get infinities and NaN."""
    if name == "SparseAdam":
        return [sparse_gradient(rng, x.shape, 1, dtype) for x in arrays]
    grads = [gradient(rng, x.shape, dtype) for x in arrays]
    if name not in MEASURED and rng.random() < 0.3:
        as_reals(grads[0]).reshape(-1)[:3] = rng.permutation([np.inf, -np.inf, np.nan])
    return grads


def start(name: str, dtype: str, seed: int) -> list[Any]:
    """Make parameters, one of them 0-d, one empty and two not contiguous, where the rule takes them."""
    rng = np.random.default_rng(seed)
    shapes = [(4, 3), (6, 7)] if name == "Muon" else [(7,), (4, 3), (6, 7), (0,)]
    made = [gradient(rng, shape, dtype) for shape in shapes]
    made[1] = made[1].T
    made.append(gradient(rng, (5, 8), dtype)[::2, ::-3])
    return made if name in ("Muon", "SparseAdam") else [*made, gradient(rng, (), dtype)]


def arrays_in(x: Any) -> Iterator[Any]:
    """Yield the arrays somewhere inside of lists, dicts and sparse gradients."""
    if isinstance(x, np.ndarray):
        yield x
    elif isinstance(x, SparseGrad):
        yield from (x.indices, x.values)
    elif isinstance(x, Mapping):
        yield from arrays_in(list(x.values()))
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from arrays_in(y)


@contextmanager
def frozen(*values: Any) -> Iterator[None]:
    """Make every array read-only, and fail if one has changed all the same."""
    arrays = list(arrays_in(values))
    before = [x.copy() for x in arrays]
    writable = [x.flags.writeable for x in arrays]
    for x in arrays:
        x.flags.writeable = False
    yield
    for x, copy, flag in zip(arrays, before, writable, strict=True):
        assert_same_bits(x, copy, "an input") if x.dtype.kind not in "iu" else np.testing.assert_array_equal(x, copy)
        x.flags.writeable = flag


def assert_apart(outputs: Sequence[Any], inputs: Sequence[Any]) -> None:
    """Fail if an output shares memory with an input or with another output."""
    for i, x in enumerate(outputs):
        assert not any(np.shares_memory(x, y) for y in [*inputs, *outputs[:i]])


CASES = [(name, i) for name in [*DENSE, "SparseAdam"] for i in range(4)] + [(name, 0) for name in MEASURED]


@pytest.mark.sweep(5)
@pytest.mark.parametrize(("dtype", "rounding"), ROUNDINGS)
@pytest.mark.parametrize(("name", "i"), CASES)
def test_equals_the_optimizer(name: str, i: int, dtype: str, rounding: str) -> None:
    if dtype == "complex64" and name not in DENSE:
        pytest.skip(f"{name} takes no complex parameters")
    hyper = configuration(name, dtype, 2 * i + (rounding == "each"))
    rng = np.random.default_rng(i)
    arrays = start(name, dtype, 5)
    optimizer = getattr(refoptim, name)([x.copy() for x in arrays], **hyper)
    params, state = arrays, None
    for t in range(1, STEPS + 1):
        grads = drawn_gradients(name, rng, arrays, dtype)
        with refoptim.rounding(rounding):
            optimizer.step(grads=grads)
        with frozen(params, grads, state, hyper):
            inputs = [x for x in arrays_in([params, grads, state]) if x.size]
            params, state = function(name)(params, grads, state, t, rounding=rounding, **hyper)
        assert_apart([x for x in arrays_in([params, state]) if x.size], inputs)
        for p, new, values in zip(optimizer.param_groups[0]["params"], params, state, strict=True):
            assert_same_bits(new, p.data, f"step {t}, {p}")
            kept = {key: x for key, x in optimizer.state[p].items() if key != "step"}
            assert values.keys() == kept.keys()
            for key, x in kept.items():
                assert_same_bits(values[key], x, f"step {t}, {p}, {key}")


@pytest.mark.parametrize("name", [*DENSE, *MEASURED])
def test_without_a_gradient_nothing_moves(name: str) -> None:
    hyper = configuration(name, "float64", 3)
    params = start(name, "float64", 5)
    grads = [gradient(np.random.default_rng(1), x.shape, "float64") for x in params]
    first, state = function(name)(params, grads, None, 1, **hyper)
    moved, after = function(name)(first, [None, *grads[1:]], state, 2, **hyper)
    assert moved[0] is first[0]
    assert after[0] == state[0]
    assert any(np.any(x != y) for x, y in zip(moved[1:], first[1:], strict=True))


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
@pytest.mark.parametrize("momentum", [0, 0.8])
def test_sparse_gradients(name: str, momentum: float) -> None:
    hyper: Hyper = dict(lr=0.1, maximize=True) | ({"momentum": momentum} if name == "SGD" else {"lr_decay": 0.3})
    rng = np.random.default_rng(3)
    arrays = [stored(rng.standard_normal((6, 2)), "float32")]
    optimizer = getattr(refoptim, name)([arrays[0].copy()], **hyper)
    params, state = arrays, None
    for t in range(1, STEPS + 1):
        grads = [sparse_gradient(rng, (6, 2), 1, "float32")]
        optimizer.step(grads=grads)
        with frozen(params, grads, state):
            params, state = function(name)(params, grads, state, t, **hyper)
        assert_same_bits(params[0], optimizer.param_groups[0]["params"][0].data, f"step {t}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DENSE)
def test_differentiable_replaces_arrays(name: str, dtype: str) -> None:
    """A differentiable step gives new arrays, with the bits of an ordinary one."""
    hyper = configuration(name, dtype, 5)
    rng = np.random.default_rng(4)
    arrays = start(name, dtype, 6)
    ordinary = getattr(refoptim, name)([x.copy() for x in arrays], **hyper)
    replacing = getattr(refoptim, name)(arrays, differentiable=True, **hyper)
    mine, its = (optimizer.param_groups[0]["params"] for optimizer in (ordinary, replacing))
    for t in range(1, STEPS + 1):
        grads = drawn_gradients(name, rng, arrays, dtype)
        ordinary.step(grads=grads)
        held = [[p.data, *arrays_in(replacing.state.get(p, {}))] for p in its]
        copies = [[x.copy() for x in old] for old in held]
        with frozen(grads):
            replacing.step(grads=grads)
        for p, q, old, copied in zip(mine, its, held, copies, strict=True):
            for x, y in zip(old, copied, strict=True):
                assert_same_bits(x, y, f"step {t}, {p}, an old array")
            new = [q.data, *arrays_in(replacing.state[q])]
            assert_apart(new if q.data.size else [], [*old, *arrays_in(grads)])
            assert_same_bits(q.data, p.data, f"step {t}, {p}")
            for key, x in ordinary.state[p].items():
                assert_same_bits(replacing.state[q][key], x, f"step {t}, {p}, {key}")


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
@pytest.mark.parametrize("maximize", [False, True])
def test_differentiable_steps_leave_other_rows_alone(name: str, maximize: bool) -> None:
    """Rows that a sparse gradient does not touch keep their bits, -0 among them, with no eps to divide by."""
    hyper: Hyper = dict(lr=0.1, maximize=maximize) | ({"eps": 0} if name == "Adagrad" else {})
    array = np.array([[-0.0, 0.0], [1.5, -2.0], [-0.0, 3.0]], "float32")
    optimizer = getattr(refoptim, name)([array.copy()], differentiable=True, **hyper)
    optimizer.step(grads=[SparseGrad(np.array([[1]]), np.array([[0.5, 0.25]], "float32"), (3, 2))])
    new = optimizer.param_groups[0]["params"][0].data
    assert_same_bits(new[[0, 2]], array[[0, 2]], "rows without a gradient")
    assert np.all(new[1] != array[1])


class Dual(np.lib.mixins.NDArrayOperatorsMixin):
    """Numbers with derivatives: ``value``, and ``tangent`` with one more axis in front, one entry per input.

    Nothing can be written into it: no ``out``, no ``x += y``, no ``x[...] = y``.
    """

    def __init__(self, value: Any, tangent: Any) -> None:
        self.value, self.tangent = np.asarray(value), np.asarray(tangent)
        assert self.tangent.shape[1:] == self.value.shape

    dtype = property(lambda self: self.value.dtype)
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)

    def reshape(self, *shape: Any) -> Dual:
        value = self.value.reshape(*shape)
        return Dual(value, self.tangent.reshape(len(self.tangent), *value.shape))

    def astype(self, dtype: Any) -> Dual:
        return Dual(self.value.astype(dtype), self.tangent.astype(dtype))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or "out" in options:
            raise TypeError("a Dual cannot be written into, and another array not with one")
        values = [x.value if isinstance(x, Dual) else x for x in inputs]
        out = ufunc(*values, **options)
        if out.dtype == bool:
            return out
        slopes = SLOPES[ufunc](out, *values)
        return Dual(out, sum(d * x.tangent for d, x in zip(slopes, inputs, strict=True) if isinstance(x, Dual)))

    def __array_function__(self, f: Any, types: Any, args: Any, options: Any) -> Any:
        values = [x.value if isinstance(x, Dual) else x for x in args]
        out = f(*values, **options)
        if f is np.where:
            of_x, of_y = (getattr(x, "tangent", np.zeros((1,) * (1 + out.ndim))) for x in args[1:])
            return Dual(out, np.where(args[0], of_x, of_y))
        if f in (np.zeros_like, np.full_like):
            return Dual(out, np.zeros((len(self.tangent), *out.shape)))
        raise TypeError(f"{f.__name__} is not a function of Duals")

    def __iadd__(self, other: Any) -> Any:
        raise TypeError("a Dual cannot be written into")

    __isub__ = __imul__ = __itruediv__ = __setitem__ = __iadd__


Slopes = Callable[..., tuple[Any, ...]]

SLOPES: dict[Any, Slopes] = {
    np.add: lambda out, x, y: (1.0, 1.0),
    np.subtract: lambda out, x, y: (1.0, -1.0),
    np.multiply: lambda out, x, y: (y, x),
    np.divide: lambda out, x, y: (1 / y, -out / y),
    np.negative: lambda out, x: (-1.0,),
    np.sqrt: lambda out, x: (0.5 / out,),
    np.absolute: lambda out, x: (np.sign(x),),
}
"""Derivatives of a function with respect to its inputs, given its value and its inputs."""


def test_a_dual_refuses_to_be_written_into() -> None:
    x = Dual(np.ones(2), np.ones((1, 2)))
    with pytest.raises(TypeError):
        np.add(x, 1.0, out=np.empty(2))
    with pytest.raises(TypeError):
        x += 1
    with pytest.raises(TypeError):
        x[0] = 1


DIFFERENTIABLE: dict[str, Hyper] = {
    "SGD": dict(lr=0.07, momentum=0.8, nesterov=True, weight_decay=0.1, maximize=True),
    "Adam": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2, amsgrad=True, maximize=True),
    "AdamW": dict(lr=0.05, betas=(0.4, 0.8), eps=1e-3, weight_decay=0.2),
    "NAdam": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2, momentum_decay=0.1),
    "RAdam": dict(lr=0.05, betas=(0.6, 0.9), eps=1e-3, weight_decay=0.2, decoupled_weight_decay=True),
    "Adamax": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
    "Adadelta": dict(lr=0.8, rho=0.7, eps=1e-2, weight_decay=0.2),
    "Adagrad": dict(lr=0.05, lr_decay=0.2, initial_accumulator_value=0.3, eps=1e-3, weight_decay=0.2),
    "RMSprop": dict(lr=0.05, alpha=0.6, eps=1e-2, momentum=0.7, centered=True, weight_decay=0.2),
    "Rprop": dict(lr=0.05, etas=(0.4, 1.3), step_sizes=(0.01, 0.2)),
    "ASGD": dict(lr=0.05, lambd=0.1, alpha=0.7, t0=2, weight_decay=0.2),
}


@pytest.fixture
def double_registers() -> Iterator[None]:
    """Keep NAdam's and ASGD's registers in double precision, so that nothing is rounded to float32 on the way."""
    refoptim.set_default_dtype("float64")
    yield
    refoptim.set_default_dtype("float32")


def path() -> tuple[Any, list[Any]]:
    """Draw a parameter and the gradients of some steps, none of them near a kink of the rules."""
    rng = np.random.default_rng(8)
    shape = (3, 5)
    return rng.standard_normal(shape), [rng.standard_normal(shape) for _ in range(STEPS)]


def trajectory(name: str, p: Any, grads: Sequence[Any], **other: Any) -> dict[str, Any]:
    """Return the parameter and the state arrays after some steps; ``other`` settings replace the usual ones."""
    params, state = [p], None
    for t, g in enumerate(grads, 1):
        params, state = function(name)(params, [g], state, t, **DIFFERENTIABLE[name] | other)
    return {"value": params[0]} | {key: x for key, x in state[0].items() if x.ndim}


def seeded(x: Any, input_number: int) -> Dual:
    """Make an input a Dual: the derivative with respect to itself is 1."""
    tangent = np.zeros((STEPS + 1, *x.shape))
    tangent[input_number] = 1
    return Dual(x, tangent)


def derivatives(name: str, **other: Any) -> dict[str, Any]:
    """Return the derivatives of each element with respect to that of the parameter (0) and of gradient t."""
    p, grads = path()
    out = trajectory(name, seeded(p, 0), [seeded(g, t) for t, g in enumerate(grads, 1)], **other)
    for key, x in trajectory(name, p, grads, **other).items():
        assert_same_bits(out[key].value, x, key)
    return {key: x.tangent for key, x in out.items()}


def torch_trajectory(name: str, p: Any, grads: Sequence[Any], **other: Any) -> dict[str, Any]:
    """Take torch's differentiable steps on copies, for they write in place what the ones before need for derivatives.

    torch's SGD detaches its first buffer from the gradient; one of zeros is the same and stays attached.
    """
    import torch

    state = {"momentum_buffer": torch.zeros_like(p)} if name == "SGD" else {}
    for g in grads:
        p = p.clone()
        p.grad = g
        optimizer = getattr(torch.optim, name)([p], differentiable=True, **DIFFERENTIABLE[name] | other)
        optimizer.state[p].update({key: x.clone() for key, x in state.items()})
        optimizer.step()
        state = optimizer.state[p]
    return {"value": p} | {key: x for key, x in state.items() if x.ndim}


@pytest.mark.usefixtures("double_registers")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_equal_those_of_autograd(name: str) -> None:
    """torch's ASGD cannot be differentiated while it averages, so here it does not."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    other = {"t0": 100} if name == "ASGD" else {}
    p, grads = path()
    inputs = [torch.tensor(x, requires_grad=True) for x in (p, *grads)]
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            theirs = torch_trajectory(name, inputs[0], inputs[1:], **other)
    finally:
        torch.set_default_dtype(torch.float32)
    ours = derivatives(name, **other)
    assert ours.keys() == theirs.keys()
    for key, x in theirs.items():
        slopes = torch.autograd.grad(x.sum(), inputs, allow_unused=True, retain_graph=True)
        expected = np.stack([np.zeros(p.shape) if d is None else d.numpy() for d in slopes])
        np.testing.assert_allclose(ours[key], expected, rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.usefixtures("double_registers")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_equal_central_differences(name: str) -> None:
    p, grads = path()
    inputs, h = [p, *grads], 2.0**-18
    ours = derivatives(name)
    for i, x in enumerate(inputs):
        above, below = (
            trajectory(name, moved[0], moved[1:])
            for moved in ([*inputs[:i], x + step, *inputs[i + 1 :]] for step in (h, -h))
        )
        for key in ours:
            slope = (above[key] - below[key]) / (2 * h)
            np.testing.assert_allclose(ours[key][i], slope, rtol=1e-6, atol=1e-8, err_msg=f"{key}, input {i}")


@pytest.mark.parametrize("which", ["parameter", "gradients"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_where_only_some_inputs_have_them(name: str, which: str) -> None:
    p, grads = path()
    own = [seeded(p, 0), *(seeded(g, t) for t, g in enumerate(grads, 1))]
    both = trajectory(name, own[0], own[1:])
    some = trajectory(name, own[0], grads) if which == "parameter" else trajectory(name, p, own[1:])
    inputs = slice(0, 1) if which == "parameter" else slice(1, None)
    for key, x in both.items():
        tangent = some[key].tangent if isinstance(some[key], Dual) else np.zeros_like(x.tangent)
        np.testing.assert_allclose(tangent[inputs], x.tangent[inputs], rtol=1e-14, atol=1e-14, err_msg=key)
