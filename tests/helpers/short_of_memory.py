"""Lets single allocations of trials fail, and prints what came of it: ``python short_of_memory.py STRIDE [NAME]``.

To be run with ``failing_malloc.c`` preloaded. Of the allocations of each trial, every STRIDE-th fails once. Prints a
JSON object: the number of faults, and those after which something was half done or did not go on.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.trials import TRIALS, Make, stages_of
from refoptim.engines import blocks, reference

library = ctypes.CDLL(None)
library.failing_malloc_arm.argtypes = [ctypes.c_long, ctypes.c_size_t]
library.failing_malloc_disarm.restype = ctypes.c_long

LEAST = 512
"""Bytes from which on allocations count; smaller ones Python serves from memory that it has."""


def starved(make: Make, number: int) -> tuple[Any, int, BaseException | None]:
    """Return a trial whose allocation of this number failed, how many it made, and what it raised."""
    trial, error = make(), None
    library.failing_malloc_arm(number, LEAST)
    try:
        trial.act()
    except BaseException as raised:
        error = raised
    return trial, library.failing_malloc_disarm(), error


def verdict(make: Make, stages: Sequence[Any], number: int) -> str:
    """Say what is wrong after a failed allocation; nothing if all is well."""
    trial, _, error = starved(make, number)
    seen = trial.look()
    if seen not in stages[:2]:
        return f"half done: {error!r}"
    try:
        trial.act()
    except Exception as refused:
        return f"does not go on: {refused!r}"
    return "" if trial.look() == stages[stages.index(seen) + 1] else f"goes on wrongly: {error!r}"


def main(stride: str, *names: str) -> None:
    blocks.CHUNK, reference.FEW = 16, 8
    faults, wrong = 0, []
    for name in names or TRIALS:
        stages, (_, n, _) = stages_of(TRIALS[name]), starved(TRIALS[name], 1 << 40)
        for number in range(1 + len(name) % int(stride), n + 1, int(stride)):
            faults += 1
            if says := verdict(TRIALS[name], stages, number):
                wrong.append(f"{name}, allocation {number} of {n}: {says}")
    print(json.dumps({"faults": faults, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
