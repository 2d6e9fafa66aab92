"""What launches of kernels over whole vectors have in common."""

from __future__ import annotations

PART = 1 << 12
"""Elements that a block works on in one go, as in ``vector.cuh``; no result depends on it."""


def blocks(n: int) -> int:
    """Return the number of blocks for ``n`` elements."""
    return -(-n // PART)
