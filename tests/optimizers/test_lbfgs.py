"""L-BFGS against torch, bit for bit where torch is given the sums that refoptim defines; its state, errors, search."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib import import_module
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import rosen, rosen_der

from refoptim import Parameter, SparseGrad
from refoptim.numerics import tree
from refoptim.optimizers.lbfgs import LBFGS, lbfgs_direction
from refoptim.optimizers.line_search import Point, cubic, strong_wolfe

STATE = {"func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad", "prev_loss", "al"}


def start(n: int, dtype: str = "float64") -> Any:
    return np.resize([-1.2, 1.0], n).astype(dtype)


def quadratic(n: int, seed: int = 5) -> tuple[Any, Any]:
    """Return a positive definite matrix of condition 30, and a vector."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return q * np.geomspace(0.2, 6, n) @ q.T, rng.standard_normal(n)


class Run:
    """An optimizer over parts of a flat vector, with a closure for the Rosenbrock function of the vector."""

    def __init__(self, parts: list[Any], sign: int = 1, **hyper: Any) -> None:
        self.params = [Parameter(x) for x in parts]
        self.optimizer = LBFGS(self.params, **hyper)
        self.sign, self.calls, self.visited = sign, 0, [self.flat()]

    def flat(self) -> Any:
        return np.concatenate([p.data.reshape(-1) for p in self.params])

    def closure(self) -> float:
        self.calls += 1
        x = self.flat()
        self.visited.append(x)
        rest = rosen_der(x) * self.sign
        for p in self.params:
            p.grad, rest = rest[: p.data.size].reshape(p.shape), rest[p.data.size :]
        return float(rosen(x)) * self.sign

    def step(self) -> Any:
        return self.optimizer.step(self.closure)

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.params[0]]

    def everything(self) -> Any:
        """Return all that a failing step must leave as it was."""
        return frozen([self.flat(), self.optimizer.state_dict()])


def frozen(x: Any) -> Any:
    """Turn a value into one that compares bit for bit; a Python number is a number of 64 bits."""
    if isinstance(x, dict):
        return {key: frozen(y) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return [frozen(y) for y in x]
    return x if x is None or isinstance(x, str) else (np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes())


def same(x: Any, y: Any) -> bool:
    """Tell whether two values are equal, bit for bit."""
    return bool(frozen(x) == frozen(y))


# torch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")


@pytest.fixture
def summing_torch(torch: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let torch sum in the order that refoptim defines, and take roots that are correctly rounded."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.asarray(x))

    monkeypatch.setattr(torch.Tensor, "dot", lambda x, y: tensor(tree.dot(x.numpy(), y.numpy())))
    monkeypatch.setattr(torch.Tensor, "sum", lambda x: tensor(tree.total(lambda y: y, x.numpy())))
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: tensor(np.sqrt(x.numpy())))
    return torch


class Pair(Run):
    """The same with torch beside it."""

    def __init__(self, torch: Any, parts: list[Any], **hyper: Any) -> None:
        self.tensors = [torch.from_numpy(x.copy()) for x in parts]
        self.theirs = torch.optim.LBFGS(self.tensors, **hyper)
        self.torch = torch
        super().__init__(parts, **hyper)

    def torch_closure(self) -> float:
        x = np.concatenate([tensor.numpy().reshape(-1) for tensor in self.tensors])
        rest = rosen_der(x)
        for tensor in self.tensors:
            n = tensor.numel()
            tensor.grad, rest = self.torch.from_numpy(rest[:n].reshape(tuple(tensor.shape)).copy()), rest[n:]
        return float(rosen(x))

    @property
    def torch_state(self) -> dict[str, Any]:
        return self.theirs.state[self.tensors[0]]

    def gap(self) -> float:
        return max(float(np.abs(p.data - t.numpy()).max()) for p, t in zip(self.params, self.tensors, strict=True))


def as_numpy(x: Any) -> Any:
    if isinstance(x, list):
        return [as_numpy(y) for y in x]
    return x.numpy() if hasattr(x, "numpy") else x


CONFIGURATIONS = {
    "search": {"lr": 1, "line_search_fn": "strong_wolfe"},
    "search, short first steps": {"lr": 0.3, "line_search_fn": "strong_wolfe", "history_size": 4},
    "search, long first steps": {"lr": 7.5, "line_search_fn": "strong_wolfe", "history_size": 9},
    "search, few evaluations": {"line_search_fn": "strong_wolfe", "max_iter": 3, "max_eval": 4},
    "search, one evaluation": {"line_search_fn": "strong_wolfe", "max_iter": 3, "max_eval": 1},
    "search, one iteration": {"line_search_fn": "strong_wolfe", "max_iter": 1},
    "no search": {"lr": 0.1, "history_size": 3},
    "no search, one iteration": {"lr": 0.2, "max_iter": 1, "history_size": 2},
    "no search, few evaluations": {"lr": 0.3, "max_iter": 9, "max_eval": 4},
    "loose gradient": {"lr": 0.5, "tolerance_grad": 2.5, "line_search_fn": "strong_wolfe"},
    "loose change": {"lr": 0.5, "tolerance_change": 0.04, "line_search_fn": "strong_wolfe"},
    "loose change, no search": {"lr": 0.05, "tolerance_change": 0.5},
}


@pytest.mark.parametrize("n", [2, 10, 1030])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_bit_of_torch_that_is_given_the_sums(name: str, dtype: str, n: int, summing_torch: Any) -> None:
    pair = Pair(summing_torch, [start(n, dtype)], **CONFIGURATIONS[name])
    for step in range(7 if n < 99 else 3):
        assert pair.step() == pair.theirs.step(pair.torch_closure)
        assert same(pair.params[0].data, pair.tensors[0].numpy()), step
        assert set(pair.state) == set(pair.torch_state)
        for key, value in pair.torch_state.items():
            assert same(pair.state[key], as_numpy(value)), (step, key)
    assert pair.calls == pair.state["func_evals"]
    assert np.isfinite(pair.flat()).all()


def test_every_bit_of_torch_over_several_parameters(summing_torch: Any) -> None:
    x = start(13)
    parts = [x[:4].reshape(2, 2), x[4:5].reshape(()), x[5:8].copy(), x[8:].reshape(1, 5, 1)]
    pair = Pair(summing_torch, parts, lr=0.8, line_search_fn="strong_wolfe", history_size=6, max_iter=5)
    for _ in range(9):
        pair.step(), pair.theirs.step(pair.torch_closure)
        assert all(same(p.data, t.numpy()) for p, t in zip(pair.params, pair.tensors, strict=True))
    assert pair.state["d"].shape == (13,)


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(8))
def test_every_bit_of_torch_where_losses_are_drawn(seed: int, dtype: str, fn: str | None, summing_torch: Any) -> None:
    """Losses and gradients have nothing to do with the parameters, as if each evaluation saw other data."""
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=999) * 10.0 ** rng.integers(-5, 1, 999)
    grads = (rng.normal(size=(999, 3)) * 10.0 ** rng.integers(-2, 2, (999, 1))).astype(dtype)
    p, tensor = Parameter(start(3, dtype)), summing_torch.from_numpy(start(3, dtype))
    hyper: Any = {"lr": float(rng.uniform(0.05, 2)), "max_iter": int(rng.integers(1, 9)), "line_search_fn": fn}
    hyper |= {"history_size": int(rng.integers(1, 5)), "tolerance_change": 1e-4, "tolerance_grad": 0.02}
    ours, theirs = LBFGS([p], **hyper), summing_torch.optim.LBFGS([tensor], **hyper)
    evals = [count(), count()]

    def closure() -> Any:
        i = next(evals[0])
        p.grad = grads[i]
        return losses[i]

    def torch_closure() -> Any:
        i = next(evals[1])
        tensor.grad = summing_torch.from_numpy(grads[i].copy())
        return losses[i]

    compared = 0
    for _ in range(9):
        ours.step(closure), theirs.step(torch_closure)
        if not np.isfinite(tensor.numpy()).all():
            break
        compared += 1
        assert same(p.data, tensor.numpy())
        assert ours.state[p]["func_evals"] == theirs.state[tensor]["func_evals"]
        assert ours.state[p]["n_iter"] == theirs.state[tensor]["n_iter"]
    assert compared > 2, "torch divides 0 by 0 too early to compare"


@pytest.mark.parametrize(("n", "lr", "search"), [(2, 1, True), (10, 1, True), (2, 0.5, False), (10, 0.5, False)])
def test_evaluations_and_minimum_of_torch_as_it_is(n: int, lr: float, search: bool, torch: Any) -> None:
    pair = Pair(torch, [start(n)], lr=lr, line_search_fn="strong_wolfe" if search else None)
    for _ in range(6):
        pair.step(), pair.theirs.step(pair.torch_closure)
        for name in ("func_evals", "n_iter"):
            assert pair.state[name] == pair.torch_state[name]
    for optimizer in (pair.optimizer, pair.theirs):
        optimizer.param_groups[0].update(tolerance_grad=1e-10, tolerance_change=0)
    for _ in range(3):
        pair.step(), pair.theirs.step(pair.torch_closure)
    assert pair.gap() < 1e-9
    assert np.abs(rosen_der(pair.flat())).max() < 1e-9
    assert search is False or np.abs(pair.flat() - 1).max() < 1e-9


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_float32_stays_close_to_torch_on_a_quadratic(fn: str | None, torch: Any) -> None:
    a, b = (x.astype("float32") for x in quadratic(12))
    x, tensor = np.zeros(12, "float32"), torch.zeros(12)
    ours = LBFGS([x], lr=0.6, max_iter=2, line_search_fn=fn)
    theirs = torch.optim.LBFGS([tensor], lr=0.6, max_iter=2, line_search_fn=fn)
    p = ours.param_groups[0]["params"][0]

    def closure() -> Any:
        p.grad = a @ x - b
        return 0.5 * x @ a @ x - b @ x

    def torch_closure() -> float:
        y = tensor.numpy()
        tensor.grad = torch.from_numpy(a @ y - b)
        return float(0.5 * y @ a @ y - b @ y)

    for _ in range(20):
        ours.step(closure), theirs.step(torch_closure)
        np.testing.assert_allclose(x, tensor.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=0, atol=3e-3)
    assert x.dtype == ours.state[p]["d"].dtype == np.float32


@pytest.mark.parametrize("stop", [1, 3])
def test_continues_a_torch_state_dict(stop: int, summing_torch: Any) -> None:
    hyper = {"lr": 0.4, "max_iter": 3, "history_size": 5, "line_search_fn": "strong_wolfe"}
    pair = Pair(summing_torch, [start(6)], **hyper)
    for _ in range(stop):
        pair.theirs.step(pair.torch_closure)
    ours = Run([pair.tensors[0].numpy().copy()], max_iter=9)
    ours.optimizer.load_state_dict(pair.theirs.state_dict())
    for _ in range(4):
        ours.step(), pair.theirs.step(pair.torch_closure)
        assert same(ours.flat(), pair.tensors[0].numpy())
    assert ours.state["func_evals"] == pair.torch_state["func_evals"]


def test_a_step_where_the_loss_is_no_number_is_too_long_and_torch_takes_it(torch: Any) -> None:
    """The loss -log(2 - x) - 3 x has its minimum at 5/3, and none of its values beyond 2, where the slope goes on."""

    def loss(x: Any) -> tuple[float, Any]:
        f = -math.log(2 - x[0]) - 3 * x[0] if x[0] < 2 else math.nan
        return f, 1 / (2 - x) - 3

    x, tensor = np.zeros(1), torch.zeros(1, dtype=torch.float64)
    p = Parameter(x)
    ours = LBFGS([p], lr=10, line_search_fn="strong_wolfe")
    theirs = torch.optim.LBFGS([tensor], lr=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        f, p.grad = loss(x)
        return f

    def torch_closure() -> float:
        f, g = loss(tensor.numpy())
        tensor.grad = torch.from_numpy(g)
        return f

    ours.step(closure), theirs.step(torch_closure)
    assert abs(x[0] - 5 / 3) < 1e-6
    assert math.isnan(loss(tensor.numpy())[0])


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


# The line search


coefficients = st.floats(-3, 3)


@settings(deadline=None, max_examples=60)
@given(coefficients, coefficients, st.floats(0.05, 3), st.floats(0.01, 30), st.floats(1e-4, 0.2), st.floats(0.3, 0.9))
def test_search_meets_both_conditions(a: float, b: float, k: float, t: float, c1: float, c2: float) -> None:
    def f(t: float) -> float:
        return k * (t - a) ** 4 + (t - b) ** 2 + t

    def slope(t: float) -> float:
        return 4 * k * (t - a) ** 3 + 2 * (t - b) + 1

    assume(slope(0) < -1e-3)
    d = np.array([1.0])
    origin = Point(0, f(0), np.array([slope(0)]), np.float64(slope(0)))
    end = strong_wolfe(lambda t: (f(t), np.array([slope(t)])), d, origin, np.float64(t), c1=c1, c2=c2, max_evals=99)
    assert end.f == f(end.t)
    assert end.slope == slope(end.t)
    assert end.f <= f(0) + c1 * end.t * slope(0)
    assert abs(end.slope) <= c2 * abs(slope(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_search_visits_the_steps_of_torch(seed: int, dtype: str, summing_torch: Any) -> None:
    """Losses and slopes are drawn as the search goes, with many ties, and depend on the step only by its number."""
    search = import_module("torch.optim.lbfgs")._strong_wolfe
    rng = np.random.default_rng(seed)
    compared = 0
    for _ in range(60):
        losses = np.round(rng.normal(-0.5, 1, 40) * rng.choice([2, 9])) / 8
        slopes = (np.round(rng.normal(-0.4, 1, 40) * 8) / 8).astype(dtype)
        c1, c2 = float(rng.choice([1e-4, 0.3])), float(rng.choice([0.01, 0.4]))
        max_evals = int(rng.integers(0, 14))
        f, slope, t = 0.25, np.array([-1.375], dtype), np.array(rng.choice([0.4, 3.0]), dtype)
        steps: dict[str, list[Any]] = {"ours": [], "theirs": []}

        def along(who: str, t: Any, steps: Any = steps, losses: Any = losses, slopes: Any = slopes) -> Any:
            steps[who].append(np.asarray(t, dtype))
            return float(losses[len(steps[who])]), slopes[len(steps[who])][None]

        d = np.ones(1, dtype)
        with np.errstate(all="ignore"):
            end = strong_wolfe(
                lambda t: along("ours", t), d, Point(0, f, slope, slope[0]), t[()], c1=c1, c2=c2, max_evals=max_evals
            )

        def torch_along(x: Any, t: Any, d: Any) -> Any:
            f, g = along("theirs", t)
            return f, summing_torch.from_numpy(g.copy())

        tensors = [summing_torch.from_numpy(x) for x in (t, d, slope)]
        loss, gradient, length, evals = search(
            torch_along, None, tensors[0], tensors[1], f, tensors[2], tensors[2][0], c1=c1, c2=c2, max_ls=max_evals
        )
        assert np.isfinite(steps["ours"]).all()
        sound = int(np.isfinite(steps["theirs"]).sum())
        assert same(steps["ours"][:sound], steps["theirs"][:sound])
        if sound == evals:
            compared += 1
            assert len(steps["ours"]) == evals
            assert (end.f, end.g.tolist()) == (loss, gradient.tolist())
            assert same(np.asarray(end.t, dtype), np.asarray(length, dtype))
    assert compared > 50, "in torch a cubic without a minimum is seldom 0 / 0"


@pytest.mark.parametrize("max_evals", [0, 1, 2, 5])
def test_search_stops_after_its_evaluations(max_evals: int) -> None:
    probes: list[float] = []

    def along(t: float) -> tuple[float, Any]:
        probes.append(t)
        return -t, np.array([-1.0])

    origin = Point(0, 0.0, np.array([-1.0]), np.float64(-1))
    with np.errstate(all="ignore"):
        end = strong_wolfe(along, np.array([1.0]), origin, 0.3, max_evals=max_evals)
    assert len(probes) == max_evals + 1
    assert end.t == probes[-1], "the loss goes down all the way"


@settings(deadline=None, max_examples=60)
@given(st.integers(-8, 8), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_cubic_through_two_points_of_a_cubic_finds_its_minimum(at: int, gap: int, before: int, after: int) -> None:
    """With f' = (t - at)(t - at + 2 gap), f has its minimum at ``at`` and its maximum 2 gap before."""

    def point(t: float) -> Point:
        u = t - at
        return Point(np.float64(t), u**3 / 3 + gap * u**2, np.zeros(1), np.float64(u * (u + 2 * gap)))

    near, far = point(at - 0.1 * before), point(at + 0.3 * after)
    for a, b in ((near, far), (far, near)):
        assert abs(cubic(a, b) - at) < 1e-7
        assert cubic(a, b, (at + 0.5, at + 2.0)) == at + 0.5
        assert cubic(a, b, (at - 2.0, at - 0.5)) == at - 0.5


@pytest.mark.parametrize(
    ("f", "slope"), [(5.0, 2.0), (math.inf, 1.0), (math.inf, math.nan)], ids=["no minimum", "infinite", "no number"]
)
def test_cubic_without_a_minimum_gives_the_middle(f: float, slope: float) -> None:
    """The first: slopes 1 and 2 at 0 and 4 and a mean slope of 3/4 leave d1 = 3/4, and 9/16 < 1 * 2."""
    a, b = Point(0, 2.0, np.zeros(1), np.float64(1)), Point(np.float64(4), f, np.zeros(1), np.float64(slope))
    with np.errstate(all="ignore"):
        assert cubic(a, b) == cubic(b, a) == 2.0
        assert cubic(a, b, (4.0, 10.0)) == 7.0


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_a_learning_rate_of_zero_moves_nothing(fn: str | None) -> None:
    run = Run([start(3)], lr=0, line_search_fn=fn, max_iter=4)
    for _ in range(3):
        run.step()
    assert same(run.flat(), start(3))


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


# Arguments


BAD_SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -0.1}, ValueError, r"Invalid learning rate: -0.1 \(lr must be in \[0, inf\)\)"),
    ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    ({"lr": np.ones(2)}, ValueError, "Tensor lr must be 1-element"),
    ({"lr": "1"}, TypeError, "lr must be a real number, got '1'"),
    ({"max_iter": 0}, ValueError, r"Invalid max_iter value: 0 \(max_iter must be in \[1, inf\)\)"),
    ({"max_iter": 2.0}, TypeError, "max_iter must be an integer, got 2.0"),
    ({"max_iter": True}, TypeError, "max_iter must be an integer, got True"),
    ({"max_iter": None}, TypeError, "max_iter must be an integer, got None"),
    ({"max_eval": 0}, ValueError, r"Invalid max_eval value: 0 \(max_eval must be in \[1, inf\) or None\)"),
    ({"max_eval": 2.5}, TypeError, "max_eval must be an integer, got 2.5"),
    (
        {"tolerance_grad": -1e-9},
        ValueError,
        r"Invalid tolerance_grad value: -1e-09 \(tolerance_grad must be in \[0, inf\)",
    ),
    ({"tolerance_grad": math.nan}, ValueError, "Invalid tolerance_grad value: nan"),
    ({"tolerance_change": -1e-9}, ValueError, "Invalid tolerance_change value: -1e-09"),
    ({"tolerance_change": math.inf}, ValueError, "Invalid tolerance_change value: inf"),
    ({"history_size": 0}, ValueError, r"Invalid history_size value: 0 \(history_size must be in \[1, inf\)\)"),
    ({"history_size": 1.0}, TypeError, "history_size must be an integer, got 1.0"),
    (
        {"line_search_fn": "armijo"},
        ValueError,
        "only 'strong_wolfe' is supported, got 'armijo' .line_search_fn must be",
    ),
    ({"line_search_fn": 1}, ValueError, "only 'strong_wolfe' is supported, got 1"),
    ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
]


@pytest.mark.parametrize(("setting", "error", "message"), BAD_SETTINGS)
def test_bad_settings(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LBFGS([start(2)], **setting)
    run = Run([start(2)], max_iter=2)
    before = run.everything()
    with pytest.raises(error, match=message):
        LBFGS([{"params": run.params, **setting}])
    run.optimizer.param_groups[0].update(setting)
    with pytest.raises(error, match=message):
        run.step()
    assert run.calls == 0
    run.optimizer.param_groups[0].update(LBFGS([start(2)], max_iter=2).defaults)
    assert run.everything() == before


BAD_STEPS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, r"LBFGS.step\(\) missing 1 required positional argument: 'closure'"),
    ((None,), {}, "missing 1 required positional argument: 'closure'"),
    ((1.5,), {}, "closure must be a function that returns the loss, got 1.5"),
    ((), {"grads": [np.ones(2)]}, "LBFGS takes no grads: a step evaluates its closure more than once"),
    ((lambda: 0.0,), {"grads": [np.ones(2)]}, "step takes a closure or grads, not both"),
]


@pytest.mark.parametrize(("args", "kwargs", "message"), BAD_STEPS)
def test_bad_steps(args: Any, kwargs: Any, message: str) -> None:
    run = Run([start(2)], max_iter=2)
    run.step()
    before = run.everything()
    with pytest.raises(TypeError, match=message):
        run.optimizer.step(*args, **kwargs)
    assert run.everything() == before


BAD_PARAMETERS: dict[str, tuple[Any, type[Exception], str]] = {
    "two groups": (
        [{"params": [start(2)]}, {"params": [start(3)]}],
        ValueError,
        r"LBFGS doesn't support per-parameter options \(parameter groups\)",
    ),
    "none": ([{"params": []}], ValueError, "LBFGS needs at least one parameter, got none"),
    "16 bits": (
        [start(2), start(2, "float16")],
        TypeError,
        "LBFGS does not support 16-bit parameters.*parameter 1 of group 0 must have dtype float32, .* got float16",
    ),
    "two dtypes": (
        [start(2), start(2, "float32")],
        TypeError,
        "all parameters of LBFGS must have one real dtype, got float32, float64",
    ),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters(name: str) -> None:
    params, error, message = BAD_PARAMETERS[name]
    with pytest.raises(error, match=message):
        LBFGS(params)


def test_float32_and_complex64_have_one_real_dtype() -> None:
    LBFGS([start(2, "float32"), start(2).astype("complex64")])


def test_a_second_group_is_refused_at_once() -> None:
    run = Run([start(2)])
    before = run.everything()
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        run.optimizer.add_param_group({"params": [start(3)]})
    assert run.everything() == before


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (start(5), ValueError, "the state of LBFGS must fit 5 elements of float64, got 3 elements of float64"),
        (start(3, "float32"), ValueError, "must fit 3 elements of float32, got 3 elements of float64"),
        (start(3, "float16"), TypeError, "LBFGS does not support 16-bit parameters"),
    ],
)
def test_parameters_that_changed_between_steps(data: Any, error: type[Exception], message: str) -> None:
    run = Run([start(3)], max_iter=2)
    run.step()
    before, array = run.everything(), run.params[0].data
    run.params[0].data = data
    with pytest.raises(error, match=message):
        run.step()
    run.params[0].data = array
    assert run.everything() == before


def test_a_read_only_parameter_is_refused_before_anything_moves() -> None:
    run = Run([start(3), start(2)], max_iter=2)
    before = run.everything()
    run.params[1].data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        run.step()
    assert run.calls == 0
    assert run.everything() == before


def test_defaults_are_those_of_torch(torch: Any) -> None:
    for given_settings in ({}, {"max_iter": 7}, {"max_eval": 11}):
        theirs = torch.optim.LBFGS([torch.zeros(2)], **given_settings)
        ours = LBFGS([start(2)], **given_settings)
        assert ours.defaults == theirs.defaults | {"maximize": False, "fused": None}
        group = ours.state_dict()["param_groups"][0]
        assert group == theirs.state_dict()["param_groups"][0] | {"maximize": False, "fused": None}


def test_max_eval_none_in_a_group_stands_for_five_quarters_of_max_iter() -> None:
    x = start(6)
    p = Parameter(x)
    optimizer = LBFGS([{"params": [p], "max_eval": None, "max_iter": 5}], lr=0.01, tolerance_change=0)

    def closure() -> float:
        p.grad = rosen_der(x)
        return float(rosen(x))

    optimizer.step(closure)
    assert optimizer.state[p]["func_evals"] == 5
    optimizer.param_groups[0].update(line_search_fn="strong_wolfe", max_iter=2)
    optimizer.step(closure)
    assert optimizer.state[p]["func_evals"] <= 5 + 2 + 1


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
