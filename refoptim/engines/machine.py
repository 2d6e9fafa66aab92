"""What runs kernels: the processors of this computer (``host``) or a GPU (``cuda``)."""

from __future__ import annotations

from typing import Any, Protocol

from ..numerics.arith import Array, DType


class Machine(Protocol):
    """Runs kernels by name on arrays of one kind, in the order in which they are launched."""

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run ``entry`` of ``kernels/<stem>.cu`` on ``blocks`` blocks, which work on so many ``elements`` in all.

        An argument is an array of this machine (the kernel gets its address), None (a null pointer), a NumPy scalar or
        a structured NumPy scalar (passed by value).
        """

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array."""

    def upload(self, table: Array) -> Array:
        """Copy a NumPy array to this machine, or return an earlier copy of the same: it is not to be written to."""

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
