"""SWALR: torch's learning rates, stopped and continued, and where the two part."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.oracle import assert_same_bits, rng_of
from refoptim.swa_utils import SWALR


def sgd(library: Any, lrs: Any, make: Callable[[Any], Any] = np.array) -> Any:
    """An SGD with one group per learning rate; its parameters are 0-d and stay where they are."""
    return library.SGD([{"params": [make(1.0)], "lr": lr} for lr in lrs], lr=0.7)


def torch_sgd(lrs: Any) -> Any:
    import torch

    return sgd(torch.optim, lrs, lambda x: torch.nn.Parameter(torch.tensor(x)))


def run(optimizer: Any, scheduler: Any, epochs: int) -> list[list[Any]]:
    """Return the learning rates of the groups now and after each step."""
    lrs = [[float(group["lr"]) for group in optimizer.param_groups]]
    for _ in range(epochs):
        optimizer.step()
        scheduler.step()
        lrs.append([float(group["lr"]) for group in optimizer.param_groups])
    return lrs


def drawn(i: int) -> tuple[list[float], dict[str, Any]]:
    """Draw the learning rates of two groups and the arguments of a SWALR."""
    rng = rng_of("SWALR", i)
    lrs, swa = (10 ** rng.uniform(-4, 0, 2) for _ in range(2))
    swa_lr = [list(map(float, swa)), tuple(map(float, swa)), float(swa[0]), int(rng.integers(0, 3))][i % 4]
    epochs = int(rng.integers(1, 60)) if i % 7 else 0
    return list(map(float, lrs)), {
        "swa_lr": swa_lr,
        "anneal_epochs": epochs,
        "anneal_strategy": ["cos", "linear"][i % 2],
    }


@pytest.mark.parametrize("i", range(24))
def test_learning_rates_are_those_of_torch(i: int) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs, arguments = drawn(i)
    ours, theirs = sgd(refoptim, lrs), torch_sgd(lrs)
    expected = run(theirs, torch.optim.swa_utils.SWALR(theirs, **arguments), 300)
    scheduler = SWALR(ours, **arguments)
    assert scheduler.preview(300).tolist() == expected[1:]
    assert run(ours, scheduler, 300) == expected
    assert [scheduler.lr_at(epoch) for epoch in (0, 1, 30, 300)] == [expected[epoch] for epoch in (0, 1, 30, 300)]
    assert [group["swa_lr"] for group in ours.param_groups] == [group["swa_lr"] for group in theirs.param_groups]
    swa_lr = arguments["swa_lr"]
    assert expected[-1] == (list(swa_lr) if isinstance(swa_lr, (list, tuple)) else [swa_lr] * 2)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_the_way_begins_where_another_scheduler_has_led(strategy: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for library, optimizer in ((refoptim, sgd(refoptim, [0.3, 0.01])), (torch.optim, torch_sgd([0.3, 0.01]))):
        first = library.lr_scheduler.StepLR(optimizer, 3, gamma=0.6)
        second = library.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=9, anneal_strategy=strategy)
        lrs.append([*run(optimizer, first, 20), *run(optimizer, second, 20)])
    assert lrs[0] == lrs[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_that_holds_a_learning_rate_is_written_in_place(dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    arrays = [np.array(x, dtype) for x in (0.3, 0.007)]
    ours, theirs = sgd(refoptim, arrays), torch_sgd([torch.tensor(x) for x in arrays])
    for cls, optimizer in ((SWALR, ours), (torch.optim.swa_utils.SWALR, theirs)):
        run(optimizer, cls(optimizer, [0.05, 0.2], anneal_epochs=7), 4)
    assert all(group["lr"] is x for group, x in zip(ours.param_groups, arrays, strict=True))
    for x, group in zip(arrays, theirs.param_groups, strict=True):
        assert_same_bits(x, group["lr"].numpy(), "the learning rate")


@pytest.mark.parametrize("i", range(8))
@pytest.mark.parametrize("stop", [0, 1, 5, 29])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(i: int, stop: int) -> None:
    lrs, arguments = drawn(i)
    whole, first = sgd(refoptim, lrs), sgd(refoptim, lrs)
    expected = run(whole, SWALR(whole, **arguments), 60)
    scheduler = SWALR(first, **arguments)
    run(first, scheduler, stop)
    text = json.dumps(scheduler.state_dict())
    second = sgd(refoptim, lrs)
    resumed = SWALR(second, swa_lr=0.123, anneal_epochs=2)
    resumed.load_state_dict(json.loads(text))
    assert run(second, resumed, 60 - stop) == expected[stop:]
    third = sgd(refoptim, lrs)
    third.load_state_dict(first.state_dict())
    if stop:
        assert run(third, SWALR(third, **arguments, last_epoch=stop - 1), 60 - stop) == expected[stop:]


def test_a_way_that_is_continued_does_not_begin_anew_unlike_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    cases = [(SWALR, sgd(refoptim, [1.0])), (torch.optim.swa_utils.SWALR, torch_sgd([1.0]))]
    for cls, optimizer in cases:
        run(optimizer, cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear"), 4)
        cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear", last_epoch=3)
    (_, ours), (_, theirs) = cases
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"] == pytest.approx(0.6)
    for cls, optimizer in cases:
        run(optimizer, cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear", last_epoch=3), 1)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.5)
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.55)


def test_an_epoch_given_does_not_move_the_way_as_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for cls, optimizer in ((SWALR, sgd(refoptim, [0.3])), (torch.optim.swa_utils.SWALR, torch_sgd([0.3]))):
        scheduler = cls(optimizer, 0.05, anneal_epochs=9)
        run(optimizer, scheduler, 3)
        with pytest.warns(UserWarning, match="epoch"):
            scheduler.step(7)
        lrs.append(run(optimizer, scheduler, 12))
    assert lrs[0] == lrs[1]


def test_the_way_may_stand_in_a_sequence() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for library, optimizer in ((refoptim, sgd(refoptim, [0.3, 0.01])), (torch.optim, torch_sgd([0.3, 0.01]))):
        first = library.lr_scheduler.StepLR(optimizer, 4, gamma=0.6)
        second = library.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=9)
        lrs.append(run(optimizer, library.lr_scheduler.SequentialLR(optimizer, [first, second], [13]), 40))
    assert lrs[0] == lrs[1]


def test_a_state_dict_of_torch_is_understood() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs, arguments = drawn(3)
    theirs, ours = torch_sgd(lrs), sgd(refoptim, lrs)
    torch_scheduler = torch.optim.swa_utils.SWALR(theirs, **arguments)
    run(theirs, torch_scheduler, 4)
    scheduler = SWALR(ours, arguments["swa_lr"])
    scheduler.load_state_dict(torch_scheduler.state_dict())
    assert run(ours, scheduler, 60) == run(theirs, torch_scheduler, 60)


def test_a_state_dict_with_another_strategy_is_refused_and_nothing_changes() -> None:
    optimizer = sgd(refoptim, [0.3])
    scheduler = SWALR(optimizer, 0.05)
    saved = scheduler.state_dict()
    with pytest.raises(ValueError, match="anneal_strategy must be one of 'cos' or 'linear', instead got step"):
        scheduler.load_state_dict(saved | {"_anneal_strategy": "step", "last_epoch": 7})
    assert scheduler.state_dict() == saved


def test_a_group_that_comes_later_is_annealed_too_unlike_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    ours, theirs = sgd(refoptim, [0.3]), torch_sgd([0.3])
    schedulers = [SWALR(ours, 0.05, anneal_epochs=4), torch.optim.swa_utils.SWALR(theirs, 0.05, anneal_epochs=4)]
    ours.add_param_group({"params": [np.array(2.0)]})
    theirs.add_param_group({"params": [torch.nn.Parameter(torch.tensor(2.0))]})
    theirs.step()
    with pytest.raises(KeyError):
        schedulers[1].step()
    assert run(ours, schedulers[0], 9)[-1] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("arguments", "error", "message", "in_torch"),
    [
        ({"swa_lr": [0.1]}, ValueError, "swa_lr must have the same length as optimizer.param_groups", True),
        (
            {"swa_lr": 0.1, "anneal_strategy": "exp"},
            ValueError,
            "anneal_strategy must be one of 'cos' or 'linear'",
            True,
        ),
        (
            {"swa_lr": 0.1, "anneal_epochs": -1},
            ValueError,
            "anneal_epochs must be equal or greater than 0, got -1",
            True,
        ),
        (
            {"swa_lr": 0.1, "anneal_epochs": 2.5},
            ValueError,
            "anneal_epochs must be equal or greater than 0, got 2.5",
            True,
        ),
        ({"swa_lr": 0.1, "anneal_epochs": True}, ValueError, "anneal_epochs must be equal or greater than 0", False),
        ({"swa_lr": float("nan")}, ValueError, "Invalid swa_lr value: nan", False),
        ({"swa_lr": [0.1, -0.5]}, ValueError, r"Invalid swa_lr\[1\] value: -0.5", False),
        ({"swa_lr": "0.1"}, TypeError, "swa_lr must be a real number, got '0.1'", False),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_changes(
    arguments: dict[str, Any], error: type[Exception], message: str, in_torch: bool
) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    optimizer = sgd(refoptim, [0.3, 0.01])
    kept = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(error, match=message):
        SWALR(optimizer, **arguments)
    assert [dict(group) for group in optimizer.param_groups] == kept
    if in_torch:
        with pytest.raises(error, match=message):
            torch.optim.swa_utils.SWALR(torch_sgd([0.3, 0.01]), **arguments)
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        SWALR(3, 0.1)  # type: ignore[arg-type]
