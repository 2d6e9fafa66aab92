"""Where schedulers part from torch on purpose: torch 2.13 stands beside ours (docs/torch/differences.md)."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import torch_schedulers
from refoptim.conformance.spec import parse

import refoptim
from refoptim import lr_scheduler as lrs


def torchs(torch: Any, text: str, lr: float = 0.5) -> Any:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
    optimizer._opt_called = True
    return parse(text).build(optimizer, torch_schedulers())


def ours(text: str, lr: float = 0.5) -> Any:
    optimizer: Any = refoptim.SGD([np.zeros(1)], lr=lr, momentum=0.9)
    optimizer._opt_called = True
    return parse(text).build(optimizer)


def values(scheduler: Any, n: int) -> list[float]:
    found = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(n):
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    return found


def test_a_factor_of_0_ends_where_torch_divides_by_zero(torch: Any) -> None:
    text = "ConstantLR(factor=0, total_iters=2)"
    with pytest.raises(ZeroDivisionError):
        values(torchs(torch, text), 3)
    assert values(ours(text), 3) == [0.0, 0.0, 0.5, 0.5]


def test_no_iterations_means_no_factor(torch: Any) -> None:
    text = "ConstantLR(factor=0.25, total_iters=0)"
    assert values(torchs(torch, text), 2) == [0.125] * 3
    assert values(ours(text), 2) == [0.5] * 3
    text = "LinearLR(start_factor=0.25, end_factor=0.75, total_iters=0)"
    assert values(torchs(torch, text), 2) == [0.125] * 3
    assert values(ours(text), 2) == [0.375] * 3


def test_a_polynomial_without_iterations_never_decays_as_in_torch(torch: Any) -> None:
    text = "PolynomialLR(total_iters=0, power=2)"
    assert values(torchs(torch, text), 2) == values(ours(text), 2) == [0.5] * 3
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        warnings.simplefilter("ignore")
        torchs(torch, text).step(3)
    with pytest.warns(UserWarning, match="epoch parameter"):
        (scheduler := ours(text)).step(3)
    assert scheduler.get_last_lr() == [0.5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OneCycleLR(max_lr=0.5, total_steps=4, pct_start=0.25, div_factor=2, final_div_factor=2)", [0.5, 0.40625]),
        ("OneCycleLR(max_lr=0.5, total_steps=1, pct_start=1.0, div_factor=2, final_div_factor=2)", [0.5, 0.125]),
    ],
)
def test_a_phase_without_length_is_at_its_end(text: str, expected: list[float], torch: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        torchs(torch, text)
    assert values(ours(text), 1) == pytest.approx(expected, rel=1e-15)


def test_triangular2_fades_to_the_base_where_torch_overflows(torch: Any) -> None:
    text = "CyclicLR(base_lr=0.125, max_lr=0.25, step_size_up=1, mode='triangular2')"
    theirs, our = torchs(torch, text), ours(text)
    theirs.last_epoch = our.last_epoch = 2060
    with pytest.raises(OverflowError):
        theirs.step()
    our.step()
    assert our.get_last_lr() == [0.125]


def test_a_cycle_begins_at_its_own_base_after_another_scheduler(torch: Any) -> None:
    for library, make in ((torch.optim.lr_scheduler, torchs), (lrs, ours)):
        args = (torch,) if make is torchs else ()
        optimizer = make(*args, "ExponentialLR(gamma=0.9)").optimizer
        first = library.CyclicLR(optimizer, base_lr=0.125, max_lr=0.25, step_size_up=4).get_last_lr()
        assert first == ([0.5] if make is torchs else [0.125])


def test_one_cycle_leaves_its_neighbours_their_base(torch: Any) -> None:
    members = "LinearLR(start_factor=0.5, total_iters=2), OneCycleLR(max_lr=0.25, total_steps=9)"
    text = f"SequentialLR({members}, milestones=[3])"
    assert values(torchs(torch, text), 2) == pytest.approx([0.005, 0.0075, 0.01], rel=1e-15)
    assert values(ours(text), 2) == [0.25, 0.375, 0.5]


def test_two_cycles_in_a_sequence_keep_their_own_heights(torch: Any) -> None:
    cycles = [f"OneCycleLR(max_lr={height}, total_steps=5, pct_start=0.4)" for height in (0.5, 2.0)]
    text = f"SequentialLR({', '.join(cycles)}, milestones=[5])"
    assert max(values(torchs(torch, text), 4)) == 2.0
    assert max(values(ours(text), 4)) == 0.5
    assert values(ours(text), 9)[5:] == values(ours(cycles[1]), 4)


def test_restarts_at_whole_epochs_are_not_missed(torch: Any) -> None:
    text = "CosineAnnealingWarmRestarts(T_0=3, T_mult=3)"
    theirs, our = torchs(torch, text), ours(text)
    for scheduler in (theirs, our):
        scheduler.step(363)
    assert theirs.get_last_lr() == [0.0]
    assert our.get_last_lr() == [0.5] == our.lr_at(363)


def test_resuming_at_an_epoch_lands_on_the_run(torch: Any) -> None:
    text = "StepLR(step_size=2, gamma=0.5)"
    for make in (torchs, ours):
        args = (torch,) if make is torchs else ()
        run = make(*args, text)
        values(run, 5)
        saved = run.optimizer.state_dict()
        values(run, 1)
        resumed = make(*args, text)
        resumed.optimizer.load_state_dict(saved)
        again = type(resumed)(resumed.optimizer, step_size=2, gamma=0.5, last_epoch=5)
        assert again.last_epoch == run.last_epoch == 6
        assert (again.get_last_lr() == run.get_last_lr() == [0.0625]) or make is torchs
    text = "CosineAnnealingLR(T_max=9)"
    run, other = torchs(torch, text), torchs(torch, text)
    values(run, 5)
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    values(run, 1)
    late = type(other)(other.optimizer, T_max=9, last_epoch=5)
    assert late.last_epoch == run.last_epoch
    assert late.get_last_lr() != run.get_last_lr()


def test_a_sequence_resumes_where_torch_begins_anew(torch: Any) -> None:
    text = "SequentialLR(ConstantLR(factor=0.5, total_iters=9), ExponentialLR(gamma=0.5), milestones=[3])"
    for make in (torchs, ours):
        args = (torch,) if make is torchs else ()
        run, other = make(*args, text), make(*args, text)
        values(run, 5)
        other.optimizer.load_state_dict(run.optimizer.state_dict())
        values(run, 1)
        again = type(other)(other.optimizer, other._schedulers, [3], last_epoch=5)
        assert again.last_epoch == run.last_epoch
        assert (again.get_last_lr() == run.get_last_lr()) is (make is ours)


def test_a_nested_sequence_runs_a_step_ahead_in_torch(torch: Any) -> None:
    inner = "SequentialLR(ConstantLR(factor=0.5), ConstantLR(factor=0.25), milestones=[2])"
    text = f"SequentialLR({inner}, ConstantLR(factor=0.75), milestones=[4])"
    assert values(torchs(torch, text), 4) == [0.25, 0.125, 0.125, 0.125, 0.375]
    assert values(ours(text), 4) == [0.25, 0.25, 0.125, 0.125, 0.375]


def test_loading_sets_the_rates_of_the_groups(torch: Any) -> None:
    text = "ExponentialLR(gamma=0.5)"
    for make in (torchs, ours):
        args = (torch,) if make is torchs else ()
        run, other = make(*args, text), make(*args, text)
        values(run, 3)
        other.load_state_dict(run.state_dict())
        assert values(other, 0) == ([0.5] if make is torchs else [0.0625])


def test_later_groups_are_taken_in_where_torch_fails(torch: Any) -> None:
    text = "LambdaLR(lr_lambda=lambda epoch: 0.5 ** epoch)"
    theirs, our = torchs(torch, text), ours(text)
    theirs.optimizer.add_param_group({"params": [torch.zeros(2)], "lr": 4.0})
    our.optimizer.add_param_group({"params": [np.zeros(2)], "lr": 4.0})
    with pytest.raises(ValueError, match="zip"):
        theirs.step()
    our.step()
    assert our.get_last_lr() == [0.25, 2.0]


def test_warm_restarts_count_their_steps_and_warn(torch: Any) -> None:
    text = "CosineAnnealingWarmRestarts(T_0=3)"
    theirs, our = torchs(torch, text), ours(text)
    assert (theirs._step_count, our._step_count) == (0, 1)
    theirs.optimizer._opt_called = our.optimizer._opt_called = False
    theirs.step()
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        our.step()


ACCEPTED_BY_TORCH = [
    "StepLR(step_size=2.5)",
    "StepLR(step_size=-2)",
    "StepLR(step_size=2, gamma=-0.5)",
    "MultiStepLR(milestones=[2.5])",
    "MultiStepLR(milestones=[-3])",
    "CosineAnnealingLR(T_max=2.5)",
    "CyclicLR(base_lr=-0.1, max_lr=0.2)",
    "ReduceLROnPlateau(factor=-0.5)",
    "ReduceLROnPlateau(patience=-1)",
    "SequentialLR(StepLR(step_size=2), StepLR(step_size=2), StepLR(step_size=2), milestones=[5, 3])",
]


@pytest.mark.parametrize("text", ACCEPTED_BY_TORCH)
def test_torch_takes_what_is_refused_here(text: str, torch: Any) -> None:
    torchs(torch, text)
    with pytest.raises((TypeError, ValueError)):
        ours(text)


def test_a_whole_pct_start_is_taken_where_torch_refuses_it(torch: Any) -> None:
    text = "OneCycleLR(max_lr=0.5, total_steps=9, pct_start={})"
    with pytest.raises(ValueError, match="Expected float between 0 and 1 pct_start"):
        torchs(torch, text.format(0))
    assert values(ours(text.format(0)), 8) == values(torchs(torch, text.format(0.0)), 8)


def test_a_group_that_was_removed_takes_its_schedule_with_it(torch: Any) -> None:
    functions = [lambda epoch: 0.5**epoch, lambda epoch: 0.25**epoch]
    found = []
    for library, schedulers, zeros in ((torch.optim, torch.optim.lr_scheduler, torch.zeros), (refoptim, lrs, np.zeros)):
        optimizer = library.SGD([{"params": [zeros(1)]}, {"params": [zeros(1)]}], lr=1.0)
        optimizer._opt_called = True
        scheduler = schedulers.LambdaLR(optimizer, functions)
        multiplied = schedulers.MultiplicativeLR(optimizer, functions)
        optimizer.param_groups.reverse()
        multiplied.step()
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.param_groups.pop(0)
        if library is refoptim:
            scheduler.step()
            assert optimizer.param_groups[0]["lr"] == 0.5
        else:
            with pytest.raises(ValueError, match="zip"):
                scheduler.step()
    assert found == [[0.5, 0.25], [0.25, 0.5]]


def test_a_plateau_may_be_a_member(torch: Any) -> None:
    for library, schedulers, zeros in ((torch.optim, torch.optim.lr_scheduler, torch.zeros), (refoptim, lrs, np.zeros)):
        optimizer = library.SGD([zeros(1)], lr=1.0)
        members = [schedulers.ReduceLROnPlateau(optimizer)]
        for make in (schedulers.ChainedScheduler, partial(schedulers.SequentialLR, optimizer, milestones=[])):
            if library is refoptim:
                assert make(schedulers=members)._schedulers == members
            else:
                with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
                    make(schedulers=members)


def test_a_function_in_a_saved_cycle_counts(torch: Any) -> None:
    text = "OneCycleLR(max_lr=0.5, total_steps=9)"
    for make in (torchs, ours):
        args = (torch,) if make is torchs else ()
        scheduler = make(*args, text)
        state = {key: x for key, x in scheduler.state_dict().items() if key != "_anneal_func_type"}
        scheduler.load_state_dict({**state, "anneal_func": type(scheduler)._annealing_linear})
        assert scheduler._anneal_func_type == ("cos" if make is torchs else "linear")


@pytest.mark.parametrize("name", ["OneCycleLR(max_lr=0.1, total_steps=9, ", "CyclicLR(base_lr=0.1, max_lr=0.2, "])
@pytest.mark.parametrize("momenta", ["max_momentum=1.5)", "max_momentum=1.0)", "base_momentum=-0.5)"])
def test_momenta_out_of_range_are_refused(name: str, momenta: str, torch: Any) -> None:
    spec = parse(name + momenta)
    spec.build(torch.optim.Adam([torch.zeros(1)]), torch_schedulers())
    optimizer: Any = refoptim.Adam([np.zeros(1)])
    with pytest.raises(ValueError, match=r"Invalid (beta parameter at index 0|base_momentum value)"):
        spec.build(optimizer)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    "text", ["ConstantLR(factor=5e-324, total_iters=2)", "LinearLR(start_factor=5e-324, total_iters=2)"]
)
def test_factors_without_a_finite_inverse(text: str, torch: Any) -> None:
    assert np.isnan(values(torchs(torch, text), 3)[-1])
    assert values(ours(text), 2)[2] == 0.5


def test_a_state_that_leads_to_a_division_by_zero_is_refused(torch: Any) -> None:
    text = "CosineAnnealingWarmRestarts(T_0=3)"
    theirs, our = torchs(torch, text), ours(text)
    theirs.load_state_dict({**theirs.state_dict(), "T_i": 0})
    with pytest.raises(ZeroDivisionError):
        theirs.step()
    with pytest.raises(ValueError, match="T_i"):
        our.load_state_dict({**our.state_dict(), "T_i": 0})
