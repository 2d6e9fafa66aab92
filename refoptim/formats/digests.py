"""The digest of an array: SHA-256 of its layout and of the digests of its leaves, 1 MiB of its bytes each.

.. code-block:: text

    sha256("float32 3 4\\n" + sha256(bytes 0 … 2^20 - 1) + sha256(bytes 2^20 … 2^21 - 1) + …)

The leaves can be computed by several threads, or by processes that hold parts of the array.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from .strict import Layout

LEAF = 1 << 20
"""Bytes of a leaf."""

AHEAD = 32
"""Leaves that wait to be digested at most, before the one who brings them waits too."""


class Digest:
    """Takes the bytes of an array in pieces of whole leaves, but for the last, while threads digest them."""

    def __init__(self, found: Layout, pool: ThreadPoolExecutor, waiting: deque[Future[bytes]]) -> None:
        self.found, self.pool, self.waiting = found, pool, waiting
        self.leaves: list[Future[bytes]] = []

    def update(self, piece: memoryview) -> None:
        """Take a piece; its memory must stay as it is until the digest has been asked for.

        ``waiting`` are the leaves of all arrays that the pool has been given.
        """
        leaves = [self.pool.submit(_leaf, piece[i : i + LEAF]) for i in range(0, len(piece), LEAF)]
        self.leaves += leaves
        self.waiting.extend(leaves)
        while len(self.waiting) > AHEAD:
            self.waiting.popleft().result()

    def hexdigest(self) -> str:
        """Return the digest of all that was taken."""
        return joined(self.found, (leaf.result() for leaf in self.leaves))


def joined(found: Layout, leaves: Iterable[bytes]) -> str:
    """Return the digest of an array from those of its leaves."""
    whole = sha256((" ".join([found.dtype, *map(str, found.shape)]) + "\n").encode())
    for leaf in leaves:
        whole.update(leaf)
    return whole.hexdigest()


def _leaf(piece: Any) -> bytes:
    return sha256(piece).digest()
