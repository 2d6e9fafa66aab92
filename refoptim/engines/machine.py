"""What runs kernels: the processors of this computer (``host``) or a GPU (``cuda``)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from ..numerics.arith import Array, DType
from ..step.changes import Change


def key_of(table: Array) -> tuple[Hashable, ...]:
    """Return what tells a table from others by its content."""
    return table.dtype.str, table.shape, table.tobytes()


class Machine(Protocol):
    """Runs kernels by name on arrays of one kind, in the order in which they are launched."""

    def __hash__(self) -> int:
        """Tell it from others."""

    def launch(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> None:
        """Run ``entry`` of ``kernels/<stem>.cu`` on ``blocks`` blocks, which work on so many ``elements`` in all.

        An argument is an array of this machine (the kernel gets its address), None (a null pointer), a NumPy scalar or
        a structured NumPy scalar (passed by value).
        """

    def launching(self, stem: str, entry: str, blocks: int, *arguments: Any, elements: int | None = None) -> Change:
        """Return a launch that is yet to be made; whoever makes it keeps the arguments until then."""

    def launchings(self, stem: str, entry: str, blocks: int, *columns: Array) -> list[Change]:
        """Return launches of one kernel that are yet to be made, with arguments by columns.

        A column is a NumPy vector of one number per launch: values, or addresses of arrays that the caller keeps.
        """

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array."""

    def upload(self, table: Array, key: tuple[Hashable, ...] | None = None) -> Array:
        """Copy a NumPy array to this machine, or return an earlier copy of the same: it is not to be written to.

        ``key`` is the ``key_of`` a table that is uploaded often, made once.
        """

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""

    def chunk(self, elements: int) -> int:
        """Return how many elements a block updates in one go, of so many in all; no result depends on it."""


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

    def launchings(self, stem: str, entry: str, blocks: int, *columns: Array) -> list[Change]:
        """Return launches that are yet to be made."""
        return self.machine.launchings(stem, entry, blocks, *columns)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Make an array, which lives as long as this."""
        self._used.append(self.machine.empty(shape, dtype))
        return self._used[-1]

    def upload(self, table: Array, key: tuple[Hashable, ...] | None = None) -> Array:
        """Copy a NumPy array to the machine; the copy lives as long as this."""
        self._used.append(self.machine.upload(table, key))
        return self._used[-1]

    def address(self, x: Array) -> int:
        """Return where the first element of an array lies in memory."""
        return self.machine.address(x)

    def chunk(self, elements: int) -> int:
        """Return how many elements a block updates in one go."""
        return self.machine.chunk(elements)
