"""What an interrupt finds half done is finished, or has not begun: wherever it comes, and whatever raises it.

Every trial is interrupted before some of its lines (``pytest -m faults``) or before each (``pytest -m slow``). Then
everything must be as it was, or as it is without the interrupt, and go on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from helpers import wider
from helpers.faults import Interrupt, Lines, alarms, raised, set_off, traced
from helpers.kernels import NEEDS_KERNELS
from helpers.trials import TRIALS, Make, stages_of
from refoptim.engines import blocks, reference

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an alarm in a callback

FAULTS: dict[str, Any] = {"exceptions": (raised, nullcontext), "signals": (set_off, alarms)}
"""What is set off before a line, and what it needs."""

SAMPLE = 47
"""Of so many lines one is tried."""


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let arrays of a hundred elements be long, so that threads share them."""
    monkeypatch.setattr(blocks, "CHUNK", 16)
    monkeypatch.setattr(reference, "FEW", 8)


def interrupted(make: Make, stages: list[Any], fault: Any, at: int) -> bool:
    """Interrupt a trial before a line, and fail if it is half done or does not go on; tell whether it came to that."""
    trial, came = make(), False
    lines = Lines(fault, at)
    try:
        with traced(lines):
            trial.act()
    except Interrupt:
        came = True
    seen = trial.look()
    assert seen in stages[:2], f"half done after an interrupt before line {at}"
    trial.act()
    assert trial.look() == stages[stages.index(seen) + 1], f"does not go on after an interrupt before line {at}"
    return came


def count(make: Make) -> int:
    """Return the number of lines that a trial runs."""
    trial, lines = make(), Lines()
    with traced(lines):
        trial.act()
    return lines.count


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Iterator[Any]:
    set_it_off, needed = FAULTS[request.param]
    with needed():
        yield set_it_off


SOME = [pytest.param(x, marks=pytest.mark.slow) if x.partition(",")[0] in wider.WIDER else x for x in TRIALS]
"""The trials, of which those of rules beyond torch's are slow: the same code steps them."""


@NEEDS_KERNELS
@pytest.mark.faults
@pytest.mark.parametrize("name", SOME)
def test_some_lines(name: str, fault: Any) -> None:
    n, stages = count(TRIALS[name]), stages_of(TRIALS[name])
    first = 1 + sum(map(ord, name)) % SAMPLE
    came = [interrupted(TRIALS[name], stages, fault, at) for at in range(first, n + 1, SAMPLE)]
    assert any(came) or n < 2 * SAMPLE, "no interrupt arrived"


@NEEDS_KERNELS
@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_every_line(name: str, fault: Any, record_property: Any) -> None:
    n, stages = count(TRIALS[name]), stages_of(TRIALS[name])
    came = [interrupted(TRIALS[name], stages, fault, at) for at in range(1, n + 1)]
    record_property("faults", sum(came))
    assert any(came), "no interrupt arrived"
