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
    with pytest.raises(ValueError, match=r"must have dtype float|has a master copy"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())
    for mine, old in zip(optimizers[1].state.values(), before, strict=True):
        assert_same_bits(mine["exp_avg"], old["exp_avg"])


# ------------------------------------------------------------------------------------------- to float32 and from there


def float32_run(name: str, dtype: str, steps: int = 3, fused: bool | None = None) -> Any:
    """Run an optimizer of float32 weights that is given 16-bit gradients, widened."""
    optimizer = make(name, [wide(narrow(0, (6, 5), dtype)) + np.float32(1e-5)], fused=fused)
    for k in range(steps):
        step_wide(name, optimizer, dtype, k)
    return optimizer


def step_wide(name: str, optimizer: Any, dtype: str, k: int) -> None:
    optimizer.step(grads=[as_gradient(name, wide(narrow(10 + k, (6, 5), dtype)))])


def step_narrow(name: str, optimizer: Any, dtype: str, k: int) -> None:
    optimizer.step(grads=[as_gradient(name, narrow(10 + k, (6, 5), dtype))])


def mixed(name: str, weights: Any, dtype: str, fused: bool | None = None) -> Any:
    with np.errstate(under="ignore"):
        return make(name, [Parameter(weights.astype(dtype_of(dtype)), master=True)], fused=fused)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("given", [True, False], ids=["with the weights", "without"])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_a_float32_run_goes_on_with_master_copies(name: str, dtype: str, given: bool, fused: bool | None) -> None:
    """The witness goes on in float32, from the weights or from these rounded to 16 bits."""
    witness = float32_run(name, dtype)
    (w,) = (p.data for p in witness.param_groups[0]["params"])
    saved = witness.state_dict()
    one = mixed(name, w, dtype, fused)
    (p,) = one.param_groups[0]["params"]
    if given:
        saved["state"].setdefault(0, {})["master"] = w.copy()
    else:
        w[...] = wide(p.data)
    one.load_state_dict(saved)
    for k in range(3, 6):
        step_wide(name, witness, dtype, k)
        step_narrow(name, one, dtype, k)
        assert_same_bits(one.state[p]["master"], w, k)
        assert_same_bits(p.data, w.astype(p.dtype), k)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("weights", ["the copy", "rounded"])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_master_copies_goes_on_in_float32(name: str, dtype: str, weights: str, fused: bool | None) -> None:
    """The parameters become the copies, in place, and the run has the bits of the one that keeps them."""
    one = mixed(name, wide(narrow(0, (6, 5), dtype)), dtype)
    (p,) = one.param_groups[0]["params"]
    for k in range(3):
        step_narrow(name, one, dtype, k)
    w = one.state[p]["master"].copy() if weights == "the copy" else wide(p.data)
    other = make(name, [w], fused=fused)
    other.load_state_dict(one.state_dict())
    assert_same_bits(w, one.state[p]["master"])
    assert all("master" not in values for values in other.state.values())
    for k in range(3, 6):
        step_narrow(name, one, dtype, k)
        step_wide(name, other, dtype, k)
        assert_same_bits(w, one.state[p]["master"], k)


def test_weights_may_be_put_back_after_the_state() -> None:
    """A copy that the state does not hold is made in the next step, of what the parameter is then."""
    witness = float32_run("Adam", "float16")
    (q,) = witness.param_groups[0]["params"]
    one = mixed("Adam", np.zeros((6, 5), np.float32), "float16")
    (p,) = one.param_groups[0]["params"]
    one.load_state_dict(witness.state_dict())
    p.data[...] = q.data[...] = q.data.astype(np.float16)
    step_wide("Adam", witness, "float16", 3)
    step_narrow("Adam", one, "float16", 3)
    assert_same_bits(one.state[p]["master"], q.data)


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Adagrad", "Adafactor"])
def test_a_state_may_hold_the_weights_alone(name: str) -> None:
    """A new run with master copies begins with all bits of its float32 weights."""
    witness = float32_run(name, "float16", steps=0)
    (q,) = witness.param_groups[0]["params"]
    one = mixed(name, q.data, "float16")
    (p,) = one.param_groups[0]["params"]
    one.load_state_dict({**one.state_dict(), "state": {0: {"master": q.data.copy()}}})
    for k in range(3):
        step_wide(name, witness, "float16", k)
        step_narrow(name, one, "float16", k)
        assert_same_bits(one.state[p]["master"], q.data, k)


def mismatched() -> dict[str, tuple[Any, str]]:
    locked = np.ones(2, np.float32)
    locked.flags.writeable = False
    nearly = np.ones(2, np.float32)
    nearly[1] += np.float32(2.0**-23)
    return {
        "other weights": (nearly, "must be the float32 copy of the parameter, which is another array"),
        "float64": (np.ones(2), "state 1 has a master copy, in float32, and the parameter is float64"),
        "complex64": (np.ones(2, np.complex64), "and the parameter is complex64"),
        "16 bits without a copy": (np.ones(2, np.float16), "and the parameter is float16: it must be float32, or have"),
        "read-only": (locked, "optimizer can only optimize writable arrays"),
    }


@pytest.mark.parametrize("what", mismatched())
def test_a_copy_that_does_not_fit_is_refused(what: str) -> None:
    """Two parameters, the second wrong: the first does not become its copy either."""
    saving = refoptim.Adam([Parameter(np.ones(2, np.float16), master=True) for _ in range(2)], lr=2.0**-12)
    saving.step(grads=[np.ones(2, np.float16)] * 2)
    saved = saving.state_dict()
    x, message = mismatched()[what]
    first, second = np.ones(2, np.float32), x.copy()
    loading = refoptim.Adam([first, second])
    second.flags.writeable = x.flags.writeable
    with pytest.raises(ValueError, match=message):
        loading.load_state_dict(saved)
    assert_same_bits(first, np.ones(2, np.float32))
    assert_same_bits(second, x)
    assert not loading.state


def test_lbfgs_takes_no_copies() -> None:
    optimizer = refoptim.LBFGS([np.ones(2, np.float32)])
    saved = optimizer.state_dict()
    saved["state"] = {0: {"master": np.ones(2, np.float32)}}
    with pytest.raises(ValueError, match="loaded state dict is not one of LBFGS: state 0 has 'master'"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("where", ["host", "gpu"])
def test_copies_go_to_where_the_parameter_lies(gpu: Any, where: str) -> None:
    one = mixed("Adam", wide(narrow(0, (6, 5), "float16")), "float16")
    step_narrow("Adam", one, "float16", 0)
    (p,) = one.param_groups[0]["params"]
    with gpu.cuda.Device(1):
        w = wide(p.data) if where == "host" else gpu.asarray(wide(p.data))
        other = make("Adam", [w])
    other.load_state_dict(one.state_dict())
    assert_same_bits(w if where == "host" else w.get(), one.state[p]["master"])
