"""How many threads are used, where nobody said how many."""

from __future__ import annotations

import subprocess
import sys

import pytest

from refoptim.engines.threads import LOCAL_SIZES

PROGRAM = """
import os
os.cpu_count = lambda: {processors}
os.sched_getaffinity = lambda process: range({own})
import refoptim
print(refoptim.get_num_threads())
"""


def threads(processors: int, own: int, variable: str = "NOTHING", value: str = "") -> int:
    """Return what a new process says that may use so many processors, with a variable of the environment set."""
    program = PROGRAM.format(processors=processors, own=own)
    done = subprocess.run(
        [sys.executable, "-c", program], env={variable: value}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_process_alone_uses_all_processors_that_it_may() -> None:
    assert threads(8, 8) == 8
    assert threads(8, 3) == 3


@pytest.mark.parametrize("variable", LOCAL_SIZES)
def test_ranks_share_the_processors_of_a_computer(variable: str) -> None:
    """Equally, whether or not the launcher has bound each to some of its own; one at least."""
    assert threads(8, 8, variable, "2") == 4
    assert threads(8, 4, variable, "2") == 4
    assert threads(8, 1, variable, "2") == 1
    assert threads(2, 2, variable, "5") == 1


@pytest.mark.parametrize("value", ["", "0", "-2", "two", "²"])
def test_what_is_no_number_of_processes_says_nothing(value: str) -> None:
    assert threads(8, 8, LOCAL_SIZES[0], value) == 8
