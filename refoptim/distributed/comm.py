"""What a communicator is: how the ranks of a job exchange bytes, agree, and tell one another what went wrong.

Everything here is collective: all ranks call the same functions of their communicators in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import at, loaded_cupy, on_gpu, place


class RankError(RuntimeError):
    """Another rank could not take part in what all ranks do together, and nothing was done; its reason is told.

    Attributes:
        rank: the number of that rank; None where ranks differ from one another.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class Pending(ABC):
    """An exchange that was started."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until everything that this rank sends can be written to, and everything it receives is there."""


class Communicator(ABC):
    """What the ranks of a job talk through.

    Attributes:
        rank: the number of this rank, from 0.
        size: how many ranks there are.
        takes_gpu: whether arrays on a GPU can be exchanged as they are; else they go through the host.
        any_thread: whether other threads than the main one may call it, one at a time.
        is_beside: whether what is exchanged now goes on beside other work of this rank.
    """

    rank: int
    size: int
    takes_gpu = False
    any_thread = True
    is_beside = False

    @abstractmethod
    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        """Start to send ``sends[r]`` to each rank r, and to fill ``receives[r]`` with what comes from it.

        All are vectors of uint8, contiguous in memory, which nobody writes to, or looks at, before ``wait``. How much
        each rank sends to each other both know; what has no bytes is not sent, nor is what a rank has for itself.
        """

    @abstractmethod
    def agree(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of what the ranks say, number by number; each fits into 64 bits."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Return what all ranks say: plain data, in the order of the ranks. It takes longer than ``agree``."""


class _Done(Pending):
    def wait(self) -> None:
        """Everything is there."""


DONE = _Done()


class _Local(Communicator):
    """One process that is all there is."""

    rank, size, takes_gpu = 0, 1, True

    def start(self, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
        return DONE

    def agree(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def __repr__(self) -> str:
        return "LOCAL"


LOCAL: Communicator = _Local()
"""The communicator of a process that is alone."""


def flat_bytes(x: Array) -> Array:
    """Return the memory of an array that is contiguous as a vector of uint8."""
    return x.reshape(-1).view(np.uint8)


class _Staged(Pending):
    """An exchange of arrays on a GPU that goes through copies on the host."""

    def __init__(self, pending: Pending, sends: Sequence[Array], pairs: Sequence[tuple[Array, Array]]) -> None:
        self.pending, self.sends, self.pairs = pending, sends, pairs

    def wait(self) -> None:
        self.pending.wait()
        for there, here in self.pairs:
            with at(place(there)):
                there[...] = loaded_cupy().asarray(here)


def start(comm: Communicator, sends: Sequence[Array], receives: Sequence[Array]) -> Pending:
    """Start an exchange of arrays that lie anywhere: those on a GPU go through the host if they must."""
    if comm.takes_gpu or not any(map(on_gpu, (*sends, *receives))):
        return comm.start(sends, receives)
    others = [r != comm.rank for r in range(comm.size)]
    out = [x.get() if far and on_gpu(x) else np.empty(0, np.uint8) for x, far in zip(sends, others, strict=True)]
    into = [np.empty(x.size if far else 0, np.uint8) for x, far in zip(receives, others, strict=True)]
    pairs = [(x, y) for x, y in zip(receives, into, strict=True) if y.size]
    return _Staged(comm.start(out, into), out, pairs)


def together(comm: Communicator, local: Callable[[], Any], what: str = "") -> Any:
    """Return what a function returns on this rank, if it returns on every rank; else raise on all of them.

    Raises:
        RankError: it raised on another rank, which is named with its reason.
        BaseException: what it raised here.
    """
    try:
        value, error = local(), None
    except BaseException as raised:
        value, error = None, raised
    vote(comm, error, what)
    return value


def vote(comm: Communicator, error: BaseException | None, what: str = "") -> None:
    """Let all ranks raise if one has an error: that rank its own, the others a RankError."""
    if comm.agree([error is not None])[0]:
        raise_together(comm, error, what)


def raise_together(comm: Communicator, error: BaseException | None, what: str = "") -> None:
    """Raise the error of this rank, or a RankError with the first one that another rank has."""
    reasons = comm.gather(None if error is None else f"{type(error).__name__}: {error}".removesuffix(": "))
    if error is not None:
        raise error
    rank = next(r for r, reason in enumerate(reasons) if reason is not None)
    raise RankError(f"rank {rank}{what}: {reasons[rank]}", rank)
