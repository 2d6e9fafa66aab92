"""Nonlinear conjugate gradients against textbook formulas in exact arithmetic, linear conjugate gradients and scipy."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, rosen, rosen_der

from helpers.pictures import frozen, same
from refoptim import Parameter
from refoptim.optimizers.conjugate_gradient import BETAS, ConjugateGradient, conjugate_direction

STATE = {"func_evals", "n_iter", "d", "t", "prev_flat_grad", "prev_loss", "gtd", "since_restart"}


def start(n: int, dtype: str = "float64") -> Any:
    return np.resize([-1.2, 1.0], n).astype(dtype)


def quadratic(n: int) -> tuple[Any, Any]:
    """Return a positive definite matrix of condition 50, and the point at which its quadratic form is to be 0."""
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return q * np.geomspace(1, 50, n) @ q.T, rng.standard_normal(n)


class Run:
    """The optimizer on one parameter, with a closure for a function of it; the points and gradients that it visits."""

    def __init__(self, x: Any, f: Any = rosen, df: Any = rosen_der, **hyper: Any) -> None:
        self.p = Parameter(x)
        self.f, self.df = f, df
        self.optimizer = ConjugateGradient([self.p], **hyper)
        self.points: list[Any] = []

    def closure(self) -> float:
        x = self.p.data
        self.points.append(x.copy())
        self.p.grad = self.df(x)
        return float(self.f(x))

    def step(self) -> Any:
        return self.optimizer.step(self.closure)

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.p]

    def everything(self) -> Any:
        """Return all that a failing step must leave as it was."""
        return frozen([self.p.data, self.optimizer.state_dict()])


def on_quadratic(n: int, **hyper: Any) -> Run:
    a, target = quadratic(n)
    return Run(np.zeros(n), lambda x: 0.5 * (x - target) @ a @ (x - target), lambda x: a @ (x - target), **hyper)


# The direction


def exact_direction(g: Any, prev_g: Any, prev_d: Any, beta: str) -> list[Fraction]:
    g, prev_g, prev_d = ([Fraction(x) for x in v] for v in (g, prev_g, prev_d))

    def inner(x: Any, y: Any) -> Fraction:
        return sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))

    y = [a - b for a, b in zip(g, prev_g, strict=True)]
    above, below = {
        "PR+": (max(inner(g, y), Fraction(0)), inner(prev_g, prev_g)),
        "FR": (inner(g, g), inner(prev_g, prev_g)),
        "HS": (inner(g, y), inner(prev_d, y)),
        "DY": (inner(g, g), inner(prev_d, y)),
    }[beta]
    c = above / below if below else Fraction(0)
    return [-a + c * b for a, b in zip(g, prev_d, strict=True)]


vectors = st.lists(st.integers(-20, 20), min_size=4, max_size=4)


@pytest.mark.parametrize("beta", BETAS)
@settings(deadline=None, max_examples=40)
@given(vectors, vectors, vectors)
def test_direction_by_its_formula(beta: str, g: list[int], prev_g: list[int], prev_d: list[int]) -> None:
    expected = [float(x) for x in exact_direction(g, prev_g, prev_d, beta)]
    got = conjugate_direction(*(np.array(x, float) for x in (g, prev_g, prev_d)), beta)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13 * max(map(abs, expected)))


def test_directions_differ() -> None:
    g, prev_g, prev_d = np.array([1.0, 2.0]), np.array([3.0, -1.0]), np.array([-3.0, 2.0])
    found = {beta: conjugate_direction(g, prev_g, prev_d, beta).tolist() for beta in BETAS}
    assert found["PR+"] == [-1 - 3 * 0.4, -2 + 2 * 0.4], "g . y = 4 and g' . g' = 10"
    assert found["FR"] == [-1 - 3 * 0.5, -2 + 2 * 0.5], "g . g = 5"
    assert found["HS"] == [-1 - 3 * (4 / 12), -2 + 2 * (4 / 12)], "d' . y = 12"
    assert found["DY"] == [-1 - 3 * (5 / 12), -2 + 2 * (5 / 12)]
    negative = conjugate_direction(np.array([1.0, 0.0]), np.array([3.0, 0.0]), np.array([-3.0, 1.0]), "PR+")
    assert negative.tolist() == [-1, 0], "g . y < 0"


@pytest.mark.parametrize("beta", ["pr+", "PR", None, 1])
def test_direction_refuses_an_unknown_formula(beta: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid beta: .* \(beta must be one of 'PR\+', 'FR', 'HS', 'DY'\)"):
        conjugate_direction(np.ones(2), np.ones(2), np.ones(2), beta)


# Where it arrives


@pytest.mark.parametrize("beta", BETAS)
def test_quadratic_is_solved_in_as_many_steps_as_unknowns(beta: str) -> None:
    """With searches that are nearly exact, the points are those of linear conjugate gradients, the last the minimum."""
    n = 10
    a, target = quadratic(n)
    run = on_quadratic(n, beta=beta, max_iter=1, tolerance_grad=0, tolerance_change=0, c1=1e-7, c2=1e-6)
    x = np.zeros(n)
    r = a @ (x - target)
    d = -r
    for _ in range(n):
        length = (r @ r) / (d @ a @ d)
        x = x + length * d
        following = r + length * (a @ d)
        d = -following + (following @ following) / (r @ r) * d
        r = following
        run.step()
        np.testing.assert_allclose(run.p.data, x, rtol=0, atol=1e-7)
    np.testing.assert_allclose(run.p.data, target, rtol=0, atol=1e-7)
    assert run.state["n_iter"] == run.state["since_restart"] == n
    assert run.state["func_evals"] == len(run.points) <= 3 * n


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock_has_the_minimum_that_scipy_finds(n: int, beta: str) -> None:
    theirs = minimize(rosen, start(n), jac=rosen_der, method="CG", options={"gtol": 1e-7, "maxiter": 9999})
    run = Run(start(n), beta=beta, max_iter=200, tolerance_grad=1e-7, tolerance_change=0)
    for _ in range(3):
        run.step()
    assert theirs.success
    np.testing.assert_allclose(run.p.data, theirs.x, rtol=0, atol=1e-6)
    assert np.abs(rosen_der(run.p.data)).max() <= 1e-7
    assert run.state["func_evals"] <= 1.5 * theirs.nfev


@pytest.mark.parametrize("beta", BETAS)
def test_float32(beta: str) -> None:
    a, target = (x.astype("float32") for x in quadratic(8))
    run = Run(np.zeros(8, "float32"), lambda x: 0.5 * (x - target) @ a @ (x - target), lambda x: a @ (x - target))
    run.optimizer.param_groups[0].update(beta=beta, max_iter=60)
    run.step()
    np.testing.assert_allclose(run.p.data, target, rtol=0, atol=1e-3)
    for name in ("d", "gtd", "prev_flat_grad"):
        assert run.state[name].dtype == np.float32


# An iteration


@pytest.mark.parametrize(("c1", "c2"), [(1e-6, 1e-3), (0.03, 0.2), (0.25, 0.45)])
@pytest.mark.parametrize("beta", BETAS)
def test_searches_end_where_both_conditions_hold(beta: str, c1: float, c2: float) -> None:
    run = Run(start(6), beta=beta, max_iter=1, c1=c1, c2=c2, tolerance_change=0)
    for _ in range(25):
        x = run.p.data.copy()
        run.step()
        d, t, moved = run.state["d"], run.state["t"], run.p.data
        assert same(moved, x + t * d)
        slope = rosen_der(x) @ d
        assert rosen(moved) <= rosen(x) + c1 * t * slope * (1 - 1e-12)
        assert abs(rosen_der(moved) @ d) <= c2 * abs(slope) * (1 + 1e-12)
        np.testing.assert_allclose(run.state["gtd"], slope, rtol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_first_lengths_and_directions(beta: str) -> None:
    """The second probe of each step of one iteration is the first of its search, at x + t' (g' . d') / (g . d) d."""
    run = Run(start(5), beta=beta, lr=0.6, max_iter=1, powell=None, restart_every=99, tolerance_change=0)
    run.step()
    x, g = start(5), rosen_der(start(5))
    np.testing.assert_allclose(run.points[1], x - 0.6 / np.abs(g).sum() * g, rtol=1e-14)
    for _ in range(4):
        before, x, seen = dict(run.state), run.p.data.copy(), len(run.points)
        run.step()
        g = rosen_der(x)
        d = np.array([float(e) for e in exact_direction(g, before["prev_flat_grad"], before["d"], beta)])
        t = before["t"] * (before["prev_flat_grad"] @ before["d"]) / (g @ d)
        np.testing.assert_allclose(run.state["d"], d, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(run.points[seen + 1], x + t * d, rtol=1e-9, atol=1e-9)


def test_a_first_length_that_overflows_is_that_of_the_first_iteration() -> None:
    run = Run(start(5), lr=0.6, max_iter=1)
    run.step()
    run.state["t"] = 1e300
    x, seen = run.p.data.copy(), len(run.points)
    run.state["gtd"] *= 1e10
    run.step()
    length = 0.6 * min(1, 1 / np.abs(rosen_der(x)).sum())
    np.testing.assert_allclose(run.points[seen + 1], x + length * run.state["d"], rtol=1e-12)


def test_without_a_search_every_length_is_lr() -> None:
    a = np.array([3.0, 0.5])
    run = Run(np.array([1.0, -2.0]), lambda x: 0.5 * a @ x**2, lambda x: a * x, lr=0.2, beta="FR", powell=None)
    run.optimizer.param_groups[0].update(line_search_fn=None, max_iter=2)
    run.step()
    x = np.array([1.0, -2.0])
    g = a * x
    middle = x - 0.2 / 4 * g
    after = a * middle
    np.testing.assert_allclose(run.p.data, middle + 0.2 * (-after - (after @ after) / (g @ g) * g), rtol=1e-14)
    assert run.state["func_evals"] == len(run.points) == 2, "the last move is not evaluated"


def steepest(run: Run) -> bool:
    """Take a step of one iteration and tell whether its direction was that of steepest descent."""
    g = rosen_der(run.p.data)
    run.step()
    restarted = same(run.state["d"], -g)
    assert restarted == (run.state["since_restart"] == 1)
    return restarted


@pytest.mark.parametrize(("every", "period"), [(1, 1), (3, 3), (None, 4), (99, 99)])
def test_restarts_after_some_iterations(every: int | None, period: int) -> None:
    run = Run(start(4), beta="FR", max_iter=1, restart_every=every, powell=None, tolerance_change=0)
    assert [steepest(run) for _ in range(7)] == [i % period == 0 for i in range(7)]


@pytest.mark.parametrize("powell", [0.05, 0.2, 0.9, None])
def test_restarts_where_gradients_are_far_from_orthogonal(powell: float | None) -> None:
    hyper: Any = {"max_iter": 1, "restart_every": 99, "tolerance_change": 0, "c1": 0.01, "c2": 0.4}
    run = Run(start(6), beta="FR", powell=powell, **hyper)
    steepest(run)
    seen = set()
    for _ in range(30):
        g, prev_g = rosen_der(run.p.data), run.state["prev_flat_grad"]
        cosine = abs(g @ prev_g) / (g @ g)
        expected = powell is not None and cosine >= powell
        seen.add((steepest(run), expected))
    assert seen <= {(True, True), (False, False)}
    assert len(seen) == (1 if powell is None else 2)


def test_restarts_where_the_direction_would_ascend() -> None:
    """A state whose last direction is a large multiple of the gradient, of which the coefficient keeps too much."""
    run = Run(start(3), beta="FR", max_iter=1, powell=None)
    run.step()
    g = rosen_der(run.p.data)
    run.state["d"] = 50 * g
    assert conjugate_direction(g, run.state["prev_flat_grad"], 50 * g, "FR") @ g > 0
    assert steepest(run)


def test_restarts_after_a_search_that_found_no_step() -> None:
    """A loss that is higher everywhere else, whatever the gradient says."""
    run = Run(start(3), beta="FR", max_iter=1, powell=None, restart_every=99)
    run.step()
    x = run.p.data.copy()
    run.f = lambda y: np.abs(y - x).sum()
    assert not steepest(run)
    assert run.state["t"] == 0
    assert same(run.p.data, x)
    run.f = rosen
    assert steepest(run)
    assert not same(run.p.data, x)


def test_restarts_after_a_step_that_ended_before_its_first_move() -> None:
    run = Run(start(3), beta="FR", max_iter=1, powell=None, restart_every=99)
    run.step()
    x = run.p.data.copy()
    run.optimizer.param_groups[0]["tolerance_change"] = 1e9
    assert not steepest(run)
    assert same(run.p.data, x)
    run.optimizer.param_groups[0]["tolerance_change"] = 1e-5
    assert steepest(run)
    assert not same(run.p.data, x)


# Steps


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_many_steps_of_one_iteration_are_one_step(fn: str | None) -> None:
    hyper: Any = {"lr": 3e-4, "line_search_fn": fn, "tolerance_change": 0, "restart_every": 5}
    whole, pieces = Run(start(7), max_iter=12, **hyper), Run(start(7), max_iter=1, **hyper)
    whole.step()
    for _ in range(12):
        pieces.step()
    assert same(whole.p.data, pieces.p.data)
    assert whole.state["n_iter"] == pieces.state["n_iter"] == 12


def test_maximize_climbs_as_minimizing_the_negative_descends() -> None:
    down, up = Run(start(5)), Run(start(5), lambda x: -rosen(x), lambda x: -rosen_der(x), maximize=True)
    for _ in range(3):
        assert up.step() == -down.step()
        assert same(up.p.data, down.p.data)
        assert all(same(up.state[name], down.state[name]) for name in STATE)


def test_complex_parameters_are_pairs_of_reals() -> None:
    pairs = Run(start(8), max_iter=3)
    z = Run(
        start(8).view("complex128"),
        lambda z: rosen(z.view("float64")),
        lambda z: rosen_der(z.view("float64")).view("complex128"),
        max_iter=3,
    )
    for _ in range(5):
        pairs.step(), z.step()
        assert same(pairs.p.data, z.p.data.view("float64"))


@pytest.mark.parametrize("max_eval", [1, 2, 7, 20])
def test_evaluations_are_limited(max_eval: int) -> None:
    run = Run(start(6), max_iter=50, max_eval=max_eval, tolerance_change=0, c1=1e-5, c2=1e-3)
    run.step()
    assert max_eval <= run.state["func_evals"] == len(run.points) <= max_eval + 1


@pytest.mark.parametrize(
    ("hyper", "iterations"),
    [
        ({"max_iter": 3}, 3),
        ({"tolerance_grad": 300}, 0),
        ({"tolerance_change": 1e4}, 1),
        ({"tolerance_change": 1e9}, 1),
    ],
)
def test_a_step_ends(hyper: dict[str, Any], iterations: int) -> None:
    """At the start the gradient is (-215.6, -88), its square 54,227: the last tolerance forbids even the first move."""
    run = Run(start(2), **hyper)
    run.step()
    assert run.state["n_iter"] == iterations
    assert same(run.p.data, start(2)) == (hyper in ({"tolerance_grad": 300}, {"tolerance_change": 1e9}))


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
@pytest.mark.parametrize("settled", [0, 2])
def test_a_closure_that_raises_leaves_everything_as_it_was(fn: str | None, settled: int) -> None:
    hyper: Any = {"lr": 1e-3, "max_iter": 4, "line_search_fn": fn}
    run, undisturbed = Run(start(4), **hyper), Run(start(4), **hyper)
    for _ in range(settled):
        run.step(), undisturbed.step()
    before = run.everything()
    for fatal in count(1):
        calls = iter(range(1, fatal + 1))

        def closure(calls: Any = calls, fatal: int = fatal) -> float:
            if next(calls) == fatal:
                raise RuntimeError("the data are gone")
            return run.closure()

        try:
            run.optimizer.step(closure)
        except RuntimeError:
            assert run.everything() == before
        else:
            break
    assert fatal > 4
    undisturbed.step()
    assert run.everything() == undisturbed.everything()


@pytest.mark.parametrize("evaluation", [1, 4])
@pytest.mark.parametrize(("value", "error"), [(None, TypeError), ("1", TypeError), (np.ones(2), ValueError)])
def test_a_closure_that_returns_no_loss(value: Any, error: type[Exception], evaluation: int) -> None:
    run = Run(start(3))
    run.step()
    before, last = run.everything(), len(run.points) + evaluation
    with pytest.raises(error, match="the closure must return the loss, one real number"):
        run.optimizer.step(lambda: loss if (loss := run.closure()) and len(run.points) < last else value)
    assert len(run.points) == last
    assert run.everything() == before


# Arguments


BAD_SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -0.1}, ValueError, "Invalid learning rate: -0.1"),
    ({"lr": math.inf}, ValueError, r"Invalid learning rate: inf \(lr must be in \[0, inf\)\)"),
    ({"max_iter": 0}, ValueError, r"Invalid max_iter value: 0 \(max_iter must be in \[1, inf\)\)"),
    ({"max_iter": "3"}, TypeError, "max_iter must be an integer, got '3'"),
    ({"max_eval": 0}, ValueError, r"Invalid max_eval value: 0 \(max_eval must be in \[1, inf\) or None\)"),
    ({"tolerance_grad": -1}, ValueError, "Invalid tolerance_grad value: -1"),
    ({"tolerance_change": math.nan}, ValueError, "Invalid tolerance_change value: nan"),
    ({"beta": "PR"}, ValueError, r"Invalid beta: PR \(beta must be one of 'PR\+', 'FR', 'HS', 'DY'\)"),
    ({"beta": 0.9}, ValueError, "Invalid beta: 0.9"),
    ({"restart_every": 0}, ValueError, r"Invalid restart_every value: 0 \(restart_every must be in \[1, inf\) or None"),
    ({"restart_every": 4.0}, TypeError, "restart_every must be an integer, got 4.0"),
    ({"line_search_fn": "armijo"}, ValueError, "only 'strong_wolfe' is supported, got 'armijo'"),
    ({"powell": 0}, ValueError, r"Invalid powell value: 0 \(powell must be in \(0, inf\) or None\)"),
    ({"powell": math.nan}, ValueError, "Invalid powell value: nan"),
    ({"c1": 0}, ValueError, r"Invalid c1 value: 0 \(c1 must be in \(0, 0.5\)\)"),
    ({"c2": 0.5}, ValueError, r"Invalid c2 value: 0.5 \(c2 must be in \(0, 0.5\)\)"),
    ({"c2": math.nan}, ValueError, "Invalid c2 value: nan"),
    ({"c1": 0.1}, ValueError, "c1 must be smaller than c2, got c1=0.1 and c2=0.1"),
    ({"c1": 0.3, "c2": 0.2}, ValueError, "c1 must be smaller than c2, got c1=0.3 and c2=0.2"),
    ({"maximize": "no"}, TypeError, "maximize must be True or False, got 'no'"),
]


@pytest.mark.parametrize(("setting", "error", "message"), BAD_SETTINGS)
def test_bad_settings(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ConjugateGradient([start(2)], **setting)
    run = Run(start(2))
    before = run.everything()
    with pytest.raises(error, match=message):
        ConjugateGradient([{"params": [run.p], **setting}])
    run.optimizer.param_groups[0].update(setting)
    with pytest.raises(error, match=message):
        run.step()
    assert run.points == []
    run.optimizer.param_groups[0].update(ConjugateGradient([start(2)]).defaults)
    assert run.everything() == before


def test_bad_steps_and_parameters() -> None:
    run = Run(start(2))
    before = run.everything()
    with pytest.raises(
        TypeError, match=r"ConjugateGradient.step\(\) missing 1 required positional argument: 'closure'"
    ):
        run.optimizer.step()
    with pytest.raises(TypeError, match="ConjugateGradient takes no grads"):
        run.optimizer.step(grads=[np.ones(2)])
    with pytest.raises(ValueError, match=r"ConjugateGradient doesn't support per-parameter options"):
        run.optimizer.add_param_group({"params": [start(3)]})
    with pytest.raises(TypeError, match="ConjugateGradient does not support 16-bit parameters"):
        ConjugateGradient([start(2, "float16")])
    with pytest.raises(TypeError, match="all parameters of ConjugateGradient must have one real dtype"):
        ConjugateGradient([start(2), start(2, "float32")])
    assert run.everything() == before


# State dicts


def by_json(saved: Any) -> Any:
    return json.loads(json.dumps(saved, default=lambda x: x.tolist()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("stored", [lambda saved: saved, by_json, lambda saved: pickle.loads(pickle.dumps(saved))])
def test_a_stored_state_goes_on_like_an_uninterrupted_run(stored: Callable[[Any], Any], beta: str, dtype: str) -> None:
    whole = Run(start(5, dtype), beta=beta, max_iter=3, restart_every=7, c2=0.2)
    whole.step(), whole.step()
    again = Run(whole.p.data.copy(), lr=7, max_iter=9)
    again.optimizer.load_state_dict(stored(whole.optimizer.state_dict()))
    assert set(again.state) == STATE
    for _ in range(3):
        whole.step(), again.step()
        assert same(whole.p.data, again.p.data)
    assert all(same(whole.state[name], again.state[name]) for name in STATE)


BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of L-BFGS": (lambda s: s.update(ro=[]), "is not one of ConjugateGradient: state 0 has 'ro'"),
    "no slope": (lambda s: s.pop("gtd"), "state 0 lacks 'gtd'"),
    "no count": (lambda s: s.pop("since_restart"), "state 0 lacks 'since_restart'"),
    "shape": (lambda s: s.update(d=np.ones(2)), r"state 0, d, must have shape \(3,\), got \(2,\)"),
    "slope": (lambda s: s.update(gtd=[1.0]), "state 0, gtd, must be a real number"),
    "count": (lambda s: s.update(since_restart=-2), "state 0, since_restart, must be an integer"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_bad_states(name: str) -> None:
    change, message = BAD_STATES[name]
    run = Run(start(3))
    run.step()
    before, saved = run.everything(), run.optimizer.state_dict()
    change(saved["state"][0])
    with pytest.raises(ValueError, match=message):
        run.optimizer.load_state_dict(saved)
    assert run.everything() == before
