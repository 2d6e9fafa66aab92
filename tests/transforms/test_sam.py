"""SAM and ASAM: recorded values of optax, exact arithmetic, closures that raise, state and scalers."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import wrapped
from helpers.faults import Interrupt, Lines, raised, traced
from refoptim import SAM, Parameter, SparseGrad
from refoptim.amp import GradScaler


def made(dtype: str = "float64", **more: Any) -> SAM:
    sgd = refoptim.SGD(wrapped.first(dtype), lr=wrapped.LR, momentum=wrapped.MOMENTUM)
    return SAM(sgd, **{"rho": wrapped.RHO, **more})


def data(optimizer: Any) -> list[Any]:
    return [p.data.copy() for group in optimizer.param_groups for p in group["params"]]


def same(x: list[Any], y: list[Any]) -> bool:
    return len(x) == len(y) and all(a.tobytes() == b.tobytes() for a, b in zip(x, y, strict=True))


def closure(ours: SAM, calls: list[int] | None = None) -> Any:
    def call() -> Any:
        if calls is not None:
            calls.append(1)
        return float(len(calls or [])), [wrapped.slope(x) for x in data(ours)]

    return call


def test_the_values_of_optax() -> None:
    ours, calls = made(perturb_eps=0.0), []
    for i in range(wrapped.STEPS):
        assert ours.step(closure(ours, calls)) == 2 * i + 1.0
    assert len(calls) == 2 * wrapped.STEPS
    entry = wrapped.recorded()["sam"]
    assert entry["package"] == "optax 0.2.8"
    for x, y in zip(data(ours), wrapped.unpacked(entry["values"], "float64"), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=0)


def test_what_was_recorded_is_what_optax_gives() -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    live = wrapped.sam_of_optax()
    for x, y in zip(live, wrapped.unpacked(wrapped.recorded()["sam"]["values"], "float64"), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-14, atol=0)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_by_exact_arithmetic(adaptive: bool) -> None:
    """Gradients (3, 4) and sizes (1, 2) or, weighed, norms of 5: every number is a binary fraction."""
    p, g = (np.array([1.0]), np.array([2.0])), (3.0, 2.0 if adaptive else 4.0)
    ours = SAM(refoptim.SGD(p, lr=0.5), rho=2.5, adaptive=adaptive, perturb_eps=0.0)
    ours.first_step(grads=[np.array([x]) for x in g])
    norm = Fraction(5)
    size = [Fraction(float(x)) ** 2 if adaptive else Fraction(1) for x in (1, 2)]
    uphill = [x + Fraction(5, 2) / norm * s * Fraction(y) for x, s, y in zip((1, 2), size, g, strict=True)]
    assert [float(x[0]) for x in p] == [float(x) for x in uphill]
    ours.second_step(grads=[np.array([2.0]), np.array([-4.0])])
    assert [float(x[0]) for x in p] == [0.0, 4.0]


def test_both_forms_are_one() -> None:
    ours, other = made(adaptive=True), made(adaptive=True)
    for _ in range(3):
        ours.step(closure(ours))
        for p in other.param_groups[0]["params"]:
            p.grad = wrapped.slope(p.data)
        other.first_step(zero_grad=True)
        assert all(p.grad is None for p in other.param_groups[0]["params"])
        for p in other.param_groups[0]["params"]:
            p.grad = wrapped.slope(p.data)
        other.second_step(zero_grad=True)
        assert same(data(ours), data(other))


@pytest.mark.parametrize("when", [1, 2])
def test_a_closure_that_raises_leaves_all_as_it_was(when: int) -> None:
    ours, calls = made(), []
    ours.step(closure(ours))
    before, state = data(ours), repr(ours.state_dict())

    def call() -> Any:
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return closure(ours)()

    with pytest.raises(KeyboardInterrupt):
        ours.step(call)
    assert same(data(ours), before) and repr(ours.state_dict()) == state


def test_an_exception_anywhere_leaves_a_whole_step_or_none() -> None:
    """Before every third line that both steps run: all as before or, at their end, as after."""
    whole = made()
    before, state = data(whole), repr(whole.state_dict())
    count = Lines()
    with traced(count):
        whole.step(closure(whole))
    after, ended = data(whole), repr(whole.state_dict())
    for at in range(1, count.count + 1, 3):
        ours = made()
        with pytest.raises(Interrupt), traced(Lines(raised, at)):
            ours.step(closure(ours))
        now = data(ours), repr(ours.state_dict())
        assert (same(now[0], before) and now[1] == state) or (same(now[0], after) and now[1] == ended)


def test_a_wrong_gradient_changes_nothing_uphill_or_not() -> None:
    ours = made()
    before, good = data(ours), [wrapped.slope(x) for x in data(ours)]
    with pytest.raises(ValueError, match="parameter 0 of group 0"):
        ours.first_step(grads=[np.ones(3), *good[1:]])
    with pytest.raises(RuntimeError, match="not uphill"):
        ours.second_step(grads=good)
    assert same(data(ours), before)
    ours.first_step(grads=good)
    uphill = data(ours)
    for wrong in ([np.ones(3), *good[1:]], good[:2]):
        with pytest.raises(ValueError):
            ours.second_step(grads=wrong)
        assert same(data(ours), uphill) and not same(uphill, before)
    with pytest.raises(RuntimeError, match="already been called"):
        ours.first_step(grads=good)
    with pytest.raises(RuntimeError, match="has been called"):
        ours.step(closure(ours))
    ours.second_step(grads=good, found_inf=1.0)
    assert same(data(ours), before) and ours.state_dict()["sam"]["old"] is None


def test_sixteen_bits_masters_complex_and_sparse() -> None:
    """A step uphill of exactly 1/2 along the only gradient, then back."""
    kinds: list[tuple[Any, Any]] = [
        (np.full(3, 2.0, np.float16), np.array([0, 4, 0], np.float16)),
        (Parameter(np.full(3, 2.0, np.float16), master=True), np.array([0, 4, 0], np.float32)),
        (np.full(3, 2.0, np.complex64), np.array([0, 4, 0], np.complex64)),
        (np.full(3, 2.0), SparseGrad([[1]], [4.0], (3,))),
    ]
    for x, g in kinds:
        ours = SAM(refoptim.SGD([x], lr=1.0), rho=0.5, perturb_eps=0.0)
        p = ours.param_groups[0]["params"][0]
        ours.first_step(grads=[g])
        assert p.data.tolist() == [2.0, 2.5, 2.0]
        ours.second_step(grads=[g])
        assert p.data.tolist() == [2.0, -2.0, 2.0]


def test_arrays_of_cupy(fake_cupy: Any) -> None:
    arrays = [fake_cupy.asarray(x) for x in wrapped.first()]
    ours = SAM(refoptim.SGD(arrays, lr=wrapped.LR, momentum=wrapped.MOMENTUM, fused=False), adaptive=True)
    other = made(adaptive=True)
    for row in wrapped.gradients()[:3]:
        ours.first_step(grads=[fake_cupy.asarray(g) for g in row])
        ours.second_step(grads=[fake_cupy.asarray(g) for g in row])
        other.first_step(grads=row)
        other.second_step(grads=row)
    assert same([fake_cupy.asnumpy(x) for x in arrays], data(other))


def test_a_saved_run_continues_uphill_too() -> None:
    ours, other = made(), made(rho=1.0)
    grads = [wrapped.slope(x) for x in data(ours)]
    ours.first_step(grads=grads)
    for p, x in zip(other.param_groups[0]["params"], data(ours), strict=True):
        p.data[...] = x
    other.load_state_dict(ours.state_dict())
    resumed = [ours, other, copy.deepcopy(ours)]
    for each in resumed:
        each.second_step(grads=grads)
        each.step(closure(each))
    assert same(data(ours), data(other)) and same(data(ours), data(resumed[2]))
    saved = ours.state_dict()
    for wrong in ({}, ours.optimizer.state_dict(), {**saved, "sam": {**saved["sam"], "rho": -1.0}}):
        with pytest.raises(ValueError):
            other.load_state_dict(wrong)


def test_with_a_scaler() -> None:
    """Scales are powers of two, so the steps are those of unscaled losses; an overflow uphill comes back."""
    ours, other, scaler = made("float32"), made("float32"), GradScaler(init_scale=8.0, growth_interval=10**6)

    def backward(factor: float = 1.0) -> None:
        scaler.scale(1.0)
        for p in ours.param_groups[0]["params"]:
            g = wrapped.slope(p.data)
            p.grad = np.full_like(g, np.inf) if factor == np.inf else g * np.float32(scaler.get_scale())

    for i in range(4):
        before = data(ours)
        backward()
        ours.first_step(grad_scale=scaler.get_scale())
        backward(np.inf if i == 2 else 1.0)
        scaler.step(ours)
        scaler.update()
        if i == 2:
            assert same(data(ours), before) and scaler.get_scale() == 4.0
        else:
            other.step(closure(other))
            assert same(data(ours), data(other))
    with pytest.raises(RuntimeError, match="Closure use"):
        scaler.step(ours, closure(ours))


def test_arguments() -> None:
    sgd = refoptim.SGD([np.zeros(1)], lr=0.1)
    for wrong in ({"rho": -1.0}, {"rho": float("inf")}, {"perturb_eps": -1e-12}):
        with pytest.raises(ValueError):
            SAM(sgd, **wrong)
    with pytest.raises(TypeError):
        SAM(sgd, adaptive=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SAM takes no LBFGS"):
        SAM(refoptim.LBFGS([np.zeros(1)]))
    with pytest.raises(TypeError, match="not both"):
        SAM(sgd).step(lambda: 0.0, grads=[np.ones(1)])
    assert repr(SAM(sgd)).startswith("SAM (rho: 0.05, adaptive: False, perturb_eps: 1e-12) of SGD (")
