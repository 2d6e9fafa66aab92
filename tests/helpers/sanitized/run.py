"""Does the work for every kernel on a library that was built with a sanitizer.

``python run.py LIBRARY BLOCKS THREADS`` does all of it, and ``python run.py LIBRARY BLOCKS THREADS broken_…`` runs a
kernel that holds a mistake.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import conftest  # noqa: F401
import refoptim
from helpers.sanitized.build import Sanitized
from helpers.work import pieces, scalars
from refoptim.engines.kernel import kernel_of
from refoptim.engines.launches import Launch, Step, Tensor


def beyond(machine: Sanitized) -> None:
    """A launch whose table says of an array that it has one number more than it has."""
    kernel = kernel_of(refoptim.SGD)
    assert kernel
    p, g = np.zeros(50, np.float32), np.ones(50, np.float32)
    launch = Launch(machine, kernel, [Tensor(p, g, (None,), None)])
    launch.tables[0] += 1
    launch.run(Step(scalars(refoptim.SGD, refoptim.SGD([p]).param_groups[0], p.dtype), False))


def main(library: str, blocks: str, threads: str, broken: str = "") -> None:
    """Do all work, or run something that is broken."""
    machine = Sanitized(Path(library), int(blocks), int(threads))
    if broken == "beyond":
        beyond(machine)
    elif broken:
        machine.launch("broken", broken, machine.blocks, np.zeros(8, np.int64), np.int64(8))
    else:
        with machine.in_place(), np.errstate(all="ignore"):
            for piece in pieces():
                piece.do()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
