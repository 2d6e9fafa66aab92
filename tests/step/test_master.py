"""Master copies of 16-bit parameters: float32 arithmetic and state, whatever runs the rule."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_bits, assert_same_runs, dtype_of
from helpers.rooms import DENSE, NAMES, make, normal
from refoptim import Parameter, SparseGrad

NARROW = ["float16", "bfloat16"]

ENGINES = [pytest.param(None, id="reference"), pytest.param(True, id="kernels", marks=NEEDS_KERNELS)]

ROWS = [[3, 0, 4]]


def narrow(seed: int, shape: tuple[int, ...], dtype: str) -> Any:
    return normal(seed, *shape).astype(dtype_of(dtype))


def as_gradient(name: str, g: Any) -> Any:
    """Return an array as a gradient that the optimizer of this name takes; a sparse one has no row twice."""
    return SparseGrad(ROWS, g[ROWS[0]], g.shape) if name == "SparseAdam" else g


def wide(x: Any) -> Any:
    return x.astype(np.float32)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_a_master_copy_is_what_a_float32_optimizer_holds(name: str, dtype: str, fused: bool | None) -> None:
    """The witness is an optimizer of float32 copies that is given the same gradients, widened."""
    shapes = [(5, 3), (6, 40)]
    params = [Parameter(narrow(i, shape, dtype), master=True) for i, shape in enumerate(shapes)]
    one = make(name, params, fused=fused, maximize=True)
    other = make(name, [wide(p.data) for p in params], maximize=True)
    for k in range(4):
        grads = [narrow(10 + 2 * k + i, shape, dtype) for i, shape in enumerate(shapes)]
        one.step(grads=[as_gradient(name, g) for g in grads])
        other.step(grads=[as_gradient(name, wide(g)) for g in grads])
        for p, q in zip(params, other.param_groups[0]["params"], strict=True):
            mine, theirs = dict(one.state[p]), other.state[q]
            assert p.data.dtype == dtype_of(dtype)
            assert_same_bits(p.data, q.data.astype(p.dtype), (k, "rounded"))
            assert_same_bits(mine.pop("master"), q.data, (k, "master"))
            assert sorted(mine) == sorted(theirs)
            for key, x in theirs.items():
                assert type(mine[key]) is type(x)
                assert_same_bits(mine[key], x, (k, key))


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
def test_small_steps_add_up(dtype: str, fused: bool | None) -> None:
    """Each of 64 steps of 2**-12 is lost in a 16-bit number near 1; together they are 2**-6."""
    p, q = (Parameter(np.ones(3, dtype_of(dtype)), master=master) for master in (True, False))
    optimizer = refoptim.SGD([p, q], lr=2.0**-12, fused=fused)
    for _ in range(64):
        optimizer.step(grads=[np.ones_like(p.data), np.ones_like(q.data)])
    assert p.data.astype(float).tolist() == [1 - 2.0**-6] * 3
    assert q.data.astype(float).tolist() == [1.0] * 3


@NEEDS_KERNELS
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_have_the_bits_of_the_reference(name: str, dtype: str) -> None:
    """Several chunks, arrays that are not in order, one without a master copy; the reference rounds as kernels do."""
    shapes = [(5, 4), (0, 3), (40, 500)] if name == "Muon" else [(5, 4), (0, 3), (40, 500), (7, 3, 2)]

    def params() -> list[Parameter]:
        arrays = [narrow(i, shape, dtype) for i, shape in enumerate(shapes)]
        arrays.append(narrow(8, (12, 9), dtype)[::2, 1:])
        arrays.append(np.asfortranarray(narrow(9, (6, 8), dtype)))
        return [Parameter(x, master=i != 2) for i, x in enumerate(arrays)]

    one, other = make(name, params(), fused=True), make(name, params())
    for k in range(3):
        grads = [narrow(20 + 9 * k + i, p.shape, dtype) for i, p in enumerate(one.param_groups[0]["params"])]
        if name == "SparseAdam":
            rows = [[1, 0, 1, 1, 2]] if k else [[]]
            grads = [
                SparseGrad(np.array(rows, int) % max(1, len(g)), g[rows[0]], g.shape) if g.size else None for g in grads
            ]
        one.step(grads=grads)
        with refoptim.rounding("store"):
            other.step(grads=grads)
        assert_same_runs(one, other, k)


@pytest.mark.parametrize("fused", ENGINES)
def test_state_is_float32_and_the_parameter_is_not(fused: bool | None) -> None:
    for name in DENSE:
        p = Parameter(narrow(0, (4, 3), "float16"), master=True)
        optimizer = make(name, [p], fused=fused)
        optimizer.step(grads=[narrow(1, (4, 3), "float16")])
        dtypes = {x.dtype for x in optimizer.state[p].values() if isinstance(x, np.ndarray)}
        assert (dtypes, p.dtype) == ({np.dtype("float32")}, np.dtype("float16")), name


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("through", ["state dict", "pickle", "deepcopy"])
def test_a_run_is_taken_up_again(through: str, fused: bool | None) -> None:
    """What 16 bits do not hold comes from the saved master copy."""
    x = narrow(0, (30,), "float16")
    straight = make("Adam", [Parameter(x.copy(), master=True)], fused=fused)
    broken = make("Adam", [Parameter(x.copy(), master=True)], fused=fused)
    for k in range(3):
        for optimizer in (straight, broken):
            optimizer.step(grads=[narrow(k, (30,), "float16")])
    if through == "state dict":
        saved, (p,) = broken.state_dict(), broken.param_groups[0]["params"]
        broken = make("Adam", [Parameter(p.data.copy(), master=True)], fused=fused)
        broken.load_state_dict(saved)
        saved["state"][0]["master"][:] = 7
    else:
        broken = pickle.loads(pickle.dumps(broken)) if through == "pickle" else copy.deepcopy(broken)
    assert broken.param_groups[0]["params"][0].master is True
    for k in range(3):
        for optimizer in (straight, broken):
            optimizer.step(grads=[narrow(10 + k, (30,), "float16")])
        assert_same_runs(straight, broken, k)


def test_the_state_of_some_optimizers_is_made_with_them() -> None:
    p = Parameter(narrow(0, (4,), "float16"), master=True)
    optimizer = refoptim.Adagrad([p], initial_accumulator_value=0.1)
    assert_same_bits(optimizer.state[p]["master"], wide(p.data))
    assert_same_bits(optimizer.state[p]["sum"], np.full(4, 0.1, np.float32))


@pytest.mark.parametrize("fused", ENGINES)
def test_what_others_write_into_the_parameter_is_lost(fused: bool | None) -> None:
    p = Parameter(np.ones(2, np.float16), master=True)
    optimizer = refoptim.SGD([p], lr=0.5, fused=fused)
    optimizer.step(grads=[np.ones(2, np.float16)])
    p.data[:] = 9
    optimizer.step(grads=[np.ones(2, np.float16)])
    assert p.data.tolist() == [0, 0]


@pytest.mark.parametrize("fused", ENGINES)
def test_a_master_copy_may_be_asked_for_later(fused: bool | None) -> None:
    """From then on the copy is updated; it begins as the parameter is. Momentum of 16 bits is refused."""
    p = Parameter(np.ones(2, np.float16))
    optimizer = refoptim.SGD([p], lr=2.0**-12, fused=fused)
    for k in range(8):
        p.master = k >= 4
        optimizer.step(grads=[np.ones(2, np.float16)])
    assert optimizer.state[p]["master"].tolist() == [1 - 2.0**-10] * 2
    q = Parameter(np.ones(2, np.float16))
    optimizer = refoptim.SGD([q], lr=0.5, momentum=0.5, fused=fused)
    for _ in range(2):
        optimizer.step(grads=[np.ones(2, np.float16)])
    q.master = True
    with pytest.raises(ValueError, match=r"the state momentum_buffer must have shape .* and dtype float32"):
        optimizer.step(grads=[np.ones(2, np.float16)])


@pytest.mark.parametrize(
    ("dtype", "master", "error", "message"),
    [
        (
            "float32",
            True,
            ValueError,
            "master=True keeps a float32 copy of 16-bit data, but the data has dtype float32",
        ),
        ("float64", True, ValueError, "but the data has dtype float64"),
        ("complex64", True, ValueError, "but the data has dtype complex64"),
        ("float16", 1, TypeError, "master must be True or False, got 1"),
        ("float16", None, TypeError, "master must be True or False, got None"),
    ],
)
def test_wrong_arguments(dtype: str, master: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Parameter(np.ones(2, dtype), master=master)


@pytest.mark.parametrize(
    ("master", "message"),
    [
        (np.ones(2, np.float16), "the state master must have shape .* and dtype float32"),
        (np.ones(3, np.float32), r"the state master must have shape \(2,\)"),
        ([1.0, 1.0], "the state master must be a NumPy array"),
        (np.broadcast_to(np.float32(1), (2,)), "the state master must be writable"),
    ],
)
@pytest.mark.parametrize("fused", ENGINES)
def test_a_wrong_copy_is_refused(fused: bool | None, master: Any, message: str) -> None:
    p = Parameter(np.ones(2, np.float16), master=True)
    optimizer = refoptim.SGD([p], lr=0.5, fused=fused)
    for _ in range(2):
        optimizer.step(grads=[np.ones(2, np.float16)])
    optimizer.state[p]["master"] = master
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads=[np.ones(2, np.float16)])
    assert p.data.tolist() == [0, 0]


def test_differentiable_is_refused() -> None:
    p = Parameter(np.ones(2, np.float16), master=True)
    with pytest.raises(RuntimeError, match="`differentiable` replaces parameters, and a master copy"):
        refoptim.SGD([p], lr=0.5, differentiable=True).step(grads=[np.ones(2, np.float16)])


@pytest.mark.parametrize(("saved", "loading"), [(True, False), (False, True)])
def test_state_with_and_without_a_copy_is_not_the_same(saved: bool, loading: bool) -> None:
    optimizers = [make("Adam", [Parameter(np.ones(2, np.float16), master=x)]) for x in (saved, loading)]
    for optimizer in optimizers:
        optimizer.step(grads=[np.ones(2, np.float16)])
    before = copy.deepcopy(list(optimizers[1].state.values()))
    with pytest.raises(ValueError, match=r"must have dtype float|lacks 'master'|has 'master'"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())
    for mine, old in zip(optimizers[1].state.values(), before, strict=True):
        assert_same_bits(mine["exp_avg"], old["exp_avg"])
