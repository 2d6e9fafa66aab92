"""L-BFGS: its direction, its steps, which are all or nothing, and its state dicts."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import rosen, rosen_der

from helpers.lbfgs import STATE, Run, quadratic, start
from helpers.pictures import same
from refoptim import Parameter, SparseGrad
from refoptim.optimizers.lbfgs import LBFGS, lbfgs_direction

# The direction


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_direction_is_the_bfgs_matrix_times_the_gradient(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = quadratic(n, seed)[0]
    steps = [rng.standard_normal(n) for _ in range(k)]
    ys = [a @ s for s in steps]
    g, scale = rng.standard_normal(n), float(rng.uniform(0.3, 3))
    inverse = scale * np.eye(n)
    for s, y in zip(steps, ys, strict=True):
        v = np.eye(n) - np.outer(y, s) / (y @ s)
        inverse = v.T @ inverse @ v + np.outer(s, s) / (y @ s)
    got = lbfgs_direction(g, ys, steps, [1 / (y @ s) for s, y in zip(steps, ys, strict=True)], scale)
    np.testing.assert_allclose(got, -inverse @ g, rtol=1e-7, atol=1e-9)


def test_direction_in_exact_arithmetic() -> None:
    g, y, s = np.array([4.0, -2.0, 8.0]), np.array([2.0, 0.0, 4.0]), np.array([1.0, 3.0, 1.5])
    ro, scale = Fraction(1, 8), Fraction(1, 2)
    al = ro * sum(Fraction(a) * -Fraction(b) for a, b in zip(s, g, strict=True))
    q = [-Fraction(a) - al * Fraction(b) for a, b in zip(g, y, strict=True)]
    d = [scale * a for a in q]
    be = ro * sum(Fraction(a) * b for a, b in zip(y, d, strict=True))
    d = [a + (al - be) * Fraction(b) for a, b in zip(d, s, strict=True)]
    assert lbfgs_direction(g, [y], [s], [0.125], 0.5).tolist() == [float(x) for x in d]


@pytest.mark.parametrize("size", [1, 3])
def test_history_keeps_the_newest_pairs(size: int) -> None:
    run = Run([start(4)], lr=0.2, max_iter=1, history_size=9)
    grads, points = [], []
    for _ in range(6):
        points.append(run.flat())
        grads.append(rosen_der(run.flat()))
        run.step()
    assert len(run.state["old_dirs"]) == 5
    run.optimizer.param_groups[0]["history_size"] = size
    points.append(run.flat())
    grads.append(rosen_der(run.flat()))
    run.step()
    assert len(run.state["old_dirs"]) == len(run.state["old_stps"]) == len(run.state["ro"]) == size
    for i in range(size):
        assert same(run.state["old_dirs"][-1 - i], grads[6 - i] - grads[5 - i])
        np.testing.assert_allclose(run.state["old_stps"][-1 - i], points[6 - i] - points[5 - i], rtol=1e-9, atol=1e-12)


# Steps


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_maximize_climbs_as_minimizing_the_negative_descends(fn: str | None) -> None:
    down = Run([start(5)], lr=0.3, line_search_fn=fn)
    up = Run([start(5)], lr=0.3, line_search_fn=fn, sign=-1, maximize=True)
    for _ in range(4):
        assert up.step() == -down.step()
        assert same(up.flat(), down.flat())
        assert all(same(up.state[name], down.state[name]) for name in STATE)


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_many_steps_of_one_iteration_are_one_step(fn: str | None) -> None:
    hyper: Any = {"lr": 0.3, "line_search_fn": fn, "tolerance_change": 0, "history_size": 3, "max_eval": 90}
    whole = Run([start(7)], max_iter=12, **hyper)
    pieces = Run([start(7)], max_iter=1, **hyper)
    whole.step()
    for _ in range(12):
        pieces.step()
    assert same(whole.flat(), pieces.flat())
    assert whole.state["n_iter"] == pieces.state["n_iter"] == 12


def test_layout_of_the_parameters_changes_nothing() -> None:
    x = start(12)
    plain = Run([x.reshape(3, 4).copy()], line_search_fn="strong_wolfe")
    wide = np.zeros((4, 6))
    strided = wide[:, ::2].T
    strided[...] = x.reshape(3, 4)
    turned = Run([strided], line_search_fn="strong_wolfe")
    matrix = Run([np.asfortranarray(x.reshape(3, 4))], line_search_fn="strong_wolfe")
    for _ in range(3):
        plain.step(), turned.step(), matrix.step()
        assert same(plain.flat(), turned.flat())
        assert same(plain.flat(), matrix.flat())
    assert not wide[:, 1::2].any()


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_complex_parameters_are_pairs_of_reals(fn: str | None) -> None:
    pairs = Run([start(8)], lr=0.4, line_search_fn=fn, max_iter=3)
    z = start(8).view("complex128")
    p = Parameter(z)
    optimizer = LBFGS([p], lr=0.4, line_search_fn=fn, max_iter=3)

    def closure() -> float:
        x = z.view("float64")
        p.grad = rosen_der(x).view("complex128")
        return float(rosen(x))

    for _ in range(5):
        pairs.step(), optimizer.step(closure)
        assert same(pairs.flat(), z.view("float64"))
        assert all(same(pairs.state[name], optimizer.state[p][name]) for name in STATE & set(pairs.state))


def test_sparse_and_missing_gradients() -> None:
    """A loss of rows 1 and 3 of x alone: dense, sparse, and with a parameter that takes no part."""
    a = np.array([2.0, 5.0])
    results = []
    for sparse in (False, True):
        x, idle = np.ones((5, 2)), np.full(3, 0.1)
        p, q = Parameter(x), Parameter(idle)
        optimizer = LBFGS([q, p], lr=0.7, line_search_fn="strong_wolfe", max_iter=4)

        def closure(x: Any = x, p: Any = p, sparse: bool = sparse) -> float:
            dense = np.zeros((5, 2))
            dense[[1, 3]] = a * x[[1, 3]] ** 3
            p.grad = SparseGrad(np.array([[3, 1]]), dense[[3, 1]], (5, 2)) if sparse else dense
            return float((a * x[[1, 3]] ** 4).sum() / 4)

        for _ in range(3):
            optimizer.step(closure)
        assert same(idle, np.full(3, 0.1))
        assert (x[[0, 2, 4]] == 1).all()
        assert (x[[1, 3]] < 0.5).all()
        results.append(x)
    assert same(*results)


def test_returns_what_the_closure_returned_first() -> None:
    run = Run([start(2)], line_search_fn="strong_wolfe", max_iter=3)
    seen: list[Any] = []

    def closure() -> Any:
        seen.append(np.array([[run.closure()]]))
        return seen[-1]

    assert run.optimizer.step(closure) is seen[0]
    assert len(seen) == 3


def test_a_small_gradient_ends_the_step_at_once() -> None:
    run = Run([np.ones(4) + 1e-5], tolerance_grad=0.1)
    before = run.flat()
    run.step(), run.step()
    assert run.state == {"func_evals": 2, "n_iter": 0}
    assert same(run.flat(), before)


def test_hooks_run_and_errors_are_handled_as_outside() -> None:
    run = Run([start(2)], line_search_fn="strong_wolfe")
    calls: list[str] = []
    run.optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    run.optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        calls.append(np.geterr()["over"])
        return run.closure()

    with np.errstate(over="call"):
        run.optimizer.step(closure)
    assert [calls[0], *sorted(set(calls[1:-1])), calls[-1]] == ["before", "call", "after"]


def test_gradient_may_be_the_parameter_itself() -> None:
    """The loss |x|^2 / 2, whose gradient is x: one Newton step of length 1 is the minimum."""
    p = Parameter(np.array([3.0, -4.0]))
    p.grad = p.data
    LBFGS([p], line_search_fn="strong_wolfe", max_iter=5).step(lambda: 0.5 * float(p.data @ p.data))
    assert np.abs(p.data).max() < 1e-6


# All or nothing


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
@pytest.mark.parametrize("settled", [0, 2])
def test_a_closure_that_raises_leaves_everything_as_it_was(fn: str | None, settled: int) -> None:
    hyper: Any = {"lr": 0.3, "max_iter": 4, "line_search_fn": fn, "history_size": 2}
    run, undisturbed = Run([start(4)], **hyper), Run([start(4)], **hyper)
    for _ in range(settled):
        run.step(), undisturbed.step()
    before, begun = run.everything(), run.calls
    for fatal in count(1):
        calls = iter(range(1, fatal + 1))

        def closure(calls: Any = calls, fatal: int = fatal) -> float:
            if next(calls) == fatal:
                raise KeyboardInterrupt
            return run.closure()

        try:
            run.optimizer.step(closure)
        except KeyboardInterrupt:
            assert run.everything() == before
        else:
            break
        run.calls = begun
    assert fatal > 4
    undisturbed.step()
    assert run.everything() == undisturbed.everything()


NOT_A_LOSS: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, TypeError, "must return the loss, one real number, got None"),
    "text": ("1.5", TypeError, "got '1.5'"),
    "truth": (True, TypeError, "got True"),
    "truth in an array": (np.array(True), TypeError, "got array"),
    "complex": (1j, TypeError, "got 1j"),
    "complex array": (np.array([1j]), TypeError, "got array"),
    "two numbers": (np.zeros(2), ValueError, r"got an array of shape \(2,\)"),
    "no number": (np.zeros((0, 3)), ValueError, r"got an array of shape \(0, 3\)"),
    "list": ([1.0], TypeError, r"got \[1.0\]"),
}


@pytest.mark.parametrize("evaluation", [1, 3])
@pytest.mark.parametrize("name", NOT_A_LOSS)
def test_a_closure_that_returns_no_loss(name: str, evaluation: int) -> None:
    value, error, message = NOT_A_LOSS[name]
    run = Run([start(3)], lr=0.2, max_iter=5)
    run.step()
    before, last = run.everything(), run.calls + evaluation
    with pytest.raises(error, match=message):
        run.optimizer.step(lambda: loss if (loss := run.closure()) and run.calls < last else value)
    assert run.calls == last
    assert run.everything() == before


@pytest.mark.parametrize("value", [3, np.float32(3), np.array(3.0), np.array([[3]]), Fraction(6, 2)])
def test_a_loss_is_any_real_number(value: Any) -> None:
    run = Run([start(2)], max_iter=1)
    run.optimizer.step(lambda: value if run.closure() else None)
    assert run.state["prev_loss"] == 3
    assert type(run.state["prev_loss"]) is float


NOT_A_GRADIENT: dict[str, tuple[Any, type[Exception], str]] = {
    "shape": (
        np.zeros(4),
        ValueError,
        r"parameter 1 of group 0 \(w\): the gradient must have shape \(3,\), got \(4,\)",
    ),
    "dtype": (
        np.zeros(3, "float32"),
        TypeError,
        r"parameter 1 of group 0 \(w\): .* must have dtype float64, got float32",
    ),
    "list": ([0.0] * 3, TypeError, "the gradient must be an array, got list"),
}


@pytest.mark.parametrize("evaluation", [1, 4])
@pytest.mark.parametrize("name", NOT_A_GRADIENT)
def test_a_gradient_that_does_not_fit(name: str, evaluation: int) -> None:
    grad, error, message = NOT_A_GRADIENT[name]
    run = Run([start(2), start(3)], lr=0.2, max_iter=6)
    run.params[1].name = "w"
    run.step()
    before, last = run.everything(), run.calls + evaluation

    def closure() -> float:
        loss = run.closure()
        if run.calls == last:
            run.params[1].grad = grad
        return loss

    with pytest.raises(error, match=message):
        run.optimizer.step(closure)
    assert run.everything() == before


def test_a_closure_that_replaces_an_array_and_raises() -> None:
    run = Run([start(3)], lr=0.2)
    before, array = run.everything(), run.params[0].data

    def closure() -> float:
        loss = run.closure()
        if run.calls == 3:
            run.params[0].data = np.zeros(3)
            raise OSError("disk full")
        return loss

    with pytest.raises(OSError, match="disk full"):
        run.optimizer.step(closure)
    assert run.params[0].data is array
    assert run.everything() == before


# State dicts


def by_json(saved: Any) -> Any:
    return json.loads(json.dumps(saved, default=lambda x: x.tolist()))


def by_npz(saved: Any) -> Any:
    """Store the state in an npz archive: lists of arrays stacked, None left out."""
    flat = {name: x for name, x in saved["state"][0].items() if name != "al"}
    file = io.BytesIO()
    np.savez(file, **{name: np.array(x) for name, x in flat.items()})
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return {"state": {0: dict(archive)}, "param_groups": saved["param_groups"]}


def by_pickle(saved: Any) -> Any:
    return pickle.loads(pickle.dumps(saved))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
@pytest.mark.parametrize("stored", [lambda saved: saved, by_json, by_npz, by_pickle])
def test_a_stored_state_goes_on_like_an_uninterrupted_run(stored: Callable[[Any], Any], fn: Any, dtype: str) -> None:
    hyper: Any = {"lr": 0.3, "max_iter": 3, "history_size": 4, "line_search_fn": fn, "tolerance_grad": 1e-3}
    whole = Run([start(4, dtype), start(3, dtype)], **hyper)
    for _ in range(3):
        whole.step()
    again = Run([p.data.copy() for p in whole.params], lr=9, history_size=77)
    again.optimizer.load_state_dict(stored(whole.optimizer.state_dict()))
    assert again.optimizer.param_groups[0]["history_size"] == 4
    for _ in range(3):
        whole.step(), again.step()
        assert same(whole.flat(), again.flat())
    for name in STATE:
        assert same(whole.state[name], again.state[name]), name


def test_a_state_dict_is_a_copy_and_reads_back_equal() -> None:
    run = Run([start(4)], lr=0.3, max_iter=6)
    run.step()
    saved = run.optimizer.state_dict()
    assert set(saved["state"][0]) == STATE
    other = Run([start(4)])
    other.optimizer.load_state_dict(saved)
    for name in STATE:
        assert same(other.state[name], run.state[name])
    before = other.everything()
    for x in (*saved["state"][0]["old_dirs"], saved["state"][0]["d"], saved["state"][0]["prev_flat_grad"]):
        x[...] = 7
    saved["state"][0]["ro"].clear()
    assert other.everything() == before


def test_an_optimizer_that_is_pickled_goes_on() -> None:
    run = Run([start(4)], lr=0.3, max_iter=4)
    run.step()
    twin = pickle.loads(pickle.dumps(run))
    run.step(), twin.step()
    assert run.everything() == twin.everything()


def test_a_state_before_the_first_iteration_reads_back() -> None:
    run = Run([np.ones(3)], max_iter=4)
    run.step()
    other = Run([start(3)], max_iter=2)
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    assert other.state == {"func_evals": 1, "n_iter": 0}
    other.step()
    assert other.state["n_iter"] == 4


def changed(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update(entries)


BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another optimizer's": (changed(exp_avg=np.zeros(3)), "is not one of LBFGS: state 0 has 'exp_avg'"),
    "nothing but a name": (lambda s: s.pop("ro"), "is not one of LBFGS: state 0 lacks 'ro'"),
    "no direction": (lambda s: s.pop("d"), "state 0 lacks 'd'"),
    "no counts": (lambda s: s.pop("n_iter"), "state 0 lacks 'n_iter'"),
    "shape": (changed(d=np.zeros(4)), r"state 0, d, must have shape \(3,\), got \(4,\)"),
    "dtype": (changed(prev_flat_grad=np.zeros(3, "float32")), "state 0, prev_flat_grad, must have dtype float64"),
    "pair": (changed(old_stps=[np.zeros(3), np.zeros(2)]), r"state 0, old_stps, item 1, must have shape \(3,\)"),
    "lengths": (lambda s: s["ro"].pop(), r"old_dirs, old_stps and ro must have one length, got \[3, 4\]"),
    "no list": (changed(old_dirs=3.0), "state 0, old_dirs, must be a list, got 3.0"),
    "None in a list": (changed(ro=[None] * 4), "state 0, ro, item 0, must be a real number, got None"),
    "text": (changed(t="1"), "state 0, t, must be a real number, got '1'"),
    "array for a number": (changed(H_diag=np.ones(2)), "state 0, H_diag, must be a real number"),
    "fractional count": (changed(n_iter=1.5), r"state 0, n_iter, must be an integer in \[0, inf\)"),
    "negative count": (changed(func_evals=-1), "state 0, func_evals, must be an integer"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_bad_states(name: str) -> None:
    change, message = BAD_STATES[name]
    run = Run([start(3)], lr=0.3, max_iter=5)
    run.step()
    before, saved = run.everything(), run.optimizer.state_dict()
    change(saved["state"][0])
    with pytest.raises(ValueError, match=message):
        run.optimizer.load_state_dict(saved)
    assert run.everything() == before


def test_state_belongs_to_the_first_parameter_in_the_saved_order() -> None:
    def make(names: str) -> Any:
        return LBFGS([(name, start(2)) for name in names], max_iter=3)

    def run(optimizer: Any) -> dict[str, Any]:
        params = optimizer.param_groups[0]["params"]

        def closure() -> float:
            for p in params:
                p.grad = rosen_der(p.data)
            return sum(float(rosen(p.data)) for p in params)

        optimizer.step(closure)
        return optimizer.state_dict()

    saved = run(make("abc"))
    make("abc").load_state_dict(saved)
    for names in ("acb", "bac", "abd"):
        optimizer = make(names)
        with pytest.raises(ValueError, match="names other parameters, or in another order"):
            optimizer.load_state_dict(saved)
        assert not optimizer.state
    saved["state"][1] = saved["state"].pop(0)
    with pytest.raises(ValueError, match="is not one of LBFGS: state 1 has 'func_evals'"):
        make("abc").load_state_dict(saved)
