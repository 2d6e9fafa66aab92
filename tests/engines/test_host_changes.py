"""fused=True on NumPy arrays: a repeated step is not planned anew, and what was changed in between is seen."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_bits, assert_same_runs
from helpers.pairs import copies, pair, step
from helpers.rooms import SETTINGS, make, normal
from refoptim import Optimizer, Parameter

pytestmark = NEEDS_KERNELS


def on_another_gradient(o: Optimizer, g: Any) -> Any:
    return [np.asfortranarray(g[0] * 2), g[1]]


def on_a_missing_gradient(o: Optimizer, g: Any) -> Any:
    return [None, g[1]]


def on_all_missing(o: Optimizer, g: Any) -> Any:
    return [None, None]


def on_a_gradient_that_is_the_parameter(o: Optimizer, g: Any) -> Any:
    return [params_of(o)[0].data, g[1]]


def on_gradients_that_trade_places(o: Optimizer, g: Any) -> Any:
    return [g[1], g[0]]


def on_new_data(o: Optimizer, g: Any) -> Any:
    p = params_of(o)[0]
    p.data = p.data * 2
    return g


def on_new_state(o: Optimizer, g: Any) -> Any:
    state = o.state[params_of(o)[0]]
    state["exp_avg"] = state["exp_avg"] * 3
    return g


def on_no_state(o: Optimizer, g: Any) -> Any:
    del o.state[params_of(o)[1]]
    return g


def on_another_count(o: Optimizer, g: Any) -> Any:
    o.state[params_of(o)[1]]["step"] = 7
    return g


def on_loaded_state(o: Optimizer, g: Any) -> Any:
    saved = o.state_dict()
    for values in saved["state"].values():
        values["exp_avg_sq"] *= 2
        values["step"] = 9
    o.load_state_dict(saved)
    return g


def on_settings(o: Optimizer, g: Any) -> Any:
    o.param_groups[0].update(lr=0.5, weight_decay=0.3, maximize=True, betas=(0.3, 0.4))
    return g


def on_amsgrad(o: Optimizer, g: Any) -> Any:
    o.param_groups[0]["amsgrad"] = not o.param_groups[0]["amsgrad"]
    return g


def on_a_new_group(o: Optimizer, g: Any) -> Any:
    o.add_param_group({"params": [normal(8, 4)], "fused": o.param_groups[0]["fused"]})
    return [*g, normal(9, 4)]


def on_the_reference(o: Optimizer, g: Any) -> Any:
    o.param_groups[0]["fused"] = None
    return g


def on_another_order(o: Optimizer, g: Any) -> Any:
    o.param_groups[0]["params"].reverse()
    return g


CHANGES = [x for name, x in list(globals().items()) if name.startswith("on_")]


def params_of(o: Optimizer) -> list[Parameter]:
    return [p for group in o.param_groups for p in group["params"]]


class World:
    """An optimizer and gradients for it: the same arrays with new numbers in each step, or new arrays."""

    def __init__(self, fused: bool | None, keep: bool, planned: bool = False) -> None:
        self.planned = planned
        self.optimizer = refoptim.Adam([normal(0, 30, 2), normal(1, 30, 2)], lr=0.1, weight_decay=0.1, fused=fused)
        self.kept = [np.zeros((30, 2), np.float32) for _ in range(2)] if keep else []

    def step(self, k: int, change: Any = None) -> None:
        grads = [normal(10 + 2 * k + i, 30, 2) for i in range(2)]
        for x, g in zip(self.kept, grads, strict=bool(self.kept)):
            x[:] = g
        grads = self.kept or grads
        grads = change(self.optimizer, grads) if change else grads
        more = len(params_of(self.optimizer)) - len(grads)
        if self.planned:
            self.optimizer._repeat = None
        self.optimizer.step(grads=[*grads, *[normal(20 + k, 4)] * more])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_steps_is_seen(change: Any, keep: bool) -> None:
    """The witness plans every step."""
    witness, *worlds = World(None, keep, planned=True), World(None, keep), World(True, keep)
    for k in range(6):
        for world in (witness, *worlds):
            world.step(k, change if k == 3 else None)
        for world in worlds:
            assert_same_runs(world.optimizer, witness.optimizer, k)


def test_gradients_that_parameters_hold() -> None:
    """Gradients are set, dropped, and set again."""
    params = [normal(0, 30), normal(1, 20)]
    one, other = pair("Adam", params, **SETTINGS["Adam"])
    for k in range(6):
        for optimizer in (one, other):
            for i, p in enumerate(params_of(optimizer)):
                p.grad = None if k == 3 and i else normal(30 + 2 * k + i, *p.shape)
            optimizer.step()
            if k % 2:
                optimizer.zero_grad(set_to_none=k > 3)
        assert_same_runs(one, other, k)


def test_the_learning_rate_follows_a_scheduler() -> None:
    one, other = pair("SGD", [normal(0, 30)], lr=0.3, momentum=0.9)
    schedulers = [refoptim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=8) for o in (one, other)]
    for k in range(6):
        step(one, other, [normal(k, 30)])
        for scheduler in schedulers:
            scheduler.step()
        assert_same_runs(one, other, k)


@pytest.mark.parametrize(
    "change",
    [
        lambda o, g: (o, [g[0].astype(np.float64), g[1]]),
        lambda o, g: (o, [g[0][:5], g[1]]),
        lambda o, g: (o, [g[0]]),
        lambda o, g: (o, [g[0], 3.0]),
        lambda o, g: (o.param_groups[0].update(lr=-1.0), g),
        lambda o, g: (o.param_groups[0].update(fused=True, foreach=True), g),
        lambda o, g: (params_of(o)[1].data.setflags(write=False), g),
        lambda o, g: (o.state[params_of(o)[1]]["exp_avg"].setflags(write=False), g),
    ],
)
def test_a_refused_step_changes_nothing(change: Any) -> None:
    params = [normal(0, 30), normal(1, 20)]
    optimizer = make("Adam", params, fused=True)
    grads = [normal(2, 30), normal(3, 20)]
    for _ in range(2):
        optimizer.step(grads=grads)
    _, given = change(optimizer, grads)
    before, state = copies(params), copy.deepcopy(list(optimizer.state.values()))
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        optimizer.step(grads=given)
    for x, y in zip(params, before, strict=True):
        assert_same_bits(x, y)
    for mine, old in zip(optimizer.state.values(), state, strict=True):
        assert mine["step"] == old["step"]
        assert_same_bits(mine["exp_avg"], old["exp_avg"])


@pytest.mark.parametrize("through", [pickle.loads, copy.deepcopy])
def test_a_copied_optimizer_goes_its_own_way(through: Any) -> None:
    one, other = pair("Adam", [normal(0, 30)], **SETTINGS["Adam"])
    for k in range(2):
        step(one, other, [normal(k, 30)])
    left = copies([p.data for p in params_of(one)])
    again = through(pickle.dumps(one) if through is pickle.loads else one)
    assert again.param_groups[0]["fused"] is True
    for k in range(2):
        step(again, other, [normal(5 + k, 30)])
        assert_same_runs(again, other)
    assert_same_bits(params_of(one)[0].data, left[0])
