"""Exceptions at any line of what an optimizer of torch does: it was done whole, or not at all, and goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from helpers.faults import Interrupt, Lines, raised, traced
from helpers.rooms import SETTINGS
from refoptim.engines import host
from refoptim.interop import torch as front
from refoptim.numerics.libraries import viewed

EVERY = [37, pytest.param(1, marks=pytest.mark.slow)]
"""After how many lines comes the next exception."""


def made(name: str, steps: int, fused: bool | None) -> Any:
    """Return an optimizer after some steps, with gradients for another."""
    torch.manual_seed(1)
    params = [torch.randn(4, 3, requires_grad=True) for _ in range(3)]
    optimizer = getattr(front, name)(params, **SETTINGS[name], fused=fused)
    for _ in range(steps):
        backward(optimizer)
        optimizer.step()
    backward(optimizer)
    return optimizer


def backward(optimizer: Any) -> None:
    """Give new gradients to three tensors."""
    for p in [p for group in optimizer.param_groups for p in group["params"]][:3]:
        p.grad = p.detach().sin()


def look(optimizer: Any) -> Any:
    """Return all that torch sees of an optimizer, as what can be compared."""
    params = [viewed(p).tobytes() for group in optimizer.param_groups for p in group["params"]]
    saved = copy.deepcopy(optimizer.state_dict())
    state = {key: {name: x.tolist() for name, x in entry.items()} for key, entry in saved["state"].items()}
    return params, state, saved["param_groups"]


def step(optimizer: Any) -> None:
    optimizer.step()


def load(optimizer: Any) -> None:
    optimizer.load_state_dict(SAVED)


def add(optimizer: Any) -> None:
    optimizer.add_param_group({"params": [torch.ones(2, 2, requires_grad=True)], "lr": 0.25})


def as_it_is(optimizer: Any) -> None:
    """Change nothing."""


def another_rate(optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.5


def another_state(optimizer: Any) -> None:
    optimizer.state[optimizer.param_groups[0]["params"][1]]["exp_avg"] = torch.ones(4, 3)


def another_group(optimizer: Any) -> None:
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [optimizer.param_groups[0]["params"].pop()]})


SAVED = made("Adam", 5, None).state_dict()
SAVED["param_groups"][0]["lr"] = 0.75

CASES: list[tuple[Any, ...]] = [
    ("Adam", as_it_is, step, 0, None),
    ("NAdam", as_it_is, step, 2, None),
    ("NAdam", as_it_is, step, 2, True),
    ("SGD", as_it_is, step, 1, True),
    ("Adam", another_rate, step, 2, True),
    ("Adam", another_state, step, 2, None),
    ("Adam", another_group, step, 2, None),
    ("Adam", as_it_is, load, 2, None),
    ("Adam", as_it_is, add, 2, None),
]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(("name", "before", "act", "steps", "fused"), CASES)
def test_everything_is_done_whole_or_not_at_all(
    name: str, before: Callable[[Any], None], act: Callable[[Any], None], steps: int, fused: bool | None, every: int
) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")

    def ready() -> Any:
        optimizer = made(name, steps, fused)
        before(optimizer)
        return optimizer

    act(ready())  # what is done once, such as importing, is done
    optimizer, lines = ready(), Lines()
    looks = [look(optimizer)]
    with traced(lines):
        act(optimizer)
    looks.append(look(optimizer))
    seen = set()
    for at in (*range(1, lines.count, every), lines.count):
        optimizer = ready()
        with traced(Lines(raised, at)), pytest.raises(Interrupt):
            act(optimizer)
        seen.add(looks.index(look(optimizer)))
        goes_on(optimizer)
    assert seen == {0, 1}, "some before, some after"


def goes_on(optimizer: Any) -> None:
    """Fail unless the next step is that of a copy."""
    other, found = copy.deepcopy(optimizer), look(optimizer)
    for each in (optimizer, other):
        backward(each)
        each.step()
    assert look(optimizer) == look(other) != found
