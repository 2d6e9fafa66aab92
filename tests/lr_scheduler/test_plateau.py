"""ReduceLROnPlateau in sequences and chains, and beside them: torch's schedulers, stepped by hand, are the witness."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import lr_scheduler as lrs

LRS = (0.5, 0.05)
METRICS = [3.0, 2.0, 2.5, 1.0, 1.5, 1.5, 1.25, 0.5, 0.75, 0.75, 0.75, 0.25, 0.5, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 0.4]
PLATEAU = {"factor": 0.5, "patience": 1, "cooldown": 1, "min_lr": 0.01}
M = 6
"""The milestone."""

Row = list[float]


def ours() -> Any:
    optimizer: Any = refoptim.SGD([{"params": [np.zeros(1)], "lr": lr} for lr in LRS])
    optimizer._opt_called = True
    return optimizer


def theirs(torch: Any) -> Any:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in LRS])
    optimizer._opt_called = True
    return optimizer


def rates(optimizer: Any) -> Row:
    return [group["lr"] for group in optimizer.param_groups]


def by_hand(torch: Any) -> list[Row]:
    """Warm up by torch's LinearLR, go to the base at the milestone, then by torch's ReduceLROnPlateau."""
    optimizer = theirs(torch)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=M)
    found = [rates(optimizer)]
    for _ in METRICS[: M - 1]:
        warm_up.step()
        found.append(rates(optimizer))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    found.append(rates(optimizer))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)
    for metric in METRICS[M:]:
        plateau.step(metric)
        found.append(rates(optimizer))
    return found


def warm_up_then_plateau(optimizer: Any) -> Any:
    return lrs.SequentialLR(
        optimizer, [lrs.LinearLR(optimizer, 0.1, total_iters=M), lrs.ReduceLROnPlateau(optimizer, **PLATEAU)], [M]
    )


def plateau_first(optimizer: Any) -> Any:
    plateau = lrs.ReduceLROnPlateau(optimizer, **PLATEAU)
    return lrs.SequentialLR(optimizer, [lrs.LinearLR(optimizer, 0.1, total_iters=M), plateau], [M])


def nested(optimizer: Any) -> Any:
    inner = warm_up_then_plateau(optimizer)
    return lrs.SequentialLR(optimizer, [inner, lrs.ConstantLR(optimizer)], [10**6])


def in_a_chain(optimizer: Any) -> Any:
    plateau = lrs.ChainedScheduler([lrs.ReduceLROnPlateau(optimizer, **PLATEAU)])
    return lrs.SequentialLR(optimizer, [lrs.LinearLR(optimizer, 0.1, total_iters=M), plateau], [M])


WAYS = [warm_up_then_plateau, plateau_first, nested, in_a_chain]


def steps(scheduler: Any, metrics: list[float]) -> list[Row]:
    found = []
    for metric in metrics:
        scheduler.step(metric)
        found.append(rates(scheduler.optimizer))
    return found


@pytest.mark.parametrize("make", WAYS)
def test_a_warm_up_and_then_a_plateau(make: Callable[[Any], Any], torch: Any) -> None:
    expected = by_hand(torch)
    scheduler = make(ours())
    assert scheduler.preview(len(METRICS), METRICS).tolist() == expected[1:]
    assert [rates(scheduler.optimizer), *steps(scheduler, METRICS)] == expected
    assert [scheduler.lr_at(epoch, METRICS) for epoch in range(len(METRICS))] == expected[: len(METRICS)]
    assert len({x for x, _ in expected[M:]}) > 3


@pytest.mark.parametrize("stop", [0, 3, M - 1, M, M + 1, M + 5])
@pytest.mark.parametrize("make", WAYS)
def test_it_goes_on_from_a_saved_state(make: Callable[[Any], Any], stop: int, torch: Any) -> None:
    expected = by_hand(torch)[stop + 1 :]
    scheduler = make(ours())
    steps(scheduler, METRICS[:stop])
    resumed = make(ours())
    resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    for one in (resumed, copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), scheduler):
        one.optimizer._opt_called = True
        assert steps(one, METRICS[stop:]) == expected
        assert one.lr_at(len(METRICS), METRICS) == expected[-1]


def test_the_metrics_before_the_milestone_need_not_be_given(torch: Any) -> None:
    scheduler = warm_up_then_plateau(ours())
    for _ in range(M):
        scheduler.step()
    assert steps(scheduler, METRICS[M:]) == by_hand(torch)[M + 1 :]


def test_a_plateau_that_gives_way_and_one_that_comes_first() -> None:
    """Computed by hand: the plateau halves after its second metric, and the constant begins at the base."""
    optimizer = ours()
    plateau = lrs.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    scheduler = lrs.SequentialLR(optimizer, [plateau, lrs.ConstantLR(optimizer, 0.25, 99)], [3])
    assert [rates(optimizer)[0], *(row[0] for row in steps(scheduler, [1.0, 1.0, 1.0, 1.0]))] == [
        *(0.5, 0.5, 0.25, 0.125, 0.125)
    ]
    assert scheduler.lr_at(2, [1.0, 1.0]) == [0.25, 0.025]


def test_beside_another_scheduler_with_exact_resume(torch: Any) -> None:
    """Both are stepped by hand, every epoch; at epoch 5 both are saved and loaded."""

    def run(library: Any, optimizer: Any, save: bool) -> list[Row]:
        def make() -> tuple[Any, Any]:
            return library.ExponentialLR(optimizer, 0.9), library.ReduceLROnPlateau(optimizer, **PLATEAU)

        decay, plateau = make()
        found = []
        for epoch, metric in enumerate(METRICS):
            if save and epoch == 5:
                saved = json.loads(json.dumps([x.state_dict() for x in (decay, plateau)]))
                optimizer = ours()
                decay, plateau = make()
                plateau.load_state_dict(saved[1])
                decay.load_state_dict(saved[0])
            decay.step()
            plateau.step(metric)
            found.append(rates(optimizer))
        return found

    expected = run(torch.optim.lr_scheduler, theirs(torch), False)
    assert run(lrs, ours(), False) == run(lrs, ours(), True) == expected


def test_in_a_chain_each_member_steps(torch: Any) -> None:
    optimizer = theirs(torch)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)
    expected = [rates(optimizer)]
    for metric in METRICS:
        decay.step()
        plateau.step(metric)
        expected.append(rates(optimizer))
    chain = chained(ours())
    assert chain.preview(len(METRICS), METRICS).tolist() == expected[1:]
    steps(chain, METRICS[:7])
    other = chained(ours())
    other.load_state_dict(json.loads(json.dumps(chain.state_dict())))
    assert steps(other, METRICS[7:]) == steps(chain, METRICS[7:]) == expected[8:]
    assert chain.lr_at(len(METRICS), METRICS) == expected[-1]


def chained(optimizer: Any) -> Any:
    return lrs.ChainedScheduler([lrs.ExponentialLR(optimizer, 0.9), lrs.ReduceLROnPlateau(optimizer, **PLATEAU)])


def test_nothing_gets_better_where_no_metrics_are_given() -> None:
    """Computed by hand: patience 1, so every second metric after the milestone halves, then a cooldown of one."""
    scheduler = warm_up_then_plateau(ours())
    assert scheduler.preview(14)[M - 1 :, 0].tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.0625]
    assert scheduler.lr_at(13)[0] == 0.125


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (None, TypeError, r"metrics must be given where ReduceLROnPlateau steps: step\(metrics\)"),
        ("0.5", TypeError, "metrics must be a real number, got '0.5'"),
        (np.zeros(2), TypeError, "metrics must be a real number, got array"),
        (10**400, ValueError, "metrics must be a number that fits into a double"),
    ],
)
def test_a_wrong_metric_changes_nothing(metric: Any, error: type[Exception], message: str) -> None:
    scheduler = warm_up_then_plateau(ours())
    steps(scheduler, METRICS[: M + 2])
    before = rates(scheduler.optimizer), scheduler.state_dict()
    with pytest.raises(error, match=message):
        scheduler.step(metric)
    assert (rates(scheduler.optimizer), scheduler.state_dict()) == before
    if metric is not None:
        with pytest.raises(error, match=message):
            scheduler._schedulers[1].step(metric)


@pytest.mark.parametrize("one", [1.5, 1, np.float32(1.5), np.array(1.5), np.array([1.5]), np.array([[1.5]]), True])
def test_a_metric_is_what_torch_makes_a_float_of(one: Any, torch: Any) -> None:
    plateau = lrs.ReduceLROnPlateau(ours())
    plateau.step(one)
    assert plateau.best == float(np.asarray(one).item())
    plateau.step(torch.tensor([0.5]))
    assert plateau.best == 0.5


def test_a_composite_without_a_plateau_takes_no_metrics() -> None:
    optimizer = ours()
    scheduler = lrs.SequentialLR(optimizer, [lrs.StepLR(optimizer, 2)], [])
    with pytest.raises(TypeError, match="step takes no metrics: this SequentialLR has no ReduceLROnPlateau"):
        scheduler.step(1.0)
    assert scheduler.last_epoch == 0


def resumed(last_epoch: int, made: list[Any]) -> Any:
    optimizer = ours()
    for group, lr in zip(optimizer.param_groups, LRS, strict=True):
        group["initial_lr"] = lr
    linear = lrs.LinearLR(optimizer, 0.1, total_iters=M, last_epoch=last_epoch)
    made += [optimizer, rates(optimizer)]
    return lrs.SequentialLR(optimizer, [linear, lrs.ReduceLROnPlateau(optimizer)], [M], last_epoch=last_epoch)


def test_last_epoch_reaches_to_the_milestone_and_not_beyond(torch: Any) -> None:
    expected = by_hand(torch)
    assert rates(resumed(M - 1, []).optimizer) == expected[M]
    made: list[Any] = []
    with pytest.raises(ValueError, match="cannot be continued by last_epoch=6 past the metrics of a ReduceLROnPlateau"):
        resumed(M, made)
    assert rates(made[0]) == made[1]
    optimizer = resumed(2, []).optimizer
    members = [lrs.ExponentialLR(optimizer, 0.5, last_epoch=3), lrs.ReduceLROnPlateau(optimizer)]
    with pytest.raises(ValueError, match="a chain with a ReduceLROnPlateau cannot be continued by the last_epoch"):
        lrs.ChainedScheduler(members)


def test_it_prints_when_it_steps_and_not_when_one_looks_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = ours()
    plateau = lrs.ReduceLROnPlateau(optimizer, patience=0, verbose=True)
    scheduler = lrs.SequentialLR(optimizer, [lrs.ConstantLR(optimizer), plateau], [1])
    scheduler.preview(5)
    scheduler.lr_at(5)
    assert capsys.readouterr().out == ""
    for _ in range(3):
        scheduler.step(1.0)
    assert capsys.readouterr().out.count("reducing learning rate of group") == 2


def test_a_later_group_is_reduced_from_where_it_came() -> None:
    optimizer = ours()
    plateau = lrs.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for _ in range(3):
        plateau.step(1.0)
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 8.0})
    plateau.step(1.0)
    assert plateau.get_last_lr() == [0.5 / 8, 0.05 / 8, 4.0]
    assert plateau.lr_at(5, [1.0] * 5) == [0.5 / 16, 0.05 / 16, 2.0]
