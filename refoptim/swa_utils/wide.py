"""Float32 arrays behind those of 16 bits: averages, in which small steps are not lost, and master copies of weights.

An array of 16 bits is what the float32 array behind it rounds to. Where it is not, somebody else has written to it, and
what was written counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import HOST, at, copied, place

CHUNK = 1 << 16
"""Elements that are compared at once."""


def refresh(wide: Array, narrow: Array) -> None:
    """Write into ``wide`` what ``narrow`` has where that is not what ``wide`` rounds to."""
    with at(place(wide)), np.errstate(all="ignore"):
        for w, x in _pieces(wide, narrow):
            differs = w.astype(x.dtype) != x
            if place(x) is None or differs.any():
                w[...] = np.where(differs, x.astype(w.dtype), w)


def behind(narrow: Array, wide: Array) -> Array:
    """Return ``wide``, or a copy with what ``narrow`` has where that is not what ``wide`` rounds to."""
    with at(place(wide)), np.errstate(all="ignore"):
        if not any((w.astype(x.dtype) != x).any() for w, x in _pieces(wide, narrow)):
            return wide
    wide = copied(wide)
    refresh(wide, narrow)
    return wide


def _pieces(wide: Array, narrow: Array) -> Iterator[tuple[Array, Array]]:
    """Yield parts of two arrays; of others than NumPy's, the whole."""
    if place(wide) != HOST or not wide.size:
        yield wide, narrow
        return
    if wide.flags.c_contiguous and narrow.flags.c_contiguous:
        wide, narrow = wide.reshape(-1), narrow.reshape(-1)
    rows = max(1, CHUNK * len(wide) // wide.size)
    for i in range(0, len(wide), rows):
        yield wide[i : i + rows], narrow[i : i + rows]
