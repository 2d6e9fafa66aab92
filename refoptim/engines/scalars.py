"""Scalars and registers of steps, as the kernels of this computer compute them: to the rule's bits, in less time."""

from __future__ import annotations

from functools import cache, partial
from struct import Struct
from typing import Any

import numpy as np

from ..numerics.arith import arithmetic
from ..step.plan import Bucket
from ..step.rule import Registers, register_dtype
from . import steps
from .kernel import counts
from .launches import Launch

MOST = 16
"""Steps that are computed at once, if settings stay as they are for so long."""

WHOLE, STEPS = 1 << 10, 1 << 32
"""Whole numbers up to this size, and products of two and the number of a step, are worth the same as doubles."""

Found = tuple[Registers, bytes]
"""The registers after a step, and what is to be written for it."""


class Compiled:
    """What computes the scalars of a bucket's steps, as long as its settings stay.

    Args:
        launch: updates the bucket.
        bucket: the bucket; its settings are such that doubles have all their bits.
        registers: those before a step, of one type.
        head: what is to be written before each record.
        largest: a number that is larger does not fit the arrays.
    """

    def __init__(self, launch: Launch, bucket: Bucket, registers: Registers, head: bytes, largest: float) -> None:
        kernel, dtype = launch.kernel, arithmetic(launch.dtype)
        first: Any = next(iter(registers.values()), register_dtype(bucket.rule).type())
        self.names, self.type, self.head = [*registers], type(first), head
        self.counters = np.zeros((MOST + 1, 1 + len(registers)))
        self.records = np.zeros((MOST, len(kernel.record)), dtype)
        before: Any = memoryview(self.counters[0])
        self.write: Any = partial(Struct(f"{len(before)}d").pack_into, before, 0)
        entry = f"{kernel.name}_scalars_{dtype.name}_{first.dtype.name}_ahead"
        fixed = steps.hypers(kernel, bucket), self.counters, self.records, np.float64(largest / 2)
        self.call = cache(lambda many: launch.machine.launching(kernel.stem, entry, 1, *fixed, np.int64(many)))

    def after(self, k: int, registers: Registers, many: int) -> list[Found]:
        """Return what is found of so many steps, ``k`` the first.

        They end before one for which the rule has to be asked: a bit is in doubt, or there may be an error, which it
        describes.
        """
        self.write(k - 1, *registers.values())
        self.call(many)()
        found, records, size = list[Found](), self.records.tobytes(), self.records.strides[0]
        for i, (counted, *after) in enumerate(self.counters[1 : many + 1].tolist()):
            if counted != k + i or counted > STEPS:
                break
            registers = dict(zip(self.names, map(self.type, after), strict=True))
            found.append((registers, self.head + records[i * size : (i + 1) * size]))
        return found


def compiled(launch: Launch, bucket: Bucket, registers: Registers, head: bytes, largest: float) -> Compiled | None:
    """Return what computes the scalars of a bucket's steps, None where its rule or its settings ask for Python."""
    kernel = launch.kernel
    if kernel.sums_over_all or not (bucket.rule.counts_steps and counts(bucket.rule)):
        return None
    if not all(_is_double(getattr(bucket.h, name)) for name, _ in kernel.hypers):
        return None
    return Compiled(launch, bucket, registers, head, largest)


def _is_double(x: Any) -> bool:
    """Tell whether Python computes with a setting as with a double, or several."""
    if type(x) is tuple:
        return all(map(_is_double, x))
    return x is None or type(x) in (float, bool) or (type(x) is int and abs(x) <= WHOLE)
