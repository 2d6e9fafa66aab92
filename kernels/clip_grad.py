"""The norm of many arrays and clipping by it, in a few launches with nothing read back in between."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from refoptim.engines.fused import in_line
from refoptim.engines.machine import Machine, Recorder
from refoptim.engines.workspace import Workspace
from refoptim.numerics.arith import Array, DType, arithmetic, storage
from refoptim.step.changes import Change

from .harness.sums import SUMMED, Sums, total
from .harness.tables import Table

FIRST = {
    1.0: ("clip_grad", "clip_grad_magnitudes"),
    2.0: ("harness/sums", "sums_of_squares"),
    np.inf: ("clip_grad", "clip_grad_largest"),
}
"""The file and the name of the kernels that begin the sum, or find the maximum, that a norm is made of."""


def norm_of_norms(machine: Machine, arrays: Sequence[Array], order: float, number: DType) -> Any:
    """Return the norm of the norms of real arrays, of dtype ``number``."""
    arrays, norms = [in_line(machine, x) for x in arrays], machine.empty((len(arrays),), number)
    for dtype, places in _groups(arrays).items():
        _norms(machine, [arrays[i] for i in places], dtype, order, norms, places)
    norm = machine.empty((1,), number)
    _norms(machine, [norms], number, order, norm, [0])
    return norm.reshape(())[()]


def _groups(arrays: Sequence[Array]) -> dict[DType, list[int]]:
    """Return the places of the arrays of each dtype."""
    groups: dict[DType, list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault(x.dtype, []).append(i)
    return groups


def _norms(
    machine: Machine, arrays: Sequence[Array], dtype: DType, order: float, norms: Array, places: Sequence[int]
) -> None:
    """Put the norms of arrays of one dtype at their places in ``norms``."""
    number = arithmetic(dtype)
    sums = Sums(machine, number, [total([machine.address(x)], x.size) for x in arrays])
    stem, name = FIRST[order]
    sums.launch(stem, f"{name}_{storage(dtype).name}", others=FIRST[order] if order == np.inf else SUMMED)
    table, n = machine.upload(np.array(places, np.int64)), np.int64(len(places))
    entry, first = f"clip_grad_place_{number.name}_{norms.dtype.name}", np.uint64(sums.results[0])
    machine.launch("clip_grad", entry, 1, first, table, n, np.int64(order == 2), norms)


def scale(
    machine: Machine, gradients: Sequence[Array], total_norm: Any, max_norm: float, workspace: Workspace
) -> list[Change]:
    """Return what multiplies real gradients in place by the coefficient of a total norm."""
    machine = Recorder(machine)
    number, lines = total_norm.dtype, [in_line(machine, x) for x in gradients]
    norm = machine.upload(np.array([total_norm])) if isinstance(total_norm, np.generic) else total_norm
    coefficients = [machine.empty((1,), np.dtype(name)) for name in ("float64", "float32")]
    entry = f"clip_grad_coefficient_{number.name}"
    machine.launch("clip_grad", entry, 1, norm, number.type(max_norm), *coefficients)
    for dtype, places in _groups(lines).items():
        table = Table(machine, [(lines[i].size, machine.address(lines[i])) for i in places])
        coefficient = coefficients[arithmetic(dtype) == np.float32]
        entry = f"clip_grad_scale_{storage(dtype).name}"
        table.launch("clip_grad", entry, table.bucket((0, 0, 0, 0)), coefficient)
    workspace.used += [lines, machine]
    copied = [(x, line) for x, line in zip(gradients, lines, strict=True) if x is not line]
    return [*machine.changes, *(partial(setitem, x, ..., line) for x, line in copied)]
