"""Closures that return the loss and the gradients, as ``value_and_grad`` of autograd and JAX does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.pictures import frozen
from helpers.refusals import f4, f8, refused
from helpers.rooms import assert_equal_runs, make
from refoptim import Parameter, SparseGrad, named_arrays

CALLERS = {
    "LBFGS": dict(line_search_fn="strong_wolfe", max_iter=4),
    "ConjugateGradient": dict(max_iter=4),
    "SGD": dict(lr=0.01, momentum=0.5),
    "Adam": dict(lr=0.1),
}

FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "a list": lambda g, h: [g, h],
    "a tuple": lambda g, h: (g, h),
    "an iterator": lambda g, h: iter((g, h)),
    "a dict": lambda g, h: {"b.0": h, "a": g},
    "a tree": lambda g, h: {"b": [h], "a": g},
}


def loss_of(x: Any, y: Any) -> tuple[Any, Any, Any]:
    """Return the sum of (x - 1)**4 and (y + 2)**2, and its gradients."""
    return ((x - 1) ** 4).sum() + ((y + 2) ** 2).sum(), 4 * (x - 1) ** 3, 2 * (y + 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLERS)
def test_they_do_what_gradients_set_by_a_closure_do(name: str, form: str) -> None:
    model = {"a": f8(3), "b": [f8(2, 2)]}
    one = getattr(refoptim, name)(named_arrays(model), **CALLERS[name])
    p, q = Parameter(f8(3)), Parameter(f8(2, 2))
    other = getattr(refoptim, name)([("a", p), ("b.0", q)], **CALLERS[name])

    def returning() -> Any:
        loss, g, h = loss_of(model["a"], model["b"][0])
        return loss, FORMS[form](g, h)

    def setting() -> Any:
        loss, p.grad, q.grad = loss_of(p.data, q.data)
        return loss

    for k in range(3):
        assert one.step(returning) == other.step(setting)
        assert frozen(one.state_dict()) == frozen(other.state_dict()), k
        assert frozen([model["a"], model["b"][0]]) == frozen([p.data, q.data]), k
    assert all(p.grad is None for p in one.param_groups[0]["params"])
    assert loss_of(*(p.data for p in one.param_groups[0]["params"]))[0] < loss_of(f8(3), f8(2, 2))[0]


@pytest.mark.parametrize("name", CALLERS)
def test_gradients_that_are_returned_go_before_those_that_are_held(name: str) -> None:
    p, q = Parameter(f8(3), np.full(3, 9.0)), Parameter(f8(3))
    one, other = (getattr(refoptim, name)([x], **CALLERS[name]) for x in (p, q))

    def returning() -> Any:
        return float(p.data @ p.data), [2 * p.data]

    def setting() -> Any:
        q.grad = 2 * q.data
        return float(q.data @ q.data)

    one.step(returning)
    other.step(setting)
    assert p.data.tolist() == q.data.tolist() != f8(3).tolist()


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_none_is_zero_and_sparse_is_dense_to_who_evaluates_often(name: str) -> None:
    one, other = (getattr(refoptim, name)([f8(3), f8(3)], max_iter=2) for _ in "12")
    x, y = ([p.data for p in optimizer.param_groups[0]["params"]] for optimizer in (one, other))
    one.step(lambda: (x[0][0] ** 2, [SparseGrad([[0]], 2 * x[0][:1], (3,)), None]))
    other.step(lambda: (y[0][0] ** 2, [np.array([2 * y[0][0], 0, 0]), np.zeros(3)]))
    assert frozen([one.state_dict(), x]) == frozen([other.state_dict(), y])
    assert x[0][0] != f8(3)[0]


def test_a_pair_of_which_none_is_gradients_is_returned_as_it_is() -> None:
    """A loss and a number beside it, or nothing; the gradients are those that the parameters hold."""
    for beside in (0.75, None, True):
        p = Parameter(f4(3), np.ones(3, np.float32))
        assert refoptim.SGD([p], lr=1.0).step(lambda beside=beside: (2.5, beside)) == (2.5, beside)
        assert p.data.tolist() == (f4(3) - 1).tolist()


def test_value_and_grad_of_autograd() -> None:
    autograd = pytest.importorskip("autograd", reason="the test uses HIPS autograd")
    params = {"w": f8(3), "layers": [{"b": f8(2)}]}
    names = named_arrays(params)
    value_and_grad = autograd.value_and_grad(lambda p: (p["w"] ** 2).sum() + (p["layers"][0]["b"] ** 4).sum())
    optimizer = refoptim.LBFGS(names, line_search_fn="strong_wolfe")
    first = optimizer.step(lambda: value_and_grad(params))
    assert first == (f8(3) ** 2).sum() + (f8(2) ** 4).sum()
    assert max(abs(x).max() for _, x in names) < 0.1


@pytest.mark.parametrize("name", CALLERS)
def test_value_and_grad_of_jax(name: str) -> None:
    """Its gradients are arrays of its own, in a tree whose keys it has sorted, float0 where the tree holds integers."""
    jax = pytest.importorskip("jax", reason="the test uses JAX")
    params = {"w": f4(3), "layers": [{"b": f4(2), "n": np.arange(2)}, {"b": f4(2), "n": None}]}
    p, q, r = Parameter(f4(3)), Parameter(f4(2)), Parameter(f4(2))
    one = getattr(refoptim, name)(named_arrays(params), **CALLERS[name])
    other = getattr(refoptim, name)([p, q, r], **CALLERS[name])

    def loss(t: Any) -> Any:
        return (t["w"] ** 2).sum() + 3 * t["layers"][0]["b"].sum() ** 2 + (t["layers"][1]["b"] ** 2).sum()

    def setting() -> Any:
        p.grad, q.grad, r.grad = 2 * p.data, np.full(2, 6 * q.data.sum()), 2 * r.data
        return loss({"w": p.data, "layers": [{"b": q.data}, {"b": r.data}]})

    value_and_grad = jax.value_and_grad(loss, allow_int=True)
    for _ in range(3):
        assert float(one.step(lambda: value_and_grad(params))) == pytest.approx(float(other.step(setting)), rel=1e-5)
    for x, y in zip((x for _, x in named_arrays(params)), (p, q, r), strict=True):
        np.testing.assert_allclose(x, y.data, rtol=1e-4, atol=1e-6)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "an array": (lambda g: g, TypeError, "grads must be an iterable of gradients in order, or a dict of them by name"),
    "a NumPy scalar": (lambda g: np.float64(1), TypeError, "got float64"),
    "text": (lambda g: "g", TypeError, "got str"),
    "too many": (lambda g: [g, g], ValueError, "grads must hold one gradient (or None) per parameter: 1, got 2"),
    "another shape": (lambda g: [g[1:]], ValueError, "the gradient must have shape (3,), got (2,)"),
    "another name": (lambda g: {"v": g}, ValueError, "'v', which is the name of no parameter: the nearest is 'w'"),
    "nothing": (lambda g: {}, ValueError, "lacks 'w'"),
}


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize(("grads", "error", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", CALLERS)
def test_wrong_gradients_leave_everything_as_it_was(
    name: str, grads: Any, error: type[Exception], message: str, calls: int
) -> None:
    w, count = f8(3), [0]
    optimizer = getattr(refoptim, name)([("w", w)], **CALLERS[name])
    if calls > 1 and name in ("SGD", "Adam"):
        optimizer.step(lambda: (1.0, {"w": 2 * w}))
    last = calls if name in ("LBFGS", "ConjugateGradient") else 1

    def closure() -> Any:
        count[0] += 1
        return float(w @ w), grads(2 * w) if count[0] == last else [2 * w]

    refused([optimizer, w], lambda: optimizer.step(closure), error, message)
    assert count == [last]


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_a_pair_without_gradients_is_no_loss(name: str) -> None:
    w = f8(3)
    optimizer = getattr(refoptim, name)([w])
    message = "the closure must return the loss, one real number"
    refused([optimizer, w], lambda: optimizer.step(lambda: (1.0, 2.0)), TypeError, message)


def test_a_closure_that_returns_gradients_repeats_the_step_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not refoptim.engines.host.LIBRARY.exists():
        pytest.skip("kernels for this computer were not built")
    one, other = (make("Adam", [("w", f4(5))], fused=fused) for fused in (True, None))
    for k in range(4):
        g = f4(5) + k
        if k == 2:
            monkeypatch.setattr(refoptim.optimizers.base.Repeat, "__init__", None)
        one.step(lambda g=g: (1.0, {"w": g}))
        other.step(grads=[g])
    assert_equal_runs(one, other)
