"""Scalars of steps to come, computed several at once: nobody can tell, whatever changes meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from helpers.kernels import NEEDS_KERNELS
from helpers.repeats import Runs
from helpers.rooms import assert_equal_runs, make, normal
from refoptim import Optimizer, RMSprop
from refoptim.numerics.arith import axpy
from refoptim.optimizers import ahead
from refoptim.step import hyper as hp
from refoptim.transforms import Lookahead

ENGINES = [None, pytest.param(True, marks=NEEDS_KERNELS)]

SETTINGS = {"lr": (0.1, 0.25), "weight_decay": (0.0, 0.3), "maximize": (True, False)}


def draw(optimizer: Optimizer, random: np.random.Generator) -> dict[str, Any]:
    """Return a setting that is to change now, if any is."""
    name = random.choice([name for name in SETTINGS if name in optimizer.param_groups[0]])
    return {name: SETTINGS[name][random.integers(2)]} if random.random() < 0.15 else {}


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "RAdam", "ASGD", "ScheduleFreeAdamW", "LAMB", "Prodigy"])
def test_whatever_changes_in_whichever_step(name: str, fused: bool | None, plans: list[Any]) -> None:
    random = np.random.default_rng(3)
    runs = Runs(lambda: make(name, [normal(0, 5, 3)], fused=fused), plans)
    for seed in range(80):
        changed = draw(runs.one, random)
        runs.both(lambda o, changed=changed: o.param_groups[0].update(changed))
        scaling = {"grad_scale": 4.0} if 30 <= seed < 45 else {}
        runs.step([normal(seed, 5, 3)], found_inf=bool(random.random() < 0.1), **scaling)
        runs.check()


def test_scalars_are_computed_once_and_some_steps_ahead(computed: Counter[int]) -> None:
    optimizer, latest = make("Adam", [normal(0, 4)]), []
    for _ in range(40):
        optimizer.step(grads=[normal(1, 4)])
        latest.append(max(computed, default=1))
    assert set(computed.values()) == {1}
    assert latest == [1, 2, 4, 4, *[8] * 4, *[16] * 8, *[32] * 16, *[48] * 8]


def test_none_is_computed_ahead_under_a_schedule(computed: Counter[int]) -> None:
    optimizer = make("Adam", [normal(0, 4)])
    for k in range(1, 20):
        optimizer.param_groups[0]["lr"] = 1 / k
        optimizer.step(grads=[normal(1, 4)])
    assert computed == Counter(range(2, 20))


class Ending(Optimizer):
    """A rule that has no thirteenth step."""

    of_torch = False
    has_kernels = False
    varying = frozenset({"step_size"})

    def __init__(self, params: Any, lr: hp.LearningRate = 0.1) -> None:
        super().__init__(params, lr=lr)

    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        return {"step_size": -h.lr / (13 - k)}

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return (axpy(p, g, s.step_size),)


class Uncounted(Ending):
    """A rule that asks for the number of a step which it does not keep."""

    counts_steps = False


@pytest.mark.parametrize("copies", [1, 2])
def test_steps_that_nobody_counts_have_the_number_that_they_have_in_a_plan(copies: int, plans: list[Any]) -> None:
    runs = Runs(lambda: Uncounted([np.zeros(1) for _ in range(copies)]), plans)
    for _ in range(20):
        runs.step([np.ones(1)] * copies)
        runs.check()


def test_a_step_without_scalars_is_refused_when_it_is_its_turn() -> None:
    p, grads = np.zeros(1), [np.ones(1)]
    optimizer = Ending([p])
    for _ in range(12):
        optimizer.step(grads=grads)
    before = p.copy()
    assert before == sum(np.float64(-0.1 / (13 - k)) for k in range(1, 13))
    for _ in range(2):
        with pytest.raises(ValueError, match="the scalars of step 13 have no value"):
            optimizer.step(grads=grads)
    assert p == before


def test_a_rule_with_the_same_scalars_in_every_step_may_refuse_one_all_the_same() -> None:
    def advance(h: Any, k: int, registers: Any) -> Any:
        return registers if k < 7 else 1 / 0

    rule = type("Seven", (RMSprop,), {"advance": staticmethod(advance), "of_torch": False})
    optimizer, grads = rule([np.zeros(1)]), [np.ones(1)]
    for _ in range(6):
        optimizer.step(grads=grads)
    with pytest.raises(ValueError, match="the scalars of step 7 have no value"):
        optimizer.step(grads=grads)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "NAdam"])
def test_a_step_that_is_skipped_says_what_is_wrong_with_its_settings(name: str, fused: bool | None) -> None:
    optimizer, said = make(name, [normal(0, 4)], fused=fused), []
    for _ in range(5):
        optimizer.step(grads=[normal(1, 4)])
    optimizer.param_groups[0]["lr"] = 1e300
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"lr=1e\+300") as caught:
            optimizer.step(grads=[normal(1, 4)], found_inf=True)
        said.append(str(caught.value))
        optimizer._repeat = None
    assert said[0] == said[1]
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step(grads=[normal(1, 4)], found_inf=True)
    assert [x.get("step", 5) for x in optimizer.state.values()] == [5]


def test_a_setting_that_was_another_kind_of_object_meanwhile(plans: list[Any]) -> None:
    runs = Runs(lambda: make("Adam", [normal(0, 4)]), plans)
    lr = runs.one.param_groups[0]["lr"]
    for seed, setting in enumerate([lr, lr, lr, lr, np.array(0.5), lr, lr, 0.5, lr]):
        runs.both(lambda o, setting=setting: o.param_groups[0].update(lr=setting))
        runs.step([normal(seed, 4)])
        runs.check()


class Alarm(Exception):
    """What a signal handler raises."""


def test_what_a_signal_handler_raises_meanwhile_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = ahead.next_registers, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise Alarm
        return own(*arguments)

    optimizer, grads = make("NAdam", [normal(0, 4)]), [normal(1, 4)]
    planned = make("NAdam", [normal(0, 4)])
    monkeypatch.setattr(ahead, "next_registers", interrupted)
    taken = 0
    for _ in range(12):
        try:
            optimizer.step(grads=grads)
        except Alarm:
            continue
        taken += 1
        planned._repeat = None
        planned.step(grads=grads)
    assert taken == 11
    assert_equal_runs(optimizer, planned)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize(("name", "registers"), [("NAdam", ["mu_product"]), ("ASGD", ["eta", "mu"])])
def test_registers_of_another_type_are_those_of_a_plan(
    name: str, registers: list[str], fused: bool | None, plans: list[Any]
) -> None:
    runs = Runs(lambda: make(name, [normal(0, 4)], fused=fused), plans)

    def widen(o: Optimizer) -> None:
        for state in o.state.values():
            state.update({register: np.float64(state[register]) for register in registers})

    for seed in range(8):
        if seed in (2, 5):
            runs.both(widen)
        runs.step([normal(seed, 4)])
        runs.check()


def test_a_step_count_is_an_integer_in_each_step() -> None:
    optimizer = make("Adam", [normal(0, 4)])
    for wrong in (True, 2 + 0j):
        optimizer.step(grads=[normal(1, 4)])
        for state in optimizer.state.values():
            state["step"] = wrong
        with pytest.raises((TypeError, ValueError), match="step"):
            optimizer.step(grads=[normal(1, 4)])
        for state in optimizer.state.values():
            state["step"] = int(wrong.real)


@pytest.mark.parametrize("fused", ENGINES)
def test_who_goes_along_counts_steps_without_elements(fused: bool | None) -> None:
    optimizer = Lookahead(make("SGD", [np.zeros(0, np.float32)], fused=fused), k=5)
    counts = []
    for _ in range(4):
        optimizer.step(grads=[np.zeros(0, np.float32)])
        counts.append(optimizer.count)
    assert counts == [1, 2, 3, 4]
