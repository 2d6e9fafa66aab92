"""What runs kernels: the processors of this computer (``host``) or a GPU (``cuda``)."""

from __future__ import annotations

from typing import Any, Protocol

from ..numerics.arith import Array, DType
from ..step.changes import Change


class Machine(Protocol):
    """Runs kernels by name on arrays of one kind, in the order in which they are launched."""

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run ``entry`` of ``kernels/<stem>.cu`` on ``blocks`` blocks, which work on so many ``elements`` in all.

        An argument is an array of this machine (the kernel gets its address), None (a null pointer), a NumPy scalar or
        a structured NumPy scalar (passed by value).
        """

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made; whoever makes it keeps the arguments until then."""

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array."""

    def upload(self, table: Array) -> Array:
        """Copy a NumPy array to this machine, or return an earlier copy of the same: it is not to be written to."""

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""


class Recorder:
    """Writes down the launches on a machine that are yet to be made, and keeps what they use.

    Attributes:
        changes: the launches, in order.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.changes: list[Change] = []
        self._used: list[Any] = []

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Write a launch down; see ``Machine``."""
        self.changes.append(self.launching(stem, entry, blocks, *arguments, elements=elements))

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made."""
        self._used += arguments
        return self.machine.launching(stem, entry, blocks, *arguments, elements=elements)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array, which lives as long as this."""
        self._used.append(self.machine.empty(shape, dtype))
        return self._used[-1]

    def upload(self, table: Array) -> Array:
        """Copy a NumPy array to the machine; the copy lives as long as this."""
        self._used.append(self.machine.upload(table))
        return self._used[-1]

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
        return self.machine.address(x)
