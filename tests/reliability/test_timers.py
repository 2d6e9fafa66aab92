"""Signals at any moment of steps over long arrays, which threads share: a step is over when it raises, and whole."""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.faults import Interrupt, alarms, set_off
from helpers.kernels import NEEDS_KERNELS
from helpers.rooms import make, normal
from refoptim.engines import threads

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an alarm in a callback

N = 300_000
STEPS = 40
KINDS = [(name, fused) for name in ("SGD", "Adam", "Adafactor") for fused in (None, True)] + [("Muon", None)]


def picture(optimizer: Any) -> str:
    (p,) = optimizer.param_groups[0]["params"]
    arrays = [p.data, *(x for x in optimizer.state[p].values() if isinstance(x, np.ndarray))]
    return sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()


def optimizer_of(name: str, fused: Any) -> Any:
    shape = (600, 40) if name == "Muon" else (N // 300, 300)
    return make(name, [normal(1, *shape)], fused=fused)


@pytest.mark.sweep(3)
@NEEDS_KERNELS
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("name", "fused"), KINDS)
def test_a_step_that_raises_is_over_and_whole(
    name: str, fused: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each alarm the arrays are those of as many whole steps as can be told by them, and they stay so."""
    monkeypatch.setitem(threads.setting, "threads", workers)
    whole, optimizer = optimizer_of(name, fused), optimizer_of(name, fused)
    g = normal(2, *whole.param_groups[0]["params"][0].shape)
    begun = time.perf_counter()
    whole.step(grads=[g])
    long, drawn, came = time.perf_counter() - begun, random.Random(7), 0
    stages = [picture(whole)]
    optimizer.step(grads=[g])
    with alarms():
        for _ in range(STEPS):
            whole.step(grads=[g])
            stages.append(picture(whole))
            try:
                try:
                    set_off(max(1e-6, drawn.random() * 1.5 * long))
                    optimizer.step(grads=[g])
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                came += 1
            seen = picture(optimizer)
            assert seen in stages
            time.sleep(0.001)
            assert picture(optimizer) == seen, "something was still writing"
    assert came, "no alarm came during a step"
    while picture(optimizer) != stages[-1]:
        optimizer.step(grads=[g])
        assert picture(optimizer) in stages


def test_a_closure_is_interrupted_at_once() -> None:
    p = refoptim.Parameter(normal(1, 5))
    before = p.data.copy()

    def closure() -> float:
        p.grad = p.data * 2
        time.sleep(20)
        return 1.0

    for optimizer in (refoptim.SGD([p]), refoptim.LBFGS([p])):
        begun = time.perf_counter()
        with alarms(), suppress(Interrupt):
            set_off(0.05)
            optimizer.step(closure)
        assert time.perf_counter() - begun < 10
        assert np.array_equal(p.data, before)
