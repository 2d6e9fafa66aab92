"""The norm of many arrays and clipping by it, in a few launches with nothing read back in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arith import Array, DType, arithmetic, storage
from ..engines.machine import Machine
from .sums import Sums, total
from .tables import Table

FIRST = {1.0: ("norm", "norm_magnitudes"), 2.0: ("sums", "sums_of_squares"), np.inf: ("norm", "norm_largest")}
"""The file and the name of the kernels that begin the sum, or find the maximum, that a norm is made of."""

Groups = dict[DType, list[int]]


def total_norm(machine: Machine, arrays: Sequence[Array], norm_type: float, number: DType) -> Array:
    """Return the norm of the norms of real arrays in C order, as an array of one element of dtype ``number``."""
    norms = machine.empty((len(arrays),), number)
    for dtype, places in _groups(arrays).items():
        _norms(machine, [arrays[i] for i in places], dtype, norm_type, norms, places)
    result = machine.empty((1,), number)
    _norms(machine, [norms], number, norm_type, result, [0])
    return result


def _groups(arrays: Sequence[Array]) -> Groups:
    """Return the places of the arrays of each dtype."""
    groups: Groups = {}
    for i, x in enumerate(arrays):
        groups.setdefault(x.dtype, []).append(i)
    return groups


def _norms(
    machine: Machine, arrays: Sequence[Array], dtype: DType, norm_type: float, norms: Array, places: Sequence[int]
) -> None:
    """Put the norms of arrays of one dtype at their places in ``norms``."""
    number = arithmetic(dtype)
    sums = Sums(machine, number, [total([machine.address(x)], x.size) for x in arrays])
    stem, name = FIRST[norm_type]
    others = FIRST[norm_type] if norm_type == np.inf else ("sums", "sums")
    sums.launch(stem, f"{name}_{dtype.name}", others=others)
    table, n = machine.upload(np.array(places, np.int64)), np.int64(len(places))
    entry, first = f"norm_place_{number.name}_{norms.dtype.name}", np.uint64(sums.results[0])
    machine.launch("norm", entry, 1, first, table, n, np.int64(norm_type == 2), norms)


def clip(machine: Machine, gradients: Sequence[Array], norm: Array, max_norm: float) -> None:
    """Multiply real gradients in C order by min(1, max_norm / (norm + 1e-6)); ``norm`` is an array of one element."""
    number = norm.dtype
    wide, narrow = machine.empty((1,), number), machine.empty((1,), np.dtype(np.float32))
    entry = f"norm_coefficient_{number.name}"
    machine.launch("norm", entry, 1, norm, number.type(max_norm), wide, narrow)
    for dtype, places in _groups(gradients).items():
        fields = [(gradients[i].size, machine.address(gradients[i])) for i in places]
        coefficient = wide if arithmetic(dtype) == number else narrow
        table = Table(machine, fields)
        table.launch("norm", f"norm_scale_{storage(dtype).name}", table.bucket((0, 0, 0, 0)), coefficient)
