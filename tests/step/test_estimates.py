"""Estimates beside the gradients: who gets them, what is checked, and that nothing writes into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from refoptim import Parameter, functional
from refoptim.distributed import Sharded
from refoptim.formats.raw import np_dtype

SHAPES = [(3, 5), (), (0,), (4099,)]

HYPER: dict[str, Any] = {"lr": 0.1, "betas": (0.7, 0.8), "weight_decay": 0.1, "p": 0.9, "eps": 0.2}


def draw(seed: int, dtype: Any = np.float64) -> list[Any]:
    """Draw an array for each parameter, laid out in several ways; they cannot be written to."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    arrays[0] = np.asfortranarray(arrays[0])
    arrays[3] = np.repeat(arrays[3], 2)[::2]
    for x in arrays:
        x.flags.writeable = False
    return arrays


def estimates_of(k: int, dtype: Any = np.float64) -> list[Any] | None:
    """Return the estimates of step ``k``: for all parameters, for some, or for none."""
    if k % 3 == 2:
        return None
    return [h if k % 3 == 0 or i % 2 else None for i, h in enumerate(draw(100 + k, dtype))]


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_each_parameter_takes_its_estimate(dtype: str, fused: bool | None) -> None:
    """The witness is the pure rule, one parameter after the other."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    kind = np_dtype(dtype)
    params = [np.array(x) for x in draw(0, kind)]
    optimizer = refoptim.Sophia(params, **HYPER, fused=fused)
    expected: list[Any] = [(x.copy(), {}) for x in params]
    for k in range(7):
        grads, estimates = draw(1 + k, kind), estimates_of(k, kind)
        with refoptim.rounding("store"):
            optimizer.step(grads=grads, estimates=estimates)
        for i, (p, state) in enumerate(expected):
            h = estimates and [estimates[i]]
            new = functional.sophia([p], [grads[i]], [state], k + 1, estimates=h, rounding="store", **HYPER)
            expected[i] = new[0][0], new[1][0]
    for x, (p, state), member in zip(params, expected, optimizer.param_groups[0]["params"], strict=True):
        assert x.tobytes() == p.tobytes()
        assert {name: y.tobytes() for name, y in optimizer.state[member].items()} == {
            name: y.tobytes() for name, y in state.items()
        }


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
def test_a_master_copy_takes_narrow_and_wide_estimates(fused: bool | None) -> None:
    """A float32 run with the same numbers is the witness."""
    x = draw(0, np.float16)[0]
    p, q = Parameter(x.copy(), master=True), x.astype(np.float32)
    one, other = refoptim.Sophia([p], **HYPER, fused=fused), refoptim.Sophia([q], **HYPER)
    for k, kind in enumerate([np.float16, np.float32, np.float16]):
        g, h = draw(1 + k, np.float16)[0], draw(9 + k, kind)[0]
        one.step(grads=[g], estimates=[h])
        other.step(grads=[g.astype(np.float32)], estimates=[h.astype(np.float32)])
        assert one.state[p]["master"].tobytes() == q.tobytes()


WRONG = [
    ([np.zeros(3)], ValueError, r"the estimate must have shape \(2,\), got \(3,\)"),
    ([np.zeros(2, np.float32)], TypeError, "the estimate must have dtype float64, got float32"),
    ([object()], TypeError, "the estimate must be an array, got object"),
    ([refoptim.SparseGrad([[0]], [1.0], (2,))], TypeError, "the estimate must be dense"),
    ([], ValueError, r"estimates must hold one estimate \(or None\) per parameter: 1, got 0"),
    (np.zeros(2), TypeError, "estimates must be an iterable of estimates in order"),
    ({"b": np.zeros(2)}, ValueError, "estimates holds an estimate for 'b', which is the name of no parameter"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_a_wrong_estimate_changes_nothing(wrong: Any, error: type[Exception], message: str) -> None:
    p = np.ones(2)
    optimizer = refoptim.Sophia([("a", p)], **HYPER)
    optimizer.step(grads=[np.ones(2)], estimates=[np.ones(2)])
    before = p.copy(), {name: x.copy() for name, x in next(iter(optimizer.state.values())).items()}
    with pytest.raises(error, match=message):
        optimizer.step(grads=[np.ones(2)], estimates=wrong)
    assert p.tobytes() == before[0].tobytes()
    assert all(x.tobytes() == before[1][name].tobytes() for name, x in next(iter(optimizer.state.values())).items())


def test_rules_without_estimates_refuse_them() -> None:
    with pytest.raises(TypeError, match="Adam takes no estimates"):
        refoptim.Adam([np.ones(2)]).step(grads=[np.ones(2)], estimates=[np.ones(2)])
    with pytest.raises(TypeError, match="Adam takes no estimates"):
        functional.adam([np.ones(2)], [np.ones(2)], None, 1, estimates=[np.ones(2)])


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
def test_an_estimate_may_be_the_parameter(fused: bool | None) -> None:
    """It is the value before the step; so is one that is a view of another parameter."""
    runs = []
    for copied in (True, False):
        p, q = np.linspace(5, 9, 9), np.linspace(2, 3, 9)
        optimizer = refoptim.Sophia([p, q], **HYPER, fused=fused)
        optimizer.step(grads=[q / 2, p / 2], estimates=[q[::-1].copy(), p.copy()] if copied else [q[::-1], p])
        runs.append(p.tobytes() + q.tobytes())
    assert runs[0] == runs[1]


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
def test_steps_with_estimates_between_others(fused: bool | None) -> None:
    """The same arrays in every step, which is repeated without being planned where it has no estimate."""
    p, g, h = np.ones(64), np.linspace(-1, 1, 64), np.linspace(0, 9, 64)
    new, state = [p.copy()], None
    optimizer = refoptim.Sophia([p], **HYPER, fused=fused)
    for k in range(9):
        given = [h] if k in (3, 6, 7) else None
        optimizer.step(grads=[g], estimates=given)
        new, state = functional.sophia(new, [g], state, k + 1, estimates=given, **HYPER)
        assert p.tobytes() == new[0].tobytes(), k


def test_estimates_by_name_and_without_a_gradient() -> None:
    """A parameter without a gradient takes no step, and no estimate."""
    p, q, h = np.ones(2), np.ones(2), np.full(2, 4.0)
    optimizer = refoptim.Sophia([("a", p), ("b", q)], **{**HYPER, "betas": (0.5, 0.5)})
    optimizer.step(grads={"a": None, "b": np.ones(2)}, estimates={"b": h, "a": h})
    a, b = optimizer.param_groups[0]["params"]
    assert a not in optimizer.state
    assert p.tolist() == [1, 1]
    assert optimizer.state[b]["hessian_moment"].tolist() == [2, 2]
    assert q.tolist() == [1 * (1 - 0.1 * 0.1) - 0.1 * (0.5 / 2)] * 2


def test_neither_scale_nor_maximize_changes_an_estimate() -> None:
    p = np.ones(2)
    optimizer = refoptim.Sophia([p], **{**HYPER, "betas": (0.5, 0.5), "weight_decay": 0}, maximize=True)
    optimizer.step(grads=[np.full(2, 8.0)], estimates=[np.full(2, 4.0)], grad_scale=8.0)
    assert next(iter(optimizer.state.values()))["hessian_moment"].tolist() == [2, 2]
    assert p.tolist() == [1 + 0.1 * 0.25] * 2


def test_a_step_that_is_skipped_takes_no_estimate() -> None:
    p = np.ones(2)
    optimizer = refoptim.Sophia([p], **HYPER)
    optimizer.step(grads=[np.ones(2)], estimates=[np.ones(2)], found_inf=1.0)
    assert p.tolist() == [1, 1]
    assert not optimizer.state


def test_a_sharded_optimizer_takes_none() -> None:
    p = np.ones(2)
    with pytest.raises(TypeError, match="a sharded optimizer takes no estimates"):
        Sharded(refoptim.Sophia, [p], **HYPER).step(grads=[np.ones(2)], estimates=[np.ones(2)])
    assert p.tolist() == [1, 1]


@pytest.mark.parametrize("capturable", [False, True])
def test_estimates_on_a_gpu(gpu: Any, capturable: bool) -> None:
    """A GPU that counts the steps sees by their addresses which tensors have an estimate."""
    ours, there = [x.copy() for x in draw(0)], [gpu.asarray(x) for x in draw(0)]
    one, other = refoptim.Sophia(ours, **HYPER), refoptim.Sophia(there, **HYPER, capturable=capturable)
    for k in range(7):
        estimates = estimates_of(k)
        one.step(grads=draw(1 + k), estimates=estimates)
        given = estimates and [h if h is None else gpu.asarray(h) for h in estimates]
        other.step(grads=[gpu.asarray(g) for g in draw(1 + k)], estimates=given)
    assert all(x.tobytes() == y.get().tobytes() for x, y in zip(ours, there, strict=True))
