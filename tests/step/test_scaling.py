"""step(grad_scale=, found_inf=): gradients are divided by the scale of the loss, and steps skipped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_bits, assert_same_runs, dtype_of
from helpers.rooms import DENSE, MEASURED, NAMES, gradient, make, members, normal
from refoptim import Parameter, SparseGrad
from refoptim.numerics.arith import as_reals

ENGINES = [pytest.param(None, id="reference"), pytest.param(True, id="kernels", marks=NEEDS_KERNELS)]

NARROW = ["float16", "bfloat16"]

BEGINNINGS: dict[str, dict[str, Any]] = {
    "Adagrad": {"initial_accumulator_value": 0.25},
    "FTRL": {"initial_accumulator_value": 0.25},
    "Rprop": {"lr": 0.125},
    "Yogi": {"initial_accumulator": 0.125, "initial_exp_avg": -0.0625},
}
"""Numbers that state begins at and 16 bits hold exactly, so that it begins alike in them and in float32."""

SCALES = (1024, 0.7, np.float64(3e-5), np.array([65536.0]), np.float32(7), 1 / 3)


def divided(g: Any, scale: Any) -> Any:
    """Divide the reals of a gradient by the scale, rounded to float32, in the arithmetic of the gradient."""
    if isinstance(g, SparseGrad):
        return SparseGrad(g.indices, divided(g.values, scale), g.shape)
    out = g.copy()
    reals = as_reals(out)
    reals /= reals.dtype.type(np.float32(float(np.asarray(scale).reshape(()))))
    return out


def sparse_or_not(name: str, g: Any) -> Any:
    return SparseGrad([[3, 0, 1]], g[[3, 0, 1]], g.shape) if name == "SparseAdam" else g


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_divided(name: str, dtype: str, fused: bool | None) -> None:
    """The witness is given gradients that were divided by hand; the scale is another one in each step."""
    if dtype.startswith("complex") and name in ("SparseAdam", *MEASURED):
        pytest.skip(f"{name} takes no complex parameters")
    params = [normal(i, 6, 5, dtype=dtype) for i in range(2)]
    one, other = (make(name, [x.copy() for x in params], fused=x, maximize=True) for x in (fused, None))
    for k, scale in enumerate(SCALES):
        grads = [sparse_or_not(name, normal(9 + 2 * k + i, 6, 5, dtype=dtype)) for i in range(2)]
        one.step(grads=grads, grad_scale=scale)
        other.step(grads=[divided(g, scale) for g in grads])
        assert_same_runs(one, other, k)


@pytest.mark.parametrize("name", DENSE)
def test_gradients_of_differentiable_steps_are_divided(name: str) -> None:
    """Such a step makes new arrays, in another way than all others."""
    x, g = normal(0, 6, 5), normal(1, 6, 5)
    one, other = (make(name, [x.copy()]) for _ in range(2))
    one.param_groups[0]["differentiable"] = True
    for scale in SCALES[:2]:
        one.step(grads=[g], grad_scale=scale)
        other.step(grads=[divided(g, scale)])
    assert_same_runs(one, other)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", [name for name in DENSE if name not in ("Adafactor", "Muon")])
def test_stored_numbers_are_rounded_once(name: str, dtype: str, fused: bool | None) -> None:
    """The witness widens all arrays, divides and steps in float32, and rounds what it kept by hand; some overflows."""
    kind = dtype_of(dtype)
    x = normal(0, 40).astype(kind)
    exact = BEGINNINGS.get(name, {})
    one, other = make(name, [x.copy()], fused=fused, **exact), make(name, [x.astype(np.float32)], **exact)
    for k, scale in enumerate(SCALES):
        g = normal(9 + k, 40).astype(kind)
        with refoptim.rounding("store"):
            one.step(grads=[g], grad_scale=scale)
        other.step(grads=[divided(g.astype(np.float32), scale)])
        (p,), (q,) = members(one), members(other)
        kept = {key: z for key, z in other.state.get(q, {}).items() if isinstance(z, np.ndarray)}
        with np.errstate(over="ignore"):
            for z in (q.data, *kept.values()):
                z[...] = z.astype(kind)
        assert_same_bits(p.data, q.data.astype(kind), k)
        for key, z in kept.items():
            assert_same_bits(one.state[p][key], z.astype(kind), (k, key))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop"])
def test_each_word_is_rounded(name: str, dtype: str) -> None:
    """Where every word is rounded to 16 bits, so is the quotient."""
    kind = dtype_of(dtype)
    one, other = (make(name, [normal(0, 40).astype(kind)]) for _ in range(2))
    for k, scale in enumerate(SCALES):
        g = normal(9 + k, 40).astype(kind)
        one.step(grads=[g], grad_scale=scale)
        other.step(grads=[divided(g.astype(np.float32), scale).astype(kind)])
        assert_same_runs(one, other, k)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_a_master_copy_takes_the_quotient(name: str, fused: bool | None) -> None:
    p = Parameter(normal(0, 6, 5).astype(np.float16), master=True)
    one, other = make(name, [p], fused=fused), make(name, [p.data.astype(np.float32)])
    for k, scale in enumerate(SCALES):
        g = normal(9 + k, 6, 5).astype(np.float16)
        one.step(grads=[sparse_or_not(name, g)], grad_scale=scale)
        other.step(grads=[sparse_or_not(name, divided(g.astype(np.float32), scale))])
        assert_same_bits(one.state[p]["master"], members(other)[0].data, k)


SKIPPING = (True, 1, -0.5, float("inf"), np.float32(1), np.array([2.0]), np.array(1), np.bool_(True))
TAKING = (None, False, 0, 0.0, -0.0, np.float32(0), np.array([0.0]), np.array(0))


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_step_leaves_no_trace(name: str, fused: bool | None) -> None:
    """Neither as the first step, which would make state, nor later; the loss is returned all the same."""
    x = normal(0, 6, 3)
    one, other = (make(name, [x.copy()], fused=fused) for _ in range(2))
    bad = normal(1, 6, 3) * np.float32(np.inf)
    for k in range(4):
        for skip in SKIPPING:
            one.step(grads=[sparse_or_not(name, bad)], grad_scale=3, found_inf=skip)
            assert_same_runs(one, other, (k, skip))
        members(one)[0].grad = sparse_or_not(name, bad)
        assert one.step(lambda: 5.0, found_inf=1) == 5.0
        assert_same_runs(one, other, k)
        for optimizer in (one, other):
            optimizer.step(grads=[gradient(name, 5 + k, x)], found_inf=TAKING[k] if optimizer is one else None)
        assert_same_runs(one, other, k)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("taken", TAKING, ids=repr)
def test_zero_skips_nothing(taken: Any, fused: bool | None) -> None:
    p = np.ones(2)
    refoptim.SGD([p], lr=0.5, fused=fused).step(grads=[np.ones(2)], found_inf=taken)
    assert p.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"grad_scale": 0}, ValueError, r"grad_scale must be in \(0, inf\) as a float32 number, got 0"),
        ({"grad_scale": -2.0}, ValueError, "got -2.0"),
        ({"grad_scale": float("nan")}, ValueError, "got nan"),
        ({"grad_scale": float("inf")}, ValueError, "got inf"),
        ({"grad_scale": 1e39}, ValueError, r"got 1e\+39"),
        ({"grad_scale": 1e-60}, ValueError, "got 1e-60"),
        ({"grad_scale": "2"}, TypeError, "grad_scale must be a real number, got '2'"),
        ({"grad_scale": True}, TypeError, "grad_scale must be a real number, got True"),
        ({"grad_scale": 2j}, TypeError, "grad_scale must be a real number"),
        ({"grad_scale": np.ones(2)}, ValueError, r"Tensor grad_scale must be 1-element, got shape \(2,\)"),
        ({"found_inf": "yes"}, TypeError, "found_inf must be a real number, got 'yes'"),
        ({"found_inf": np.zeros(2)}, ValueError, r"Tensor found_inf must be 1-element, got shape \(2,\)"),
        ({"found_inf": [0]}, TypeError, "found_inf must be a real number"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fused", ENGINES)
def test_wrong_numbers(fused: bool | None, given: dict[str, Any], error: type[Exception], message: str) -> None:
    """Also in a step that would be skipped, and in one that is like the last."""
    p = np.ones(2)
    optimizer = make("Adam", [p], fused=fused)
    for _ in range(2):
        optimizer.step(grads=[np.ones(2)], grad_scale=2)
        before, state = p.copy(), copy.deepcopy(list(optimizer.state.values()))
        for more in ({}, {"found_inf": 1}):
            with pytest.raises(error, match=message):
                optimizer.step(grads=[np.ones(2)], **{**more, **given})
        assert_same_bits(p, before)
        assert next(iter(optimizer.state.values()))["step"] == state[0]["step"]


@pytest.mark.parametrize("fused", ENGINES)
def test_a_wrong_gradient_is_refused_in_a_skipped_step_too(fused: bool | None) -> None:
    optimizer = make("Adam", [np.ones(2)], fused=fused)
    with pytest.raises(ValueError, match="the gradient must have shape"):
        optimizer.step(grads=[np.ones(3)], found_inf=1)


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
@pytest.mark.parametrize("given", [{"grad_scale": 2.0}, {"found_inf": 0}])
def test_optimizers_that_evaluate_their_closure_refuse(name: str, given: dict[str, Any]) -> None:
    p = Parameter(np.ones(2), grad=np.ones(2))
    optimizer = getattr(refoptim, name)([p])
    with pytest.raises(TypeError, match=f"{name} takes no grad_scale and no found_inf"):
        optimizer.step(lambda: 1.0, **given)
    assert p.data.tolist() == [1, 1]


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_torch_does_the_same(name: str, fused: bool | None) -> None:
    """torch's fused kernels take both as attributes; they contract, so they agree to some ULP."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    x, settings = normal(0, 50), {"lr": 0.1, "weight_decay": 0.05}
    mine = getattr(refoptim, name)([x.copy()], fused=fused, **settings)
    tensor = torch.from_numpy(x.copy())
    theirs = getattr(torch.optim, name)([tensor], fused=True, **settings)
    for k, skip in enumerate((0, 1, 0, 0, 1, 0)):
        g = normal(3 + k, 50) * np.float32(512)
        mine.step(grads=[g], grad_scale=512, found_inf=skip)
        tensor.grad = torch.from_numpy(g.copy())
        theirs.grad_scale, theirs.found_inf = torch.tensor(512.0), torch.tensor(float(skip))
        theirs.step()
        np.testing.assert_allclose(members(mine)[0].data, tensor.numpy(), rtol=3e-6, atol=1e-6)
        counts = [state["step"] for state in mine.state.values() if "step" in state]
        assert counts == [int(state["step"]) for state in theirs.state.values() if "step" in state]


FLAGS = [
    True,
    np.True_,
    np.array(True),
    np.array([[True]]),
    lambda torch: torch.tensor(True),
    lambda torch: torch.ones(1),
]
CLEAR = [False, np.False_, np.array(False), np.array([False]), lambda torch: torch.tensor([False])]


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize(("flag", "skipped"), [*((x, True) for x in FLAGS), *((x, False) for x in CLEAR)])
def test_flags_skip_a_step(torch: Any, flag: Any, skipped: bool, fused: bool | None) -> None:
    """As a bool or an array that holds one, which a scaler may hand over."""
    w = np.ones(3)
    optimizer = refoptim.Adam([w], lr=0.5, fused=fused)
    optimizer.step(grads=[np.ones(3)], found_inf=flag(torch) if callable(flag) else flag)
    assert (w.tolist() == [1, 1, 1], not optimizer.state) == (skipped, skipped)


def test_two_flags_are_too_many(torch: Any) -> None:
    for flags in (np.zeros(2, bool), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="Tensor found_inf must be 1-element"):
            refoptim.SGD([np.ones(1)]).step(grads=[np.ones(1)], found_inf=flags)
    with pytest.raises(TypeError, match="grad_scale must hold a real number, got dtype bool"):
        refoptim.SGD([np.ones(1)]).step(grads=[np.ones(1)], grad_scale=np.array(True))
