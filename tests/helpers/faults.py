"""Faults at chosen moments: exceptions between two lines of the package, and signals whose handlers raise."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import refoptim
from helpers import ROOT

PLACES = tuple(str(x) for x in (Path(refoptim.__file__).parent, ROOT / "kernels"))
"""Where the lines of the package are."""

SOON = 2e-6
"""Seconds from a line to the signal that it sets off, which then arrives anywhere, in a call of C too."""


class Interrupt(BaseException):
    """What a signal handler raises; nothing catches it by name."""


class Lines:
    """Counts the lines of the package that this thread runs, and sets off a fault before one of them."""

    def __init__(self, fault: Callable[[], None] | None = None, at: int = 0) -> None:
        self.fault, self.at, self.count = fault, at, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        return self.line if frame.f_code.co_filename.startswith(PLACES) else None

    def line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self.at and self.fault:
                self.fault()
        return self.line


@contextmanager
def traced(lines: Lines) -> Iterator[None]:
    """Let ``lines`` see every line of this thread."""
    before = sys.gettrace()
    sys.settrace(lines)
    try:
        yield
    finally:
        sys.settrace(before)


def raised() -> None:
    """Raise an exception where the trace function was called."""
    raise Interrupt


@contextmanager
def alarms() -> Iterator[None]:
    """Let the alarm raise an exception."""

    def handler(number: int, frame: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def set_off(seconds: float = SOON) -> None:
    """Send this process an alarm soon."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
