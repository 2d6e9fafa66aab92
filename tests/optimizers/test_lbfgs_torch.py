"""L-BFGS against torch, bit for bit where torch is given the sums that refoptim defines."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import pytest
from scipy.optimize import rosen_der

from helpers.lbfgs import Pair, Run, as_numpy, quadratic, start
from helpers.pictures import same
from refoptim import Parameter
from refoptim.optimizers.lbfgs import LBFGS

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
