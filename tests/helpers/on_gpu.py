"""Arrays go to a GPU and back, and optimizers are compared across."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.rooms import assert_equal_bits, members
from refoptim import SparseGrad


def on(cupy: Any, x: Any, device: int = 0) -> Any:
    """Copy an array, or a sparse gradient, to a GPU."""
    if isinstance(x, SparseGrad):
        return SparseGrad(on(cupy, x.indices, device), on(cupy, x.values, device), x.shape)
    with cupy.cuda.Device(device):
        return cupy.array(x)


def off(x: Any) -> Any:
    """Copy an array to this computer."""
    return x.get() if hasattr(x, "get") else x


def assert_equal_runs(ours: Any, theirs: Any, where: object = "") -> None:
    """Fail unless an optimizer of CuPy arrays holds what one of NumPy arrays does, all of it where its parameter is."""
    for p, q in zip(members(ours), members(theirs), strict=True):
        assert_equal_bits(off(p.data), q.data, where)
        mine, other = ours.state.get(p, {}), theirs.state.get(q, {})
        assert list(mine) == list(other), where
        for key, x in mine.items():
            assert_equal_bits(off(x), other[key], (where, key))
            assert isinstance(x, type(p.data)) == isinstance(other[key], np.ndarray), (where, key)
            assert isinstance(x, (int, np.generic)) or x.device == p.data.device, (where, key)
