"""Sums along axes by kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.kernels import dtype_of
from refoptim.engines.host import Host
from refoptim.numerics import arith, tree

sums = pytest.importorskip("refoptim.kernels.harness.sums")

FUNCTIONS = {"sums": (arith.widen, 1), "sums_of_squares": (tree.square, 1), "sums_of_products": (arith.mul, 2)}


def run(machine: Host, entry: str, dtype: str, wanted: list[tuple[tuple[Any, ...], int, int, int]]) -> list[Any]:
    """Sum arrays of shape (outer, n, inner) along n; return the results."""
    number = arith.arithmetic(dtype_of(dtype))
    alongs = [sums.Along(tuple(map(machine.address, xs)), *shape) for xs, *shape in wanted]
    launches = sums.Sums(machine, number, alongs)
    launches.launch("harness/sums", f"{entry}_{dtype}")
    lengths = [outer * inner for _, outer, _, inner in wanted]
    flat = launches.memory[len(launches.memory) - sum(lengths) :]
    return np.split(flat, np.cumsum(lengths)[:-1])
