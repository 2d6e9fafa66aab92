"""The scalars of a step computed by a kernel are those that the room computes in Python, bit for bit.

Both use + - * / and, in places, a square root or a power, all of them correctly rounded everywhere.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.kernels import NEEDS_KERNELS
from helpers.scalars import SETTINGS, Steps
from refoptim.engines import host
from refoptim.engines.host import Host

pytestmark = NEEDS_KERNELS

STEPS = [*range(1, 12), 999, 1000, 123_456]

TYPES = ["float64", "float32"]


def machine(variant: str = "") -> Host:
    found = host.machine()
    return Host(found.kernels, variant or found.variant)


@pytest.mark.parametrize("default", TYPES)
@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_bit_is_that_of_the_room(name: str, number: str, default: str) -> None:
    """The scalars of many steps."""
    steps = Steps(name, number, default, SETTINGS[name])
    for k in STEPS:
        steps.counter[0] = k - 1
        record, counter = steps.expected(steps.h)
        steps.launch(machine())
        np.testing.assert_array_equal(steps.record, np.array(record, number), f"step {k}: {steps.kernel.record}")
        np.testing.assert_array_equal(steps.counter, counter)


@pytest.mark.parametrize("name", SETTINGS)
def test_random_settings(name: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        settings = {key: _vary(rng, x) for key, x in SETTINGS[name].items()}
        steps = Steps(name, "float64", "float64", settings)
        steps.counter[0] = rng.integers(0, 10 ** rng.integers(1, 7))
        record, counter = steps.expected(steps.h)
        steps.launch(machine())
        np.testing.assert_array_equal(steps.record, record, f"{settings}")
        np.testing.assert_array_equal(steps.counter, counter)


def _vary(rng: np.random.Generator, x: Any) -> Any:
    """Multiply a real number by another that leaves it in its interval."""
    if isinstance(x, tuple):
        return tuple(_vary(rng, item) for item in x)
    if isinstance(x, bool) or (isinstance(x, int) and x > 1):
        return x
    return float(x * rng.uniform(0.8, 1)) if x < 1 else float(x * rng.uniform(1, 2))


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_follow_one_another(name: str) -> None:
    """The registers of a step are those that the one before it left."""
    steps = Steps(name, "float64", "float64", SETTINGS[name])
    for k in range(1, 8):
        record, counter = steps.expected(steps.h)
        steps.launch(machine())
        assert (counter[0], steps.counter.tolist(), steps.record.tolist()) == (k, counter, record)


@pytest.mark.parametrize("name", SETTINGS)
def test_instruction_sets_agree(name: str) -> None:
    variants = host.variants(host.machine().kernels)
    for k in STEPS:
        every = [Steps(name, "float64", "float32", SETTINGS[name]) for _ in variants]
        for steps, variant in zip(every, variants, strict=True):
            steps.counter[0] = k - 1
            steps.launch(machine(variant))
            assert steps.record.tobytes() == every[0].record.tobytes(), variant
            assert steps.counter.tobytes() == every[0].counter.tobytes(), variant


@pytest.mark.parametrize("name", SETTINGS)
def test_found_inf_stops_the_count(name: str) -> None:
    steps, free = (Steps(name, "float64", "float32", SETTINGS[name]) for _ in range(2))
    before = steps.counter.tobytes(), steps.record.tobytes()
    for found in (1, np.inf, np.nan):
        steps.launch(machine(), found_inf=np.array([found], np.float32))
        assert (steps.counter.tobytes(), steps.record.tobytes()) == before
    steps.launch(machine(), found_inf=np.zeros(1, np.float32))
    free.launch(machine())
    assert (steps.counter.tobytes(), steps.record.tobytes()) == (free.counter.tobytes(), free.record.tobytes())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_learning_rate_may_live_in_an_array(name: str) -> None:
    steps = Steps(name, "float64", "float32", SETTINGS[name])
    for lr in (0.3, 0.0123):
        h = SimpleNamespace(**{**vars(steps.h), "lr": lr})
        record, counter = steps.expected(h)
        steps.launch(machine(), lr=np.array([lr]))
        np.testing.assert_array_equal(steps.record, record)
        np.testing.assert_array_equal(steps.counter, counter)


@pytest.mark.parametrize("name", SETTINGS)
def test_one_thread_counts(name: str) -> None:
    steps = Steps(name, "float64", "float32", SETTINGS[name])
    steps.launch(machine(), blocks=3)
    assert steps.counter[0] == 1


def test_flags_are_one_or_nothing() -> None:
    """A rule's own flags reach the record from its hyperparameters; the first step makes SGD's buffer."""
    nesterov = Steps("SGD", "float32", "float32", dict(lr=0.1, momentum=0.9, nesterov=True))
    for unmade in (1, 0):
        nesterov.launch(machine())
        s = dict(zip(nesterov.kernel.record, nesterov.record.tolist(), strict=True))
        assert (s["nesterov"], s["unmade"]) == (1, unmade)
    rectified = Steps("RAdam", "float32", "float32", dict(betas=(0.9, 0.999)))
    flags = []
    for _ in range(7):
        rectified.launch(machine())
        flags.append(dict(zip(rectified.kernel.record, rectified.record.tolist(), strict=True))["rectified"])
    assert flags == [0, 0, 0, 0, 0, 1, 1]
