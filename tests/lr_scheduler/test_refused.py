"""What schedulers refuse, and what it leaves behind."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.spec import parse

import refoptim
from refoptim import lr_scheduler as lrs

NAN = math.nan


def sgd(**more: Any) -> Any:
    groups = [{"params": [np.zeros(1)], "lr": 0.5}, {"params": [np.zeros(1)], "lr": 0.25}]
    optimizer: Any = refoptim.SGD(groups, **{"momentum": 0.9, **more})
    return optimizer


def step(optimizer: Any) -> Any:
    return lrs.StepLR(optimizer, step_size=2)


def snapshot(optimizer: Any) -> Any:
    return [{key: np.array(x) if key == "lr" else x for key, x in g.items()} for g in optimizer.param_groups]


REFUSED: list[tuple[str, Callable[[Any], Any], type[Exception], list[str]]] = [
    ("no optimizer", lambda o: lrs.StepLR("x", 2), TypeError, ["str is not an Optimizer"]),
    ("no optimizer for lambdas", lambda o: lrs.LambdaLR(3, abs), TypeError, ["int is not an Optimizer"]),
    ("torch's own", lambda o: lrs.StepLR(SimpleNamespace(param_groups=[]), 2), TypeError, ["torch's own schedulers"]),
    ("a step size of 0", lambda o: lrs.StepLR(o, 0), ValueError, ["step_size", "0", "[1, inf)"]),
    ("a negative step size", lambda o: lrs.StepLR(o, -3), ValueError, ["step_size", "-3", "[1, inf)"]),
    ("a fraction as step size", lambda o: lrs.StepLR(o, 2.5), TypeError, ["step_size", "integer", "2.5"]),
    ("True as step size", lambda o: lrs.StepLR(o, True), TypeError, ["step_size", "True"]),
    ("a gamma of NaN", lambda o: lrs.StepLR(o, 2, NAN), ValueError, ["gamma", "nan", "[0, inf)"]),
    ("an infinite gamma", lambda o: lrs.ExponentialLR(o, math.inf), ValueError, ["gamma", "inf", "[0, inf)"]),
    ("a negative gamma", lambda o: lrs.ExponentialLR(o, -0.5), ValueError, ["gamma", "-0.5", "[0, inf)"]),
    ("a str as gamma", lambda o: lrs.ExponentialLR(o, "0.9"), TypeError, ["gamma", "'0.9'"]),
    ("None as gamma", lambda o: lrs.MultiStepLR(o, [3], None), TypeError, ["gamma", "None"]),
    ("a fraction as last_epoch", lambda o: lrs.StepLR(o, 2, 0.1, 1.5), TypeError, ["last_epoch", "1.5"]),
    ("a last_epoch of -2", lambda o: lrs.StepLR(o, 2, 0.1, -2), ValueError, ["last_epoch", "-2", "[-1, inf)"]),
    ("resuming without initial_lr", lambda o: lrs.StepLR(o, 2, 0.1, 5), KeyError, ["'initial_lr'", "param_groups[0]"]),
    ("a milestone of NaN", lambda o: lrs.MultiStepLR(o, [3, NAN]), TypeError, ["milestones[1]", "nan"]),
    ("a negative milestone", lambda o: lrs.MultiStepLR(o, [3, -1]), ValueError, ["milestones[1]", "-1", "[0, inf)"]),
    ("one milestone", lambda o: lrs.MultiStepLR(o, 3), TypeError, ["milestones", "3"]),
    ("a str as milestones", lambda o: lrs.MultiStepLR(o, "35"), TypeError, ["milestones", "'35'"]),
    (
        "a factor above 1",
        lambda o: lrs.ConstantLR(o, 1.5),
        ValueError,
        ["factor expected to be between 0 and 1.", "1.5"],
    ),
    ("a factor of NaN", lambda o: lrs.ConstantLR(o, NAN), ValueError, ["factor", "nan", "[0, 1]"]),
    ("a fraction of iterations", lambda o: lrs.ConstantLR(o, 0.5, 2.5), TypeError, ["total_iters", "2.5"]),
    ("negative iterations", lambda o: lrs.ConstantLR(o, 0.5, -1), ValueError, ["total_iters", "-1", "[0, inf)"]),
    (
        "a start of 0",
        lambda o: lrs.LinearLR(o, 0.0),
        ValueError,
        ["Starting multiplicative factor expected to be greater than 0", "start_factor", "(0, 1]"],
    ),
    (
        "an end above 1",
        lambda o: lrs.LinearLR(o, 0.5, 1.25),
        ValueError,
        ["Ending multiplicative factor expected to be between 0 and 1.", "1.25", "end_factor"],
    ),
    ("negative linear iterations", lambda o: lrs.LinearLR(o, total_iters=-4), ValueError, ["total_iters", "-4"]),
    ("a negative power", lambda o: lrs.PolynomialLR(o, 5, -1.5), ValueError, ["power", "-1.5", "[0, inf)"]),
    ("a T_max of 0", lambda o: lrs.CosineAnnealingLR(o, 0), ValueError, ["T_max", "0", "[1, inf)"]),
    ("a fraction as T_max", lambda o: lrs.CosineAnnealingLR(o, 7.5), TypeError, ["T_max", "7.5"]),
    ("an eta_min of NaN", lambda o: lrs.CosineAnnealingLR(o, 7, NAN), ValueError, ["eta_min", "nan", "[0, inf)"]),
    (
        "a T_0 of 0",
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 0),
        ValueError,
        ["Expected positive integer T_0, but got 0", "[1, inf)"],
    ),
    (
        "a fraction as T_0",
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 2.5),
        ValueError,
        ["Expected positive integer T_0, but got 2.5"],
    ),
    (
        "a T_mult of 0",
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 5, 0),
        ValueError,
        ["Expected integer T_mult >= 1, but got 0"],
    ),
    ("a list as eta_min", lambda o: lrs.CosineAnnealingWarmRestarts(o, 5, 1, [0]), TypeError, ["eta_min", "[0]"]),
    ("a number as function", lambda o: lrs.LambdaLR(o, 0.9), TypeError, ["lr_lambda should be a function", "float"]),
    (
        "a number among functions",
        lambda o: lrs.MultiplicativeLR(o, [abs, 1]),
        TypeError,
        ["lr_lambda should be a function, but got int", "lr_lambda[1]"],
    ),
    ("too few functions", lambda o: lrs.LambdaLR(o, [abs]), ValueError, ["Expected 2 lr_lambdas, but got 1"]),
    ("a function that gives NaN", lambda o: lrs.LambdaLR(o, lambda e: NAN), ValueError, ["nan", "group 0"]),
    ("a function that gives None", lambda o: lrs.LambdaLR(o, lambda e: None), TypeError, []),
    (
        "a function that gives less than 0",
        lambda o: lrs.LambdaLR(o, lambda e: -1.0),
        ValueError,
        ["Invalid learning rate: -0.5", "[0, inf)"],
    ),
    ("a step_size_up of 0", lambda o: lrs.CyclicLR(o, 0.1, 0.2, 0), ValueError, ["step_size_up", "0", "(0, inf)"]),
    (
        "a negative step_size_down",
        lambda o: lrs.CyclicLR(o, 0.1, 0.2, 5, -1),
        ValueError,
        ["step_size_down", "-1", "[0, inf) or None"],
    ),
    (
        "an unknown mode",
        lambda o: lrs.CyclicLR(o, 0.1, 0.2, mode="square"),
        ValueError,
        ["mode is invalid and scale_fn is None", "triangular2", "'square'"],
    ),
    ("a negative base_lr", lambda o: lrs.CyclicLR(o, -0.1, 0.2), ValueError, ["base_lr", "-0.1", "[0, inf)"]),
    ("NaN among max_lr", lambda o: lrs.CyclicLR(o, 0.1, [0.2, NAN]), ValueError, ["max_lr[1]", "nan", "[0, inf)"]),
    (
        "too many max_lr",
        lambda o: lrs.CyclicLR(o, 0.1, [0.2] * 3),
        ValueError,
        ["max_lr must have the same length as optimizer.param_groups", "3", "2"],
    ),
    (
        "an unknown scale_mode",
        lambda o: lrs.CyclicLR(o, 0.1, 0.2, scale_fn=abs, scale_mode="epoch"),
        ValueError,
        ["scale_mode", "epoch", "'cycle', 'iterations'"],
    ),
    ("1 as cycle_momentum", lambda o: lrs.CyclicLR(o, 0.1, 0.2, cycle_momentum=1), TypeError, ["cycle_momentum", "1"]),
    (
        "a beta1 of 1",
        lambda o: lrs.CyclicLR(refoptim.Adam([np.zeros(1)]), 0.1, 0.2, max_momentum=1.0),
        ValueError,
        ["beta parameter at index 0", "[0, 1)"],
    ),
    (
        "an optimizer without momentum",
        lambda o: lrs.CyclicLR(refoptim.Adagrad([np.zeros(1)]), 0.1, 0.2),
        ValueError,
        ["optimizer must support momentum or beta1 with `cycle_momentum` option enabled", "Adagrad"],
    ),
    (
        "no number of steps",
        lambda o: lrs.OneCycleLR(o, 0.1, epochs=3),
        ValueError,
        ["You must define either total_steps OR (epochs AND steps_per_epoch)", "epochs=3", "steps_per_epoch=None"],
    ),
    ("0 steps", lambda o: lrs.OneCycleLR(o, 0.1, 0), ValueError, ["Expected positive integer total_steps, but got 0"]),
    (
        "a fraction of epochs",
        lambda o: lrs.OneCycleLR(o, 0.1, epochs=2.5, steps_per_epoch=3),
        ValueError,
        ["Expected positive integer epochs, but got 2.5"],
    ),
    (
        "a pct_start above 1",
        lambda o: lrs.OneCycleLR(o, 0.1, 9, pct_start=1.5),
        ValueError,
        ["Expected float between 0 and 1 pct_start, but got 1.5", "[0, 1]"],
    ),
    (
        "an unknown strategy",
        lambda o: lrs.OneCycleLR(o, 0.1, 9, anneal_strategy="exp"),
        ValueError,
        ["anneal_strategy must be one of 'cos' or 'linear', instead got exp"],
    ),
    ("a div_factor of 0", lambda o: lrs.OneCycleLR(o, 0.1, 9, div_factor=0), ValueError, ["div_factor", "(0, inf)"]),
    (
        "a factor of 1",
        lambda o: lrs.ReduceLROnPlateau(o, factor=1.0),
        ValueError,
        ["Factor should be < 1.0.", "[0, 1)"],
    ),
    ("an unknown plateau mode", lambda o: lrs.ReduceLROnPlateau(o, "less"), ValueError, ["mode less is unknown!"]),
    (
        "an unknown threshold mode",
        lambda o: lrs.ReduceLROnPlateau(o, threshold_mode="x"),
        ValueError,
        ["threshold mode x is unknown!", "'rel', 'abs'"],
    ),
    ("too many min_lr", lambda o: lrs.ReduceLROnPlateau(o, min_lr=[0] * 3), ValueError, ["expected 2 min_lrs, got 3"]),
    ("a fraction as patience", lambda o: lrs.ReduceLROnPlateau(o, patience=1.5), TypeError, ["patience", "1.5"]),
    (
        "a negative cooldown",
        lambda o: lrs.ReduceLROnPlateau(o, cooldown=-1),
        ValueError,
        ["cooldown", "-1", "[0, inf)"],
    ),
    ("a threshold of NaN", lambda o: lrs.ReduceLROnPlateau(o, threshold=NAN), ValueError, ["threshold", "nan"]),
]


@pytest.mark.parametrize(("make", "error", "parts"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refused_construction_leaves_the_optimizer_alone(
    make: Callable[[Any], Any], error: type[Exception], parts: list[str]
) -> None:
    optimizer = sgd()
    before = snapshot(optimizer)
    with pytest.raises(error) as caught:
        make(optimizer)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert snapshot(optimizer) == before
    assert "step" not in vars(optimizer)


REFUSED_MEMBERS: list[tuple[str, Callable[[Any, Any, Any], Any], type[Exception], list[str]]] = [
    (
        "an empty sequence",
        lambda o, a, b: lrs.SequentialLR(o, [], []),
        ValueError,
        ["at least one scheduler, but got no"],
    ),
    ("an empty chain", lambda o, a, b: lrs.ChainedScheduler([]), ValueError, ["at least one scheduler to be chained"]),
    ("no list of members", lambda o, a, b: lrs.ChainedScheduler(a), TypeError, ["list of schedulers", "StepLR"]),
    (
        "too few milestones",
        lambda o, a, b: lrs.SequentialLR(o, [a, b], []),
        ValueError,
        ["one more than the number of milestone points", "2", "0"],
    ),
    (
        "milestones that fall",
        lambda o, a, b: lrs.SequentialLR(o, [a, b, step(o)], [5, 3]),
        ValueError,
        ["milestones", "increasing", "[5, 3]"],
    ),
    (
        "a fraction as milestone",
        lambda o, a, b: lrs.SequentialLR(o, [a, b], [2.5]),
        TypeError,
        ["milestones[0]", "2.5"],
    ),
    (
        "a number as milestones",
        lambda o, a, b: lrs.SequentialLR(o, [a, b], 5),
        TypeError,
        ["milestones", "list of integers", "5"],
    ),
    ("a number as member", lambda o, a, b: lrs.SequentialLR(o, [3], []), TypeError, ["index 0", "`optimizer`", "int"]),
    (
        "members of two optimizers",
        lambda o, a, b: lrs.ChainedScheduler([a, step(sgd())]),
        ValueError,
        ["expects all schedulers to belong to the same optimizer", "StepLR at index 1"],
    ),
    (
        "another optimizer than the members'",
        lambda o, a, b: lrs.SequentialLR(sgd(), [a], []),
        ValueError,
        ["expects all schedulers to belong to the same optimizer"],
    ),
    ("a member twice", lambda o, a, b: lrs.ChainedScheduler([a, b, a]), ValueError, ["given twice"]),
    (
        "a member twice, at two depths",
        lambda o, a, b: lrs.ChainedScheduler([a, lrs.ChainedScheduler([b, a])]),
        ValueError,
        ["given twice"],
    ),
    (
        "a last_epoch beyond the end of a member",
        lambda o, a, b: lrs.SequentialLR(o, [lrs.OneCycleLR(o, 0.5, 3, cycle_momentum=False)], [], last_epoch=9),
        ValueError,
        ["Tried to step 4 times"],
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "parts"), [row[1:] for row in REFUSED_MEMBERS], ids=[row[0] for row in REFUSED_MEMBERS]
)
def test_a_refused_composition_leaves_optimizer_and_members_alone(
    make: Callable[[Any, Any, Any], Any], error: type[Exception], parts: list[str]
) -> None:
    optimizer = sgd()
    optimizer._opt_called = True
    members = [step(optimizer), lrs.ExponentialLR(optimizer, 0.75)]
    members[0].step()
    before = [member.state_dict() for member in members]
    with pytest.raises(error) as caught:
        make(optimizer, *members)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert [{**member.state_dict(), "param_groups": 0} for member in members] == [
        {**x, "param_groups": 0} for x in before
    ]


@pytest.mark.parametrize("array", [np.array(1), np.array([0.5, 0.25]), np.array(0.5 + 1j)])
def test_an_lr_array_that_cannot_be_scheduled_is_refused(array: Any) -> None:
    optimizer = sgd()
    optimizer.param_groups[0]["lr"] = array
    with pytest.raises((TypeError, ValueError), match="lr"):
        step(optimizer)


def test_a_read_only_lr_array_is_refused() -> None:
    optimizer = sgd(lr=0.5)
    optimizer.param_groups[1]["lr"] = np.array(0.5)
    optimizer.param_groups[1]["lr"].flags.writeable = False
    with pytest.raises(ValueError, match=r"param_groups\[1\] must be a writable array"):
        step(optimizer)


# Steps that fail.


def built(text: str, **more: Any) -> tuple[Any, Any]:
    optimizer = sgd(**more)
    optimizer._opt_called = True
    return optimizer, parse(text).build(optimizer)


def state_of(optimizer: Any, scheduler: Any) -> Any:
    return snapshot(optimizer), scheduler.state_dict()


FAILING = [
    (
        "OneCycleLR(max_lr=0.5, total_steps=3)",
        ValueError,
        "Tried to step 4 times. The specified number of total steps is 3",
    ),
    ("MultiplicativeLR(lr_lambda=lambda epoch: 1 / (4 - epoch))", ZeroDivisionError, "division"),
    ("LambdaLR(lr_lambda=[lambda epoch: 0.5, lambda epoch: nan if epoch == 4 else 1.0])", ValueError, "group 1 .* nan"),
    (
        "CyclicLR(base_lr=0.1, max_lr=0.2, step_size_up=7, mode='exp_range', gamma=1e100)",
        ValueError,
        "overflows at epoch 4",
    ),
    ("ChainedScheduler(StepLR(step_size=1), OneCycleLR(max_lr=0.5, total_steps=3))", ValueError, "Tried to step 4"),
    (
        "SequentialLR(StepLR(step_size=1), MultiplicativeLR(lr_lambda=lambda epoch: 1 / (2 - epoch)), milestones=[2])",
        ZeroDivisionError,
        "division",
    ),
]


@pytest.mark.parametrize(("text", "error", "message"), FAILING)
def test_a_failing_step_changes_nothing(text: str, error: type[Exception], message: str) -> None:
    optimizer, scheduler = built(text)
    for _ in range(3):
        scheduler.step()
    before = state_of(optimizer, scheduler)
    for attempt in (scheduler.step, lambda: scheduler.preview(5), lambda: scheduler.lr_at(4)):
        with pytest.raises(error, match=message):
            attempt()
        assert state_of(optimizer, scheduler) == before


@pytest.mark.parametrize("metric", [None, "0.5", [1.0], 1j])
def test_plateau_refuses_what_is_no_metric(metric: Any) -> None:
    optimizer, scheduler = built("ReduceLROnPlateau(patience=0)")
    scheduler.step(1.0)
    before = state_of(optimizer, scheduler)
    with pytest.raises(TypeError, match="metrics must be a real number"):
        scheduler.step(metric)
    assert state_of(optimizer, scheduler) == before


def test_plateau_refuses_a_later_group_without_its_own_min_lr() -> None:
    optimizer, scheduler = built("ReduceLROnPlateau(patience=0, min_lr=[0.1, 0.2])")
    optimizer.add_param_group({"params": [np.zeros(2)]})
    scheduler.step(1.0)
    before = state_of(optimizer, scheduler)
    with pytest.raises(RuntimeError, match=r"param groups in the `optimizer` \(3\) differs .* \(2\)"):
        scheduler.step(2.0)
    assert state_of(optimizer, scheduler) == before


def test_a_later_group_needs_what_was_given_as_a_list() -> None:
    optimizer, scheduler = built("CyclicLR(base_lr=0.1, max_lr=[0.2, 0.3])")
    optimizer.add_param_group({"params": [np.zeros(2)]})
    with pytest.raises(ValueError, match=r"max_lr must have the same length as optimizer\.param_groups"):
        scheduler.step()
    assert len(scheduler.max_lrs) == 2


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (lambda s: s.lr_at(-1), ValueError),
        (lambda s: s.lr_at(1.5), TypeError),
        (lambda s: s.preview(-1), ValueError),
        (lambda s: s.preview("3"), TypeError),
        (lambda s: s.step(-1), ValueError),
        (lambda s: s.step(2.5), TypeError),
    ],
)
def test_numbers_of_epochs_are_checked(attempt: Callable[[Any], Any], error: type[Exception]) -> None:
    optimizer, scheduler = built("StepLR(step_size=2)")
    before = state_of(optimizer, scheduler)
    with warnings.catch_warnings(), pytest.raises(error, match=r"epoch|\bn\b"):
        warnings.simplefilter("ignore")
        attempt(scheduler)
    assert state_of(optimizer, scheduler) == before


def test_warm_restarts_refuse_negative_epochs() -> None:
    _, scheduler = built("CosineAnnealingWarmRestarts(T_0=5)")
    with pytest.raises(ValueError, match=r"Expected non-negative epoch, but got -0\.5"):
        scheduler.step(-0.5)


# State dicts that fit nothing.

SPOILT: list[tuple[str, Callable[[dict[str, Any]], Any], type[Exception], str]] = [
    ("not a dict", lambda s: [1], TypeError, "must be a dict, got list"),
    ("empty", lambda s: {}, ValueError, "is not one of StepLR: it lacks"),
    ("an argument missing", lambda s: {k: x for k, x in s.items() if k != "gamma"}, ValueError, "lacks 'gamma'"),
    ("an entry of another", lambda s: {**s, "T_max": 3}, ValueError, "has 'T_max'"),
    ("an argument out of range", lambda s: {**s, "step_size": 0}, ValueError, "step_size"),
    ("an argument of another type", lambda s: {**s, "gamma": "x"}, TypeError, "gamma"),
    ("an argument that is NaN", lambda s: {**s, "gamma": NAN}, ValueError, "gamma"),
    ("no epoch", lambda s: {**s, "last_epoch": 1.5}, TypeError, "last_epoch"),
    ("an epoch before all", lambda s: {**s, "last_epoch": -2}, ValueError, "last_epoch"),
    ("too few base_lrs", lambda s: {**s, "base_lrs": [0.5]}, ValueError, "parameter groups"),
    ("too few groups", lambda s: {**s, "param_groups": s["param_groups"][:1]}, ValueError, "1 parameter groups"),
    ("groups that are none", lambda s: {**s, "param_groups": [1, 2]}, TypeError, "param_groups"),
    ("a rate that is NaN", lambda s: {**s, "param_groups": [{"lr": "nan"}, {"lr": 0.5}]}, ValueError, "nan"),
    ("a rate that is a list", lambda s: {**s, "param_groups": [{"lr": [1]}, {"lr": 0.5}]}, TypeError, "lr of param"),
    ("no rates at all", lambda s: {"step_size": 2, "gamma": 0.5, "last_epoch": 3}, ValueError, "lacks '_last_lr'"),
    ("a rate that is no number", lambda s: {**s, "base_lrs": [None, 0.5]}, TypeError, "base_lrs"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), [r[1:] for r in SPOILT], ids=[r[0] for r in SPOILT])
def test_a_wrong_state_dict_changes_nothing(
    spoil: Callable[[dict[str, Any]], Any], error: type[Exception], message: str
) -> None:
    optimizer, scheduler = built("StepLR(step_size=3, gamma=0.77)")
    scheduler.step()
    before = state_of(optimizer, scheduler)
    with pytest.raises(error, match=message):
        scheduler.load_state_dict(spoil(json.loads(json.dumps(scheduler.state_dict()))))
    assert state_of(optimizer, scheduler) == before


@pytest.mark.parametrize(
    ("text", "spoilt", "error"),
    [
        ("CosineAnnealingWarmRestarts(T_0=5)", {"T_i": 0}, ValueError),
        ("SequentialLR(StepLR(step_size=2), StepLR(step_size=3), milestones=[4])", {"_milestones": [4, 5]}, ValueError),
        ("SequentialLR(StepLR(step_size=2), StepLR(step_size=3), milestones=[4])", {"_schedulers": []}, ValueError),
        ("ChainedScheduler(StepLR(step_size=2))", {"_schedulers": [{}]}, ValueError),
        ("LambdaLR(lr_lambda=lambda epoch: 0.5)", {"lr_lambdas": [None]}, ValueError),
        ("LambdaLR(lr_lambda=lambda epoch: 0.5)", {"lr_lambdas": [{"a": 1}, None]}, TypeError),
        ("CyclicLR(base_lr=0.1, max_lr=0.2)", {"max_lrs": [0.2]}, ValueError),
        ("CyclicLR(base_lr=0.1, max_lr=0.2)", {"scale_mode": "x"}, ValueError),
        ("OneCycleLR(max_lr=0.2, total_steps=9)", {"total_steps": None}, TypeError),
        ("OneCycleLR(max_lr=0.2, total_steps=9)", {"param_groups": [{"lr": 1.0, "momentum": -1.0}] * 2}, ValueError),
        ("ReduceLROnPlateau()", {"best": [1]}, TypeError),
        ("ReduceLROnPlateau()", {"mode": "less"}, ValueError),
    ],
)
def test_a_wrong_entry_of_a_state_dict_changes_nothing(text: str, spoilt: Any, error: type[Exception]) -> None:
    optimizer, scheduler = built(text)
    before = state_of(optimizer, scheduler)
    with pytest.raises(error):
        scheduler.load_state_dict({**scheduler.state_dict(), **spoilt})
    assert state_of(optimizer, scheduler) == before


def test_a_state_that_is_not_plain_is_an_error() -> None:
    _, scheduler = built("StepLR(step_size=2)")
    scheduler.note = object()
    with pytest.raises(TypeError, match=r"StepLR.note cannot stand in a state dict: it is object"):
        scheduler.state_dict()
