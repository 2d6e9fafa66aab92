"""A schedule that is stopped and continued, looked at, or put into another one stays the same, bit for bit."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.lr_cases import DRAWS, TORCHS, Draw, metrics, nested
from refoptim.conformance.oracle import torch_schedulers
from refoptim.conformance.spec import SCHEDULERS, parse, setting

import refoptim
from refoptim import lr_scheduler
from refoptim.lr_scheduler import LRScheduler

SEEDS = 4
AFTER = 25

RESUMABLE = [*DRAWS, "SWALR", "nested"]


def describe(name: str, d: Draw) -> str:
    if name == "SWALR":
        strategy = d.one("cos", "linear")
        return f"SWALR(swa_lr={d.real(0.01, 0.1)}, anneal_epochs={d.whole(0, 60)}, anneal_strategy={strategy!r})"
    return nested(d) if name == "nested" else DRAWS[name](d)


class Run:
    """A drawn scheduler on an optimizer of its own; ``other`` makes the same anew."""

    def __init__(self, name: str, seed: int, **more: Any) -> None:
        d = Draw(f"resume {name} {seed}")
        self.text = describe(name, d)
        self.stop = d.one(0, 1, d.whole(2, 150))
        self.kind, self.lr = d.one("SGD", "Adam"), d.one("number", "float32", "float64")
        self.metric = setting(metrics(d)) if name == "ReduceLROnPlateau" else None
        self.args = (name, seed)
        self.make(**more)

    def make(self, optimizer_state: Any = None, **more: Any) -> None:
        lrs = [lr if self.lr == "number" else np.array(lr, self.lr) for lr in (0.37, 0.05)]
        settings = {"momentum": 0.83} if self.kind == "SGD" else {}
        groups = [{"params": [np.zeros(1)], "lr": lr} for lr in lrs]
        self.optimizer: Any = getattr(refoptim, self.kind)(groups, **settings)
        if optimizer_state:
            self.optimizer.load_state_dict(optimizer_state)
        self.scheduler: Any = parse(self.text).build(self.optimizer, SCHEDULERS, **more)
        self.optimizer._opt_called = True

    def other(self, **more: Any) -> Run:
        return Run(*self.args, **more)

    def row(self) -> tuple[Any, ...]:
        momenta = [g["betas"][0] if "betas" in g else g["momentum"] for g in self.optimizer.param_groups]
        return [float(g["lr"]) for g in self.optimizer.param_groups], momenta, self.scheduler.get_last_lr()

    def steps(self, n: int, start: int = 0) -> list[tuple[Any, ...]]:
        rows = []
        for epoch in range(start, start + n):
            self.scheduler.step(*([self.metric(epoch)] if self.metric else []))
            rows.append(self.row())
        return rows

    def lrs(self, n: int, start: int = 0) -> list[list[float]]:
        return [row[0] for row in self.steps(n, start)]


def runs(name: str) -> list[Run]:
    return [Run(name, seed) for seed in range(SEEDS)]


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_loaded_scheduler_continues_as_the_one_saved(name: str) -> None:
    for run in runs(name):
        run.steps(run.stop)
        saved, seen = through_json(run.scheduler.state_dict()), run.row()
        expected = run.steps(AFTER, run.stop)
        again = run.other()
        again.scheduler.load_state_dict(saved)
        assert again.row() == seen, run.text
        assert again.steps(AFTER, run.stop) == expected, run.text


@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
@pytest.mark.parametrize("name", RESUMABLE)
def test_the_order_of_loading_does_not_matter(name: str, first: str) -> None:
    for run in runs(name):
        run.steps(run.stop)
        saved = {"optimizer": run.optimizer.state_dict(), "scheduler": through_json(run.scheduler.state_dict())}
        expected = run.steps(AFTER, run.stop)
        again = run.other()
        for part in sorted(saved, reverse=first == "scheduler"):
            getattr(again, part).load_state_dict(saved[part])
        assert again.steps(AFTER, run.stop) == expected, run.text


@pytest.mark.parametrize("name", [name for name in RESUMABLE if name != "ReduceLROnPlateau"])
def test_construction_with_last_epoch_continues_the_run(name: str) -> None:
    for run in runs(name):
        run.steps(run.stop)
        saved = run.optimizer.state_dict()
        expected = run.steps(AFTER)
        again = run.other(optimizer_state=saved, last_epoch=run.stop)
        assert again.row() == expected[0], run.text
        assert again.scheduler.last_epoch == run.stop + 1
        assert again.steps(AFTER - 1) == expected[1:], run.text
        assert again.scheduler.lr_at(run.stop) == run.scheduler.lr_at(run.stop)
        if not run.scheduler._schedulers:
            assert again.scheduler.state_dict() == run.scheduler.state_dict()


@pytest.mark.parametrize("name", [name for name in RESUMABLE if name != "ReduceLROnPlateau"])
def test_lr_at_gives_every_epoch_of_the_run(name: str) -> None:
    for run in runs(name):
        seen = [run.row()[0], *run.lrs(run.stop + 60)]
        before = run.scheduler.state_dict(), [id(g["lr"]) for g in run.optimizer.param_groups], run.row()
        assert [run.scheduler.lr_at(epoch) for epoch in range(0, len(seen), 7)] == seen[::7], run.text
        assert before == (
            run.scheduler.state_dict(),
            [id(g["lr"]) for g in run.optimizer.param_groups],
            run.row(),
        )


@pytest.mark.parametrize("name", [name for name in RESUMABLE if name != "ReduceLROnPlateau"])
def test_preview_gives_what_the_coming_steps_set(name: str) -> None:
    for run in runs(name):
        run.steps(run.stop)
        before = run.scheduler.state_dict(), run.row()
        coming = run.scheduler.preview(AFTER)
        assert before == (run.scheduler.state_dict(), run.row())
        assert (coming.shape, coming.dtype) == ((AFTER, 2), np.dtype("float64"))
        assert coming.tolist() == run.lrs(AFTER), run.text


def test_plateau_looks_ahead_along_given_metrics() -> None:
    for run in runs("ReduceLROnPlateau"):
        values = [run.metric(epoch) for epoch in range(run.stop + AFTER)]
        run.steps(run.stop)
        coming = run.scheduler.preview(AFTER, values[run.stop :])
        assert coming.tolist() == run.lrs(AFTER, run.stop)
        assert run.scheduler.lr_at(len(values), values) == coming[-1].tolist()


def test_plateau_expects_nothing_better_without_metrics() -> None:
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    assert scheduler.preview(7).ravel().tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    assert scheduler.lr_at(6) == [0.125]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_lr_at_does_not_see_changes_by_hand_and_preview_does() -> None:
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.5)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.param_groups[0]["lr"] = 8.0
    assert scheduler.lr_at(2) == [0.125]
    assert scheduler.preview(2).tolist() == [[4.0], [2.0]]


@pytest.mark.parametrize("name", RESUMABLE)
def test_copies_continue_on_their_own(name: str) -> None:
    run = runs(name)[0]
    run.steps(run.stop)
    twins = [copy.deepcopy(run.scheduler)]
    if "lambda" not in run.text:
        twins.append(pickle.loads(pickle.dumps(run.scheduler)))
    expected = run.steps(AFTER, run.stop)
    for twin in twins:
        assert twin.optimizer is not run.optimizer
        twin.optimizer._opt_called = True
        run.scheduler, run.optimizer = twin, twin.optimizer
        assert run.steps(AFTER, run.stop) == expected


# What torch wrote.


@pytest.mark.parametrize("name", TORCHS)
def test_state_dicts_of_torch_are_understood(name: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    for seed in range(SEEDS):
        run = Run(name, seed)
        run.lr = "number"
        run.make()
        theirs = copy.copy(run)
        settings = {"momentum": 0.83} if run.kind == "SGD" else {}
        groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.37, 0.05)]
        theirs.optimizer = getattr(torch.optim, run.kind)(groups, **settings)
        theirs.optimizer._opt_called = True
        theirs.scheduler = parse(run.text).build(theirs.optimizer, torch_schedulers())
        theirs.steps(run.stop)
        run.scheduler.load_state_dict(theirs.scheduler.state_dict())
        assert run.row()[0] == theirs.row()[0]
        assert run.steps(AFTER, run.stop) == theirs.steps(AFTER, run.stop)


# Schedulers made of schedulers.


def build(text: str, lr: float = 0.37) -> tuple[Any, Any]:
    optimizer: Any = refoptim.SGD([np.zeros(1)], lr=lr, momentum=0.9)
    optimizer._opt_called = True
    return optimizer, parse(text).build(optimizer)


def rates(text: str, n: int) -> list[float]:
    optimizer, scheduler = build(text)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(n):
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


A, B, C = "LinearLR(total_iters=4)", "CosineAnnealingLR(T_max=9)", "StepLR(step_size=3, gamma=0.37)"


def test_a_sequence_in_a_sequence_equals_the_flat_one() -> None:
    flat = rates(f"SequentialLR({A}, {B}, {C}, milestones=[5, 12])", 40)
    assert rates(f"SequentialLR(SequentialLR({A}, {B}, milestones=[5]), {C}, milestones=[12])", 40) == flat
    assert rates(f"SequentialLR({A}, SequentialLR({B}, {C}, milestones=[7]), milestones=[5])", 40) == flat
    assert len(set(flat)) > 15


def test_a_chain_in_a_sequence_begins_at_the_base() -> None:
    alone = rates(f"ChainedScheduler({B}, {C})", 20)
    found = rates(f"SequentialLR({A}, ChainedScheduler({B}, {C}), milestones=[5])", 25)
    assert found[5:] == alone
    assert found[:5] == rates(A, 4)
    assert rates(f"SequentialLR(ChainedScheduler({B}, {C}), {A}, milestones=[5])", 4) == alone[:5]


def test_a_chain_of_chains_multiplies() -> None:
    flat = rates(f"ChainedScheduler({A}, {C}, ExponentialLR(gamma=0.93))", 20)
    assert rates(f"ChainedScheduler(ChainedScheduler({A}, {C}), ExponentialLR(gamma=0.93))", 20) == flat


def test_members_of_a_sequence_may_have_run_before() -> None:
    optimizer, first = build(A)
    second = parse(C).build(optimizer)
    for _ in range(7):
        first.step()
    sequence = lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[5])
    found = [optimizer.param_groups[0]["lr"], *sequence.preview(20).ravel().tolist()]
    assert found == rates(f"SequentialLR({A}, {C}, milestones=[5])", 20)


def test_a_chain_takes_members_where_they_are() -> None:
    optimizer, first = build("ExponentialLR(gamma=0.5)", lr=0.5)
    first.step()
    chain = lr_scheduler.ChainedScheduler([first])
    assert (optimizer.param_groups[0]["lr"], chain.last_epoch) == (0.25, 1)
    chain.step()
    assert (chain.get_last_lr(), chain.lr_at(2), first.last_epoch) == ([0.125], [0.125], 2)


# Groups that come later.


def test_a_later_group_of_a_recursive_schedule_goes_on_from_its_own_rate_as_in_torch() -> None:
    optimizer, scheduler = build("StepLR(step_size=3, gamma=0.5)", lr=0.5)
    for _ in range(4):
        scheduler.step()
    optimizer.add_param_group({"params": [np.zeros(2)], "lr": 4.0})
    for _ in range(2):
        scheduler.step()
    assert scheduler.get_last_lr() == [0.125, 2.0]
    assert scheduler.base_lrs == [0.5, 4.0]
    assert scheduler.lr_at(6) == [0.125, 2.0]
    assert optimizer.param_groups[1]["initial_lr"] == 4.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LambdaLR(lr_lambda=lambda epoch: 0.5 ** epoch)", [0.5 * 0.5**3, 4.0 * 0.5**3]),
        ("CyclicLR(base_lr=1.0, max_lr=2.0, step_size_up=4)", [1.75, 1.75]),
        ("ReduceLROnPlateau(patience=0, factor=0.5)", [0.125, 2.0]),
        ("SequentialLR(ExponentialLR(gamma=0.5), StepLR(step_size=9), milestones=[9])", [0.0625, 2.0]),
        ("ChainedScheduler(ExponentialLR(gamma=0.5), StepLR(step_size=9))", [0.0625, 2.0]),
        ("CosineAnnealingWarmRestarts(T_0=6)", [0.25, 2.0]),
    ],
)
def test_a_later_group_joins_at_the_next_step(text: str, expected: list[float]) -> None:
    optimizer, scheduler = build(text, lr=0.5)
    metric = [1.0] if "Plateau" in text else []
    for _ in range(2):
        scheduler.step(*metric)
    optimizer.add_param_group({"params": [np.zeros(2)], "lr": 4.0})
    scheduler.step(*metric)
    assert scheduler.get_last_lr() == pytest.approx(expected, rel=1e-15)
    resumed = through_json(scheduler.state_dict())
    coming = scheduler.preview(3).tolist()
    again, other = build(text, lr=0.5)
    again.add_param_group({"params": [np.zeros(2)], "lr": 4.0})
    other.load_state_dict(resumed)
    assert other.preview(3).tolist() == coming


def resumed_at(epoch: int) -> Any:
    optimizer: Any = refoptim.SGD([{"params": [np.zeros(1)], "lr": 0.125, "initial_lr": 0.5}])
    optimizer._opt_called = True
    return lr_scheduler.ExponentialLR(optimizer, gamma=0.5, last_epoch=epoch)


def test_a_group_may_come_after_resuming() -> None:
    scheduler = resumed_at(1)
    scheduler.optimizer.add_param_group({"params": [np.zeros(2)], "lr": 4.0})
    scheduler.step()
    assert scheduler.get_last_lr() == [0.0625, 2.0]


def test_a_chain_of_a_resumed_member_that_moved_on_leaves_the_rates_alone() -> None:
    scheduler = resumed_at(1)
    scheduler.step()
    scheduler.optimizer.param_groups[0]["lr"] = 4.0
    chain = lr_scheduler.ChainedScheduler([scheduler])
    chain.step()
    assert chain.get_last_lr() == [2.0]


# Schedulers that users write.


class Halving(LRScheduler):
    """Halves where ``every`` divides the epoch; keeps a list, and a function that no state dict holds."""

    def __init__(self, optimizer: Any, every: int, last_epoch: int = -1) -> None:
        self.every, self.seen, self.printer = every, (1, 2.5), print
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        factor = 0.5 if self.last_epoch and self.last_epoch % self.every == 0 else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]


def test_a_scheduler_of_a_user_gets_everything_by_writing_get_lr() -> None:
    optimizer: Any = refoptim.SGD([np.zeros(1)], lr=0.5)
    optimizer._opt_called = True
    scheduler = Halving(optimizer, 2)
    assert scheduler.preview(4).ravel().tolist() == [0.5, 0.25, 0.25, 0.125]
    for _ in range(3):
        scheduler.step()
    saved = through_json(scheduler.state_dict())
    assert saved["every"] == 2 and saved["seen"] == [1, 2.5] and "printer" not in saved
    other = Halving(optimizer, 2, last_epoch=2)
    assert other.get_last_lr() == scheduler.get_last_lr() == scheduler.lr_at(3) == [0.25]
    other.load_state_dict(saved)
    assert other.seen == (1, 2.5)


def test_a_callable_object_is_saved_by_its_attributes() -> None:
    class Decay:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def __call__(self, epoch: int) -> float:
            return self.rate**epoch

    optimizer: Any = refoptim.SGD([np.zeros(1)], lr=0.5)
    state = lr_scheduler.LambdaLR(optimizer, Decay(0.25)).state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.25}]
    decay = Decay(0.75)
    loaded = lr_scheduler.LambdaLR(optimizer, decay)
    loaded.load_state_dict(state)
    assert decay.rate == 0.25
    assert loaded.preview(1).tolist() == [[0.125]]


def test_an_infinite_number_survives_json() -> None:
    _, scheduler = build("ReduceLROnPlateau(mode='max')")
    state = through_json(scheduler.state_dict())
    assert state["best"] == "-inf"
    _, other = build("ReduceLROnPlateau(mode='max')")
    other.best = 3.0
    other.load_state_dict(state)
    assert other.best == -np.inf


def test_a_saved_state_keeps_a_change_by_hand_and_what_was_set_last() -> None:
    optimizer, scheduler = build("ExponentialLR(gamma=0.5)", lr=0.5)
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 4.0
    again, other = build("ExponentialLR(gamma=0.5)", lr=0.5)
    other.load_state_dict(through_json(scheduler.state_dict()))
    assert (again.param_groups[0]["lr"], other.get_last_lr(), other.preview(1).tolist()) == (4.0, [0.25], [[2.0]])
