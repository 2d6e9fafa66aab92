"""Scalars of coming steps that a kernel computes: in place of the rule, where they are the rule's to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import wraps
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.repeats import Runs
from helpers.rooms import make, normal
from refoptim.engines.scalars import Compiled
from refoptim.numerics.arith import neg

pytestmark = NEEDS_KERNELS

STEPS = 24


def run(plans: list[Any], name: str, dtype: str = "float32", **settings: Any) -> None:
    """Take steps, and fail unless they are those that are planned."""
    runs = Runs(lambda: make(name, [normal(0, 40, dtype=dtype)], fused=True, **settings), plans)
    for seed in range(STEPS):
        assert runs.step([normal(seed, 40, dtype=dtype)]) == (seed == 0)
        runs.check()


@pytest.fixture(params=["float32", "float64"])
def default(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let registers be of a type."""
    refoptim.set_default_dtype(request.param)
    yield request.param
    refoptim.set_default_dtype("float32")


RULES = [
    *("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "ASGD", "Adagrad", "AdaBelief", "Adan", "AdEMAMix", "ADOPT"),
    *("ScheduleFreeAdamW", "ScheduleFreeRAdam", "ScheduleFreeSGD", "Yogi"),
]


@pytest.mark.parametrize("name", RULES)
def test_two_steps_are_left_to_the_rule(name: str, default: str, plans: list[Any], computed: Counter[int]) -> None:
    """The second of them shows that the kernel has its bits."""
    run(plans, name)
    assert computed.total() == 2


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_other_storage(name: str, dtype: str, plans: list[Any], computed: Counter[int]) -> None:
    run(plans, name, dtype)
    assert computed.total() == 2


def test_scaled_gradients_of_an_objective_that_is_maximized(plans: list[Any], computed: Counter[int]) -> None:
    runs = Runs(lambda: make("NAdam", [normal(0, 40)], fused=True, maximize=True), plans)
    for seed in range(STEPS):
        runs.step([normal(seed, 40)], grad_scale=4.0 if seed < 12 else 0.5)
        runs.check()
    assert computed.total() == 2 + 2


def test_the_rule_computes_what_is_in_doubt(plans: list[Any], computed: Counter[int]) -> None:
    """(9/16)**17 is in the middle between two doubles."""
    assert (9**17).bit_length() == 54
    run(plans, "Adamax", betas=(9 / 16, 0.5))
    assert computed.total() == 3


NO_DOUBLES = [Fraction(1, 10), 2 * 10**3, np.float32(0.1)]


@pytest.mark.parametrize("lr", NO_DOUBLES, ids=repr)
def test_a_setting_that_is_no_double_is_the_rules(lr: Any, plans: list[Any], computed: Counter[int]) -> None:
    run(plans, "Adam", lr=lr)
    assert computed.total() >= STEPS - 1


def test_a_kernel_with_other_bits_is_not_used(
    plans: list[Any], computed: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Compiled.after

    def spoiled(self: Compiled, k: int, registers: Any, many: int) -> Any:
        found = own(self, k, registers, many)
        assert found
        return [(after, written[:-1] + bytes([written[-1] ^ 1])) for after, written in found]

    monkeypatch.setattr(Compiled, "after", spoiled)
    run(plans, "Adam")
    assert computed.total() >= STEPS - 1


def halved(h: Any, k: int, registers: Any) -> dict[str, Any]:
    """Return the scalars of Adam, but of half the size from some step on."""
    found = refoptim.Adam.scalars(h, k, registers)
    return {**found, "step_size": found["step_size"] / (2 if k > 10 else 1)}


@pytest.mark.parametrize("function", [halved, wraps(refoptim.Adam.scalars)(halved)], ids=["own", "wrapping"])
def test_a_rule_of_ones_own_is_not_a_kernels(function: Any, computed: Counter[int]) -> None:
    """Even if it is like one for some steps."""
    rule = type("Halved", (refoptim.Adam,), {"scalars": staticmethod(function)})
    p, q = np.zeros(4, np.float32), np.zeros(4, np.float32)
    optimizer, reference = rule([p], fused=True), rule([q])
    for seed in range(STEPS):
        for each in (optimizer, reference):
            each.step(grads=[normal(seed, 4)])
    np.testing.assert_array_equal(p, q)
    assert computed.total() >= 2 * (STEPS - 1)


def test_a_rule_that_counts_no_steps_takes_the_same_one_again(plans: list[Any]) -> None:
    """Though its scalars are those of a rule that does."""
    rule = type("Uncounted", (refoptim.Adam,), {"counts_steps": False, "of_torch": False})
    runs = Runs(lambda: rule([normal(0, 40)], fused=True), plans)
    for seed in range(STEPS):
        runs.step([normal(seed, 40)])
        runs.check()


def test_an_update_that_wraps_a_rules_is_not_its_kernels() -> None:
    @wraps(refoptim.SGD.update)
    def update(s: Any, p: Any, g: Any, *state: Any) -> Any:
        return refoptim.SGD.update(s, p, neg(g), *state)

    rule = type("Up", (refoptim.SGD,), {"update": staticmethod(update)})
    with pytest.raises(RuntimeError, match="fused"):
        rule([np.zeros(4, np.float32)], fused=True)


def test_a_division_by_zero_that_a_kernel_would_get_over_is_an_error(plans: list[Any]) -> None:
    """In step 20 AdEMAMix would divide by zero, and take a minimum of infinity and a number."""
    settings = dict(betas=(0.5, 0.999, 0.25), t_alpha_beta3=10)
    runs = Runs(lambda: make("AdEMAMix", [normal(0, 40)], fused=True, **settings), plans)
    for seed in range(19):
        runs.step([normal(seed, 40)])
    with pytest.raises(ValueError, match="the scalars of step 20 have no value"):
        runs.one.step(grads=[normal(1, 40)])
    runs.check()


@pytest.mark.parametrize("default", ["float64"], indirect=True)
def test_whole_numbers_are_multiplied_exactly_in_late_steps(default: str, plans: list[Any]) -> None:
    settings = dict(lr=1023, lambd=1021, alpha=0.5, t0=1, weight_decay=0)
    runs = Runs(lambda: make("ASGD", [np.zeros(3)], fused=True, **settings), plans)
    for start in (1, 2**32 - 10, 2**53 - 20, 2**53 + 2):
        runs.step([np.zeros(3)])
        runs.both(lambda o, start=start: [state.update(step=start) for state in o.state.values()])
        for _ in range(STEPS):
            runs.step([np.zeros(3)])
            runs.check()


def test_a_number_that_becomes_too_large_is_named_as_in_a_plan(plans: list[Any]) -> None:
    settings = dict(alpha=1e5, t_alpha_beta3=10, weight_decay=0)
    runs = Runs(lambda: make("AdEMAMix", [normal(0, 40, dtype="float16")], fused=True, **settings), plans)
    grads, said = [normal(1, 40, dtype="float16")], []
    for _ in range(6):
        runs.step(grads)
    runs.planned._repeat = None
    for optimizer in (runs.one, runs.planned):
        with pytest.raises(RuntimeError, match="alpha = ") as caught:
            optimizer.step(grads=grads)
        said.append(str(caught.value))
    assert said[0] == said[1]
    runs.check()
