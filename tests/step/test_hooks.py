"""Hooks run in torch's order, with torch's arguments, and may do what torch's may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import assert_equal_bits, make, members, normal
from refoptim import Parameter

KINDS = ["step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"]
PREPENDED = KINDS[2:]


class Log:
    """Hooks that write down when they run and what they are given."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def hook(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((name, *map(told, arguments)))


def told(x: Any) -> Any:
    """Describe an argument of a hook alike for both libraries."""
    if isinstance(x, (tuple, list)):
        return [type(x).__name__, *map(told, x)]
    if isinstance(x, dict):
        return {key: told(value) for key, value in x.items() if key in ("closure", "state", "param_groups")}
    return "function" if callable(x) and not hasattr(x, "param_groups") else type(x).__name__.replace("Tensor", "array")


def used(module: Any, base: Any, parameter: Any, handles: ExitStack) -> list[Any]:
    """Use an optimizer with two hooks of each kind and two of ``base``'s global ones, and return what happened."""
    log = Log()
    optimizer = module.SGD([parameter], lr=0.5)
    for when in ("pre", "post"):
        register = getattr(base, f"register_optimizer_step_{when}_hook")
        for i in (1, 2):
            handle = register(log.hook(f"global step_{when} {i}"))
            handles.callback(handle.remove)
    for kind in KINDS:
        for i in (1, 2):
            getattr(optimizer, f"register_{kind}_hook")(log.hook(f"{kind} {i}"))
        if kind in PREPENDED:
            getattr(optimizer, f"register_{kind}_hook")(log.hook(f"{kind} 0"), prepend=True)

    def closure() -> float:
        log.events.append("closure")
        return 0.5

    optimizer.step()
    optimizer.step(closure)
    optimizer.step(closure=closure)
    optimizer.load_state_dict(optimizer.state_dict())
    return log.events


def test_order_and_arguments_are_torchs(torch: Any) -> None:
    with ExitStack() as handles:
        theirs = used(torch.optim, import_module("torch.optim.optimizer"), torch.zeros(3), handles)
    with ExitStack() as handles:
        ours = used(refoptim, refoptim, normal(1, 3), handles)
    assert ours == theirs
    assert ours[0] == ("global step_pre 1", "SGD", ["tuple", "SGD"], {})
    names = [event if isinstance(event, str) else event[0] for event in ours]
    assert names[8:17] == [
        "global step_pre 1",
        "global step_pre 2",
        "step_pre 1",
        "step_pre 2",
        "closure",
        "step_post 1",
        "step_post 2",
        "global step_post 1",
        "global step_post 2",
    ]
    assert names[-12:] == [f"{kind} {i}" for kind in PREPENDED for i in (0, 1, 2)]


def test_a_pre_hook_may_replace_the_arguments() -> None:
    """Each sees what the one before it returned, global ones first, and so do those after the step."""
    p = Parameter(normal(1, 3))
    optimizer = refoptim.SGD([p], lr=0.5)
    seen: list[Any] = []

    def doubled(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {"grads": [2 * g for g in kwargs["grads"]]}

    def negated(_: Any, args: Any, kwargs: Any) -> Any:
        seen.append(kwargs["grads"][0])
        return args, {"grads": [-g for g in kwargs["grads"]]}

    optimizer.register_step_pre_hook(negated)
    optimizer.register_step_post_hook(lambda _, args, kwargs: seen.append(kwargs["grads"][0]))
    with refoptim.register_optimizer_step_pre_hook(doubled):
        optimizer.step(grads=[normal(2, 3)])
    assert_equal_bits(seen[0], 2 * normal(2, 3))
    assert_equal_bits(seen[1], -2 * normal(2, 3))
    assert_equal_bits(p.data, normal(1, 3) + np.float32(0.5) * 2 * normal(2, 3))


def test_a_pre_hook_may_give_the_gradients_away() -> None:
    """The arguments of a step are the optimizer and what it was called with."""
    optimizer = make("Adam", [normal(1, 3)])
    handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {**kwargs, "grads": [normal(2, 3)]}))
    optimizer.step()
    assert optimizer.state[members(optimizer)[0]]["step"] == 1
    handle.remove()
    optimizer.step()
    assert optimizer.state[members(optimizer)[0]]["step"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_takes_its_hook_away(kind: str) -> None:
    optimizer = make("Adam", [normal(1, 3)])
    log = Log()

    def use() -> list[str]:
        log.events.clear()
        optimizer.step(grads=[normal(2, 3)])
        optimizer.load_state_dict(optimizer.state_dict())
        return [event[0] for event in log.events]

    register = getattr(optimizer, f"register_{kind}_hook")
    first, second = register(log.hook("first")), register(log.hook("second"))
    assert use() == ["first", "second"]
    first.remove()
    first.remove()
    assert use() == ["second"]
    with register(log.hook("third")):
        assert use() == ["second", "third"]
    assert use() == ["second"]
    second.remove()
    assert use() == []


def test_a_handle_may_outlive_its_optimizer() -> None:
    optimizer = make("Adam", [normal(1, 3)])
    handle = optimizer.register_step_pre_hook(lambda *_: None)
    del optimizer
    handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_may_take_itself_away_and_put_another_in(kind: str) -> None:
    """What it changes counts from the next time."""
    optimizer = make("Adam", [normal(1, 3)])
    events: list[str] = []
    register = getattr(optimizer, f"register_{kind}_hook")

    def once(*_: Any) -> None:
        events.append("once")
        handle.remove()
        register(lambda *_: events.append("later"))

    handle = register(once)
    register(lambda *_: events.append("always"))
    for expected in (["once", "always"], ["always", "later"]):
        events.clear()
        optimizer.step(grads=[normal(2, 3)])
        optimizer.load_state_dict(optimizer.state_dict())
        assert events == expected


def test_hooks_of_state_dicts_may_return_another(torch: Any) -> None:
    """The hook behind sees it, in torch as here."""

    def passed(optimizer: Any) -> tuple[list[Any], Any]:
        seen: list[Any] = []

        def replace(_: Any, state_dict: Any) -> Any:
            groups = [{**group, "lr": group["lr"] / 2} for group in state_dict["param_groups"]]
            return {**state_dict, "param_groups": groups}

        for kind in ("state_dict_post", "load_state_dict_pre"):
            register = getattr(optimizer, f"register_{kind}_hook")
            register(replace)
            register(lambda _, d: seen.append(d["param_groups"][0]["lr"]))
        saved = optimizer.state_dict()
        optimizer.load_state_dict(saved)
        return [*seen, saved["param_groups"][0]["lr"]], optimizer.param_groups[0]["lr"]

    ours, theirs = refoptim.Adam([normal(1, 3)], lr=0.5), torch.optim.Adam([torch.zeros(3)], lr=0.5)
    assert passed(ours) == passed(theirs) == ([0.25, 0.125, 0.25], 0.125)


def test_a_pre_hook_that_loads_does_not_change_what_was_given() -> None:
    """It may put other values into the dict it gets; the caller's dict is another."""
    optimizer = make("Adam", [normal(1, 3)])
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(
        lambda _, d: d.update(param_groups=[{**d["param_groups"][0], "lr": 0.125}])
    )
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert saved["param_groups"][0]["lr"] != 0.125


@pytest.fixture
def counted() -> Iterator[list[str]]:
    events: list[str] = []
    with refoptim.register_optimizer_step_post_hook(lambda o, *_: events.append(type(o).__name__)):
        yield events


def test_global_hooks_see_every_optimizer(counted: list[str]) -> None:
    names = ["SGD", "AdamW", "Adafactor", "Muon", "LBFGS", "ConjugateGradient"]
    for name in names:
        p = Parameter(normal(1, 2, 2, dtype="float32"))

        def closure(p: Parameter = p) -> float:
            p.grad = p.data.copy()
            return float((p.data**2).sum()) / 2

        getattr(refoptim, name)([p]).step(closure)
    assert counted == names
