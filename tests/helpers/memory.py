"""The memory that this process has, or had at most."""

from __future__ import annotations

from pathlib import Path

import pytest


def resident(kind: str) -> int:
    """Return the bytes of memory that this process has ("VmRSS"), or had at most since ``forget`` ("VmHWM")."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(kind))
    return int(line.split()[1]) << 10


def forget() -> None:
    """Forget how much memory this process had at most; skip the test where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the largest size of a process is read from /proc, which this system does not have")
