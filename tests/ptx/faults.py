"""What must not happen in a kernel."""

from __future__ import annotations


class Fault(Exception):
    """Something that must not happen on a GPU."""


class NotKnown(Fault):
    """An instruction, or a form of one, that is not in the table: the contract forbids it, or nobody has needed it."""


class MemoryFault(Fault):
    """An access outside of arrays, to one that is not to be written, or that is not aligned to its size."""


class Race(Fault):
    """Two threads touch the same memory, one of them writing, with no barrier in between."""


class BarrierFault(Fault):
    """A barrier that not all threads of a block reach together."""


class Uninitialized(Fault):
    """A read of shared or local memory, or of a parameter of a function, that nobody has written."""
