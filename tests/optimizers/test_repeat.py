"""Steps that repeat the last one without a plan: when they do, when they must not, and that nobody can tell."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.rooms import assert_equal_runs, make, normal

pytestmark = NEEDS_KERNELS

ELEMENTWISE = ["SGD", "Adam", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD"]
SHAPES = [(5, 3), (40,), ()]


def arrays(seed: int) -> list[Any]:
    return [normal(10 * seed + i, *shape) for i, shape in enumerate(SHAPES)]


def pair(name: str, **more: Any) -> tuple[Any, Any]:
    """Return a fused optimizer and one that is not, after two equal steps."""
    ours, theirs = make(name, arrays(0), fused=True, **more), make(name, arrays(0), **more)
    for seed in (1, 2):
        step(ours, theirs, arrays(seed))
    return ours, theirs


def step(ours: Any, theirs: Any, grads: list[Any], **more: Any) -> None:
    ours.step(grads=grads, **more)
    theirs.step(grads=grads, **more)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_step_is_repeated_with_the_same_and_with_new_gradients(name: str, plans: list[Any]) -> None:
    ours, theirs = pair(name)
    planned = make(name, arrays(0))
    for seed in (1, 2, 3, 3, 4, 4):
        planned._repeat = None
        planned.step(grads=arrays(seed))
    plans.clear()
    for seed in (3, 4):
        grads = arrays(seed)
        for _ in range(2):
            step(ours, theirs, grads)
    assert not plans
    assert_equal_runs(ours, planned)
    assert_equal_runs(theirs, planned)


@pytest.mark.parametrize("in_order", [True, False])
def test_gradients_by_name_are_repeated_as_lists_are(plans: list[Any], in_order: bool) -> None:
    names = [f"layer.{i}" for i in range(len(SHAPES))]
    ours, theirs = (make("Adam", list(zip(names, arrays(0), strict=True)), fused=fused) for fused in (True, None))
    for k in range(4):
        plans.clear()
        named = list(zip(names, arrays(k), strict=True))
        given = dict(named if in_order else reversed(named))
        for grads in (given, {"layer": [given[name] for name in names]}, {**given, "more": None}):
            ours.step(grads=grads)
    assert not plans
    for k in range(4):
        for _ in range(3):
            theirs.step(grads=arrays(k))
    assert_equal_runs(ours, theirs)


def test_settings_of_the_scalars_may_change(plans: list[Any]) -> None:
    ours, theirs = pair("Adam")
    plans.clear()
    for settings in ({"lr": 0.5}, {"betas": (0.1, 0.2)}, {"weight_decay": 0.0}, {"maximize": True}, {"eps": 0.1}):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0].update(settings)
            optimizer.step(grads=arrays(3), grad_scale=4.0)
    assert not plans
    assert_equal_runs(ours, theirs)


def test_scaled_steps_may_come_and_go(plans: list[Any]) -> None:
    ours, theirs = pair("Adam")
    plans.clear()
    for seed, scale in enumerate([2.0, None, 8.0, 4.0, None, None]):
        step(ours, theirs, arrays(seed), grad_scale=scale)
    assert not plans
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize(("name", "setting", "number"), [("SGD", "lr", "step_size"), ("Adam", "eps", "eps")])
def test_a_setting_that_becomes_too_large_is_refused(name: str, setting: str, number: str, fused: bool | None) -> None:
    grads = [normal(1, 4, dtype="float16")]
    ours = getattr(refoptim, name)([normal(0, 4, dtype="float16")], fused=fused)
    for _ in range(3):
        ours.step(grads=grads)
    ours.param_groups[0][setting] = 1e6
    refused(ours, RuntimeError, grads, f"float16 without overflow: {number}")


def data(optimizer: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.data = p.data.copy()


def state_array(optimizer: Any) -> None:
    state = optimizer.state[optimizer.param_groups[0]["params"][1]]
    state["exp_avg"] = 2 * state["exp_avg"]


def state_count(optimizer: Any) -> None:
    optimizer.state[optimizer.param_groups[0]["params"][1]]["step"] = 7


def state_gone(optimizer: Any) -> None:
    del optimizer.state[optimizer.param_groups[0]["params"][0]]


def state_new(optimizer: Any) -> None:
    p = optimizer.param_groups[0]["params"][0]
    optimizer.state[p] = dict(optimizer.state[p])


def state_of_another(optimizer: Any) -> None:
    old = optimizer.state
    optimizer.state = type(old)(dict, {p: {**state, "exp_avg": 2 * state["exp_avg"]} for p, state in old.items()})


def loaded(optimizer: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def amsgrad(optimizer: Any) -> None:
    optimizer.param_groups[0]["amsgrad"] = not optimizer.param_groups[0]["amsgrad"]


def unfused(optimizer: Any) -> None:
    optimizer.param_groups[0]["fused"] = None


def swapped(optimizer: Any) -> None:
    members = optimizer.param_groups[0]["params"]
    members[0], members[1] = members[1], members[0]


def parameter(optimizer: Any) -> None:
    members = optimizer.param_groups[0]["params"]
    members[0] = refoptim.Parameter(members[0].data)


def groups(optimizer: Any) -> None:
    optimizer.param_groups = [{**group, "lr": 0.7} for group in optimizer.param_groups]


CHANGES: list[Callable[[Any], None]] = [
    *(parameter, data, state_array, state_count, state_gone, state_new, state_of_another),
    *(loaded, amsgrad, unfused, groups),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_needs_a_plan(change: Callable[[Any], None], plans: list[Any]) -> None:
    ours, theirs = pair("Adam")
    change(ours)
    if change is not unfused:
        change(theirs)
    plans.clear()
    step(ours, theirs, arrays(3))
    assert len(plans) == (1 if change is unfused else 2)
    assert_equal_runs(ours, theirs)


def test_a_master_copy_that_is_wanted_later_is_made(plans: list[Any]) -> None:
    p = refoptim.Parameter(normal(0, 40).astype(np.float16), normal(1, 40).astype(np.float16))
    optimizer = refoptim.SGD([p], lr=0.1, fused=True)
    optimizer.step()
    optimizer.step()
    assert len(plans) == 1
    p.master = True
    optimizer.step()
    assert len(plans) == 2
    assert optimizer.state[p]["master"].dtype == np.float32


def test_parameters_that_change_places_take_their_gradients_along() -> None:
    ours, theirs = pair("Adam")
    swapped(ours)
    swapped(theirs)
    step(ours, theirs, [arrays(3)[i] for i in (1, 0, 2)])
    assert_equal_runs(ours, theirs)


def two_groups(fused: bool | None) -> Any:
    first, *others = arrays(0)
    return refoptim.Adam([{"params": [first]}, {"params": others, "lr": 0.3}], fused=fused)


def test_a_parameter_that_changes_groups_follows_its_new_group() -> None:
    ours, theirs = two_groups(True), two_groups(None)
    for seed in (1, 2, 3):
        step(ours, theirs, arrays(seed))
        for optimizer in (ours, theirs) if seed == 2 else ():
            first, second = (group["params"] for group in optimizer.param_groups)
            first.append(second.pop(0))
    assert_equal_runs(ours, theirs)


def test_a_wrong_setting_of_a_group_without_gradients_is_refused() -> None:
    ours, grads = two_groups(True), [arrays(1)[0], None, None]
    for _ in range(2):
        ours.step(grads=grads)
    ours.param_groups[1]["lr"] = -1
    refused(ours, ValueError, grads, "Invalid learning rate")


def test_arrays_whose_addresses_are_kept_cannot_be_resized() -> None:
    ours, _ = pair("Adam")
    p = ours.param_groups[0]["params"][1]
    for array in (p.data, ours.state[p]["exp_avg"]):
        with pytest.raises(ValueError, match="cannot resize"):
            array.resize(100_000, refcheck=False)


def test_a_group_that_is_added_is_updated() -> None:
    ours, theirs = pair("Adam")
    for optimizer in (ours, theirs):
        optimizer.add_param_group({"params": [normal(9, 4)]})
    step(ours, theirs, [*arrays(3), normal(8, 4)])
    assert_equal_runs(ours, theirs)


def test_a_gradient_that_is_none_is_skipped() -> None:
    ours, theirs = pair("NAdam")
    for present in ((0, 2), (0, 1, 2), (1,)):
        step(ours, theirs, [g if i in present else None for i, g in enumerate(arrays(3))])
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("scalar", [True, False])
def test_a_skipped_step_changes_nothing(scalar: bool) -> None:
    ours, theirs = pair("NAdam")
    ours.step(grads=arrays(3), found_inf=True if scalar else np.float32(1))
    assert_equal_runs(ours, theirs)


def refused(optimizer: Any, error: type[Exception], grads: Any, message: str) -> None:
    before = [p.data.copy() for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(error, match=message):
        optimizer.step(grads=grads)
    for p, x in zip(optimizer.param_groups[0]["params"], before, strict=True):
        assert p.data.tobytes() == x.tobytes()


def test_a_wrong_gradient_is_refused_and_changes_nothing() -> None:
    ours, theirs = pair("Adam")
    first, second, third = arrays(3)
    refused(ours, ValueError, [first, second[:3], third], "parameter 1 of group 0: the gradient must have shape")
    refused(ours, TypeError, [first, second.astype(np.float64), third], "the gradient must have dtype float32")
    refused(ours, ValueError, [first, second], "grads must hold one gradient")
    ours.param_groups[0]["lr"] = -1
    refused(ours, ValueError, [first, second, third], "Invalid learning rate")
    ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"]
    step(ours, theirs, arrays(3))
    assert_equal_runs(ours, theirs)


def test_what_has_become_read_only_is_refused() -> None:
    for pick in (lambda o, p: p.data, lambda o, p: o.state[p]["exp_avg_sq"]):
        ours, _ = pair("Adam")
        array = pick(ours, ours.param_groups[0]["params"][2])
        array.flags.writeable = False
        refused(ours, ValueError, arrays(3), "writable")


def test_a_gradient_that_is_a_parameter_is_copied_first() -> None:
    ours, theirs = pair("SGD")
    for optimizer in (ours, theirs):
        first, second, third = (p.data for p in optimizer.param_groups[0]["params"])
        optimizer.step(grads=[first, second[::-1], third])
    assert_equal_runs(ours, theirs)


def test_gradients_that_are_no_piece_of_memory_are_taken(plans: list[Any]) -> None:
    ours, theirs = pair("Adam")
    plans.clear()
    first, second, third = arrays(3)
    step(ours, theirs, [np.asfortranarray(first), np.repeat(second, 2)[::2], third])
    assert len(plans) == 2
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("steps", [0, 1])
def test_gradients_live_no_longer_than_their_owner_wants(steps: int) -> None:
    ours = make("Adam", arrays(0), fused=True)
    for seed in range(steps):
        ours.step(grads=arrays(seed))
    grads = arrays(3)
    ours.step(grads=grads)
    alive = [weakref.ref(g) for g in grads]
    del grads
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3


def test_parameters_that_hold_their_gradients(plans: list[Any]) -> None:
    ours, theirs = pair("Adam")
    plans.clear()
    for seed in (3, 4):
        for optimizer in (ours, theirs):
            for p, g in zip(optimizer.param_groups[0]["params"], arrays(seed), strict=True):
                p.grad = g
            optimizer.step()
    assert not plans
    assert_equal_runs(ours, theirs)


def test_two_groups_and_two_dtypes() -> None:
    groups = [{"params": [normal(1, 4), normal(2, 3, dtype="float64")]}, {"params": [normal(3, 5)], "lr": 0.3}]
    ours, theirs = (
        refoptim.Adam([{**g, "params": [x.copy() for x in g["params"]]} for g in groups], fused=fused)
        for fused in (True, None)
    )
    for seed in range(4):
        step(ours, theirs, [normal(seed, 4), normal(seed, 3, dtype="float64"), normal(seed, 5)])
    assert_equal_runs(ours, theirs)
