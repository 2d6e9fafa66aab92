"""The optimizers for models of thinc."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("thinc", reason="thinc is not installed")

import thinc.api as api
from thinc.optimizers import Optimizer as ThincOptimizer

import refoptim
from helpers.rooms import DENSE, SETTINGS, assert_equal_bits, make, normal
from refoptim.interop.thinc import Optimizer

KEY = (7, "W")
ELEMENTWISE = [name for name in DENSE if name != "Muon"]


def network() -> Any:
    """Return a small model, its weights drawn."""
    model = api.chain(api.Relu(5, 4), api.Linear(2, 5))
    model.initialize()
    for i, layer in enumerate(model.layers):
        layer.set_param("W", normal(i, *layer.get_param("W").shape))
    return model


def weights(model: Any) -> list[Any]:
    return [(layer, name) for layer in model.layers for name in layer.param_names]


def train(model: Any, finish: Callable[[Any], None], steps: int) -> None:
    for step in range(steps):
        _, back = model.begin_update(normal(step, 8, 4))
        back(normal(100 + step, 8, 2))
        finish(model)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_models_are_trained_with_the_bits_of_the_optimizer(name: str) -> None:
    mine, other = network(), network()
    optimizer = make(name, [layer.get_param(key) for layer, key in weights(other)])

    def step(model: Any) -> None:
        grads = [layer.get_grad(key) for layer, key in weights(model)]
        optimizer.step(grads=grads)
        for g in grads:
            g[...] = 0

    settings = {"lr": 1e-3, **SETTINGS[name]}
    front = Optimizer(getattr(refoptim, name), settings.pop("lr"), **settings)
    train(mine, lambda model: model.finish_update(front), 6)
    train(other, step, 6)
    for (layer, key), (twin, _) in zip(weights(mine), weights(other), strict=True):
        assert_equal_bits(layer.get_param(key), twin.get_param(key), key)


def test_a_line_is_learnt() -> None:
    x = normal(0, 200, 3)
    y = x @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 3
    model = api.Linear(1, 3)
    model.initialize()
    optimizer = Optimizer(refoptim.Adam, 0.1)
    for _ in range(300):
        found, back = model.begin_update(x)
        back((found - y) / 200)
        model.finish_update(optimizer)
        optimizer.step_schedules()
    assert np.allclose(model.get_param("W"), [[1, -2, 0.5]], atol=2e-3)
    assert np.allclose(model.get_param("b"), [3], atol=2e-3)
    assert not model.get_grad("W").any()


def call(optimizer: Any, w: Any, g: Any, **more: Any) -> Any:
    """Step, check that the arrays given come back, the gradient zero, and return the weights."""
    g = np.array(g, w.dtype)
    new, zero = optimizer(KEY, w, g, **more)
    assert new is w
    assert zero is g
    assert not g.any()
    return w.tolist()


def test_it_is_an_optimizer_of_thinc() -> None:
    optimizer = Optimizer(refoptim.SGD)
    assert isinstance(optimizer, ThincOptimizer)
    assert optimizer.averages is None


def test_the_rate_is_the_default_of_the_rule_unless_given() -> None:
    for optimizer, step in (
        (Optimizer(refoptim.SGD), 0.001),
        (Optimizer(refoptim.SGD, 0.25), 0.25),
        (Optimizer(refoptim.SGD, lr=0.5), 0.5),
        (Optimizer(refoptim.Adadelta), None),
    ):
        w = np.array([1.0])
        assert call(optimizer, w, [1.0]) == ([1 - step] if step else w.tolist())


def test_rates_are_scaled_for_a_parameter() -> None:
    assert call(Optimizer(refoptim.SGD, 0.5), np.array([1.0]), [1.0], lr_scale=0.5) == [0.75]


@pytest.mark.parametrize(
    "rate", [[0.5, 0.25, 0.125], iter([0.5, 0.25, 0.125]), "generator"], ids=["list", "iter", "gen"]
)
def test_schedules_step(rate: Any) -> None:
    if not isinstance(rate, list):
        rate = (x for x in [0.5, 0.25, 0.125])
    optimizer, w, found = Optimizer(refoptim.SGD, rate), np.array([0.0]), []
    for _ in range(5):
        before = w[0]
        call(optimizer, w, [1.0])
        call(optimizer, w, [0.0])
        found.append(before - w[0])
        optimizer.step_schedules()
    assert found[:2] == [0.5, 0.25]
    assert found[2:] == [0.125, 0.125, 0.125]


def test_any_setting_may_follow_a_schedule() -> None:
    if not hasattr(api, "Schedule"):
        pytest.skip("schedules are objects from thinc 9 on")
    momentum = api.Schedule("mine", lambda schedule, step, **more: 0.5 if step else 0.0)
    optimizer, w, found = Optimizer(refoptim.SGD, 1.0, momentum=momentum), np.array([0.0]), []
    for _ in range(3):
        found += call(optimizer, w, [1.0])
        optimizer.step_schedules()
    assert found == [-1.0, -2.0, -3.5]


def test_gradients_are_clipped_by_thinc() -> None:
    assert call(Optimizer(refoptim.SGD, 1.0, grad_clip=1.0), np.array([0.0, 0.0], np.float32), [3.0, 4.0]) == [
        -np.float32(0.6),
        -np.float32(0.8),
    ]


def test_averages_are_those_of_thinc() -> None:
    """The first average weighs the weights with 1 - (1 + 1) / (10 + 1)."""
    optimizer, w = Optimizer(refoptim.SGD, 1.0, use_averages=True), np.array([11.0], np.float32)
    call(optimizer, w, [0.0])
    assert np.allclose(optimizer.averages[KEY], 9.0)


def test_arrays_may_be_replaced_by_others() -> None:
    """The state stays with the key, as when a shim hands over new arrays at every step."""
    optimizer = Optimizer(refoptim.SGD, 1.0, momentum=0.5)
    w = np.array([0.0])
    call(optimizer, w, [1.0])
    again = w.copy()
    call(optimizer, again, [1.0])
    assert (w.tolist(), again.tolist()) == ([-1.0], [-2.5])


def test_parameters_have_states_of_their_own() -> None:
    optimizer = Optimizer(refoptim.SGD, 1.0, momentum=0.5)
    v, w = np.array([0.0]), np.array([0.0])
    for _ in range(2):
        optimizer((1, "W"), v, np.array([1.0]))
    optimizer((2, "W"), w, np.array([1.0]))
    assert (v.tolist(), w.tolist()) == ([-2.5], [-1.0])


def test_parameters_without_elements_stay() -> None:
    w = np.zeros((0, 3), np.float32)
    assert Optimizer(refoptim.SGD)(KEY, w, w)[0] is w


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(again: Any) -> None:
    optimizer, w = Optimizer(refoptim.Adam, 0.1), normal(0, 5)
    call(optimizer, w, normal(1, 5))
    twin, v = again(optimizer), w.copy()
    for x, y in ((optimizer, w), (twin, v)):
        call(x, y, normal(2, 5))
    assert_equal_bits(v, w)


def test_what_is_kept_moves_with_the_weights(fake_cupy: Any) -> None:
    """On a stand-in for CuPy that needs no GPU."""
    here, there = (Optimizer(refoptim.SGD, 1.0, momentum=0.5, fused=False) for _ in range(2))
    w = np.array([0.0])
    call(here, w, [1.0])
    call(there, w.copy() * 0, [1.0])
    there.to_gpu()
    x, g = fake_cupy.asarray(w), fake_cupy.asarray(np.array([1.0]))
    there(KEY, x, g)
    there.to_cpu()
    call(there, moved := x.get(), [1.0])
    for _ in range(2):
        call(here, w, [1.0])
    assert moved.tolist() == w.tolist() == [-4.25]
    there(KEY, fake_cupy.asarray(moved), g)  # without being told


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Optimizer(refoptim.SGD, -1.0), ValueError, "Invalid learning rate: -1"),
        (lambda: Optimizer(refoptim.Adam, momentum=1), TypeError, "unexpected keyword argument 'momentum'"),
        (lambda: Optimizer(refoptim.Adam, 1.0, lr=1.0), TypeError, "as learn_rate or as lr, not both"),
        (lambda: Optimizer(refoptim.LBFGS), TypeError, "LBFGS calls a closure"),
        (lambda: Optimizer(refoptim.Optimizer), TypeError, "rule must be a class of optimizers"),
        (lambda: Optimizer("Adam"), TypeError, "rule must be a class of optimizers"),  # type: ignore[arg-type]
    ],
)
def test_wrong_rules_and_settings_are_refused_at_once(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("g", "error", "message"),
    [
        (np.ones(3, np.float32), ValueError, "(W of node 7): the gradient must have shape (2,), got (3,)"),
        (np.ones(2), TypeError, "(W of node 7): the gradient must have dtype float32, got float64"),
        (np.broadcast_to(np.float32(1), (2,)), ValueError, "the gradient of W of node 7 must be writable"),
    ],
)
def test_wrong_gradients_are_refused_and_change_nothing(g: Any, error: type[Exception], message: str) -> None:
    optimizer = Optimizer(refoptim.SGD, 0.5, use_averages=True)
    w = np.ones(2, np.float32)
    with pytest.raises(error, match=re.escape(message)):
        optimizer(KEY, w, g)
    assert w.tolist() == [1, 1]
    assert (g == 1).all()
    assert optimizer.averages == {}
    assert call(optimizer, w, [1, 1]) == [0.5, 0.5]
