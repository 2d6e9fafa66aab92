"""State dicts in which one entry is anything at all: refused and nothing changed, or good for all that follows."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import lr_scheduler as lrs
from refoptim.swa_utils import SWALR


def deep(make: Callable[[Any], Any]) -> Any:
    x: Any = 1.0
    for _ in range(100_000):
        x = make(x)
    return x


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**9, 10**400, -(10**400), 0.0, 0.5, -0.5, 1e300, 5e-324),
    *(math.nan, math.inf, -math.inf, "nan", "inf", "-inf", "", "x", b"x", object(), int, abs),
    *([], [[]], [None], ["nan"] * 2, [math.inf] * 2, [0.0] * 2, [10**400] * 2, [1.0], [1.0] * 3, [-1.0, 0.5]),
    *({}, {"a": 1}, {1: 10**12}, {"5": 10**400}, {None: 1}, {"lr": 0.5}, [{}] * 2, [{"lr": None}] * 2),
    *(
        np.array([]),
        np.array(0.5),
        np.array([1.0, 2.0]),
        np.float32(0.5),
        deep(lambda x: [x]),
        deep(lambda x: {"a": x}),
    ),
    *(CYCLE, {"a": CYCLE}, "9" * 10_000),
]


class Decay:
    """A function of the epoch whose attribute a state dict holds."""

    def __init__(self) -> None:
        self.rate = 0.5

    def __call__(self, epoch: int) -> float:
        return 0.5**epoch


def warm_up(o: Any) -> Any:
    return lrs.SequentialLR(o, [lrs.LinearLR(o, 0.5, 1.0, 2), lrs.ReduceLROnPlateau(o, patience=0, factor=0.5)], [2])


MAKE: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lrs.LambdaLR(o, [Decay(), Decay()]),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, Decay()),
    "StepLR": lambda o: lrs.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [1, 3], 0.5),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.5),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 9, 0.5),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 9, 0.005),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 4, 2, 0.005),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.01, 0.5, 4),
    "CyclicLR with a function": lambda o: lrs.CyclicLR(o, 0.01, 0.5, 4, scale_fn=Decay(), cycle_momentum=False),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.5, 20),
    "OneCycleLR in three phases": lambda o: lrs.OneCycleLR(o, 0.5, 20, anneal_strategy="linear", three_phase=True),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "SWALR": lambda o: SWALR(o, [0.5, 0.25], 4),
    "ConstantWarmupLR": lambda o: lrs.ConstantWarmupLR(o, 16),
    "LinearWarmupLR": lambda o: lrs.LinearWarmupLR(o, 2, 16),
    "CosineWarmupLR": lambda o: lrs.CosineWarmupLR(o, 2, 9, min_lr_rate=0.05),
    "CosineWarmupRateLR": lambda o: lrs.CosineWarmupRateLR(o, 2, 9, min_lr_rate=0.05, warmup_lr_rate=0.1),
    "CosineRestartsWarmupLR": lambda o: lrs.CosineRestartsWarmupLR(o, 2, 9, 0.5),
    "PolynomialWarmupLR": lambda o: lrs.PolynomialWarmupLR(o, 2, 9, 1e-7, 0.5),
    "InverseSqrtLR": lambda o: lrs.InverseSqrtLR(o, 2, 16),
    "WarmupStableDecayLR": lambda o: lrs.WarmupStableDecayLR(o, 2, 1, 3, min_lr_ratio=0.05),
    "NoamLR": lambda o: lrs.NoamLR(o, 8, 16),
    "WarmupCosineDecayLR": lambda o: lrs.WarmupCosineDecayLR(o, 0.01, 0.5, 2, 9),
    "PiecewiseInterpolateLR": lambda o: lrs.PiecewiseInterpolateLR(o, "cosine", 0.5, {2: 0.5, 5: 0.1}),
    "CosineCyclesLR": lambda o: lrs.CosineCyclesLR(o, 3, 0.001, 2.0, 0.5, 2, warmup_t=2, warmup_prefix=True),
    "CosineDecayRestartsLR": lambda o: lrs.CosineDecayRestartsLR(o, 3, 2.0, 0.5),
    "SequentialLR": warm_up,
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.StepLR(o, 1, 0.5), lrs.LambdaLR(o, Decay())]),
}


def built(name: str) -> Any:
    groups = [{"params": [np.zeros(1)], "lr": np.array(0.5)}, {"params": [np.zeros(1)], "lr": 0.25}]
    optimizer: Any = refoptim.SGD(groups, momentum=0.9)
    optimizer._opt_called = True
    return MAKE[name](optimizer)


def moved(name: str) -> Any:
    scheduler = built(name)
    for _ in range(3):
        scheduler.step(*([1.0] if any(hasattr(x, "patience") for x in (scheduler, *scheduler._schedulers)) else []))
    return scheduler


def paths(x: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the ways to all entries of a state dict."""
    items: Sequence[Any] = list(x.items()) if isinstance(x, dict) else list(enumerate(x)) if isinstance(x, list) else []
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def spoilt(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return state


def held(scheduler: Any) -> Any:
    groups = scheduler.optimizer.param_groups
    values = [{key: np.array(x).tolist() for key, x in group.items() if key != "params"} for group in groups]
    return values, json.dumps(scheduler.state_dict())


def check_what_follows(scheduler: Any) -> None:
    """Look ahead and save: there are learning rates, or the schedule says that it ends or overflows."""
    again = scheduler.state_dict()
    json.dumps(again, allow_nan=False)
    scheduler.load_state_dict(again)
    try:
        assert np.isfinite(scheduler.preview(12)).all()
        assert np.isfinite(scheduler.lr_at(3)).all()
    except ValueError as error:
        assert any(text in str(error) for text in ("Tried to step", "overflows")), error


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x in lrs.WIDER else x for x in MAKE])
def test_any_entry_may_be_anything(name: str) -> None:
    saved, scheduler = json.loads(json.dumps(moved(name).state_dict())), built(name)
    before = held(scheduler)
    original = scheduler.state_dict()
    refused = 0
    for path in [*paths(saved), ("_waiting",), ("unknown",), (5,), (None,)]:
        for value in HOSTILE:
            state = spoilt(saved, path, value)
            try:
                scheduler.load_state_dict(state)
            except (TypeError, ValueError):
                refused += 1
                assert held(scheduler) == before, (path, type(value))
            else:
                check_what_follows(scheduler)
                scheduler.load_state_dict(original)
                before = held(scheduler)
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("OneCycleLR", {"total_steps": 7}),
        ("OneCycleLR", {"_schedule_phases": []}),
        ("OneCycleLR", {"max_lrs": ["nan", 0.5]}),
        ("OneCycleLR", {"min_lrs": [math.inf, 0.5]}),
        ("OneCycleLR", {"max_momentums": [math.nan, 0.5]}),
        ("OneCycleLR", {"_anneal_func_type": "exp"}),
        ("CyclicLR", {"total_size": 0}),
        ("CyclicLR", {"step_ratio": 0}),
        ("CyclicLR", {"mode": "square"}),
        ("CyclicLR", {"base_momentums": ["nan", 0.5]}),
        ("CosineAnnealingWarmRestarts", {"T_i": 0}),
        ("CosineAnnealingWarmRestarts", {"T_cur": "nan"}),
        ("CosineAnnealingWarmRestarts", {"T_cur": 5, "T_i": 4}),
        ("SWALR", {"param_groups": [{"lr": 0.5, "swa_lr": "nan"}, {"lr": 0.5, "swa_lr": 0.5}]}),
        ("ReduceLROnPlateau", {"best": "nan"}),
        ("ReduceLROnPlateau", {"num_bad_epochs": -1}),
        ("StepLR", {"_starts": [["x", 0.5], [-1, 0.25]]}),
        ("StepLR", {"base_lrs": ["nan", 0.5]}),
        ("StepLR", {"_step_count": 10**400}),
        ("MultiStepLR", {"milestones": {"5": 10**400}}),
    ],
)
def test_what_would_give_nan_or_divide_by_zero_later_is_refused(name: str, entries: dict[str, Any]) -> None:
    scheduler = moved(name)
    before = held(scheduler)
    with pytest.raises((TypeError, ValueError)):
        scheduler.load_state_dict({**scheduler.state_dict(), **entries})
    assert held(scheduler) == before


def test_many_milestones_are_saved_by_their_number() -> None:
    scheduler = lrs.MultiStepLR(built("StepLR").optimizer, {5: 10**12, 7: 1}, 0.5)
    state = json.loads(json.dumps(scheduler.state_dict()))
    assert state["milestones"] == {"5": 10**12, "7": 1}
    other = built("MultiStepLR")
    other.load_state_dict(state)
    assert other.milestones == {5: 10**12, 7: 1}
    assert other.lr_at(6) == [0.0, 0.0]


def test_deep_values_are_refused_in_words() -> None:
    scheduler = moved("StepLR")
    with pytest.raises(ValueError, match="must not be nested deeper than 100 lists and dicts"):
        scheduler.load_state_dict({**scheduler.state_dict(), "gamma": HOSTILE[-5]})
    with pytest.raises(ValueError, match="must hold integers that fit into a double"):
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 10**400})
