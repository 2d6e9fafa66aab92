"""Scalars and registers of steps, as the kernels of this computer compute them: to the rule's bits, in less time."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

from ..numerics.arith import arithmetic
from ..step.plan import Bucket
from ..step.rule import Registers, register_dtype
from . import steps
from .kernel import counts
from .launches import Launch

WHOLE, STEPS = 1 << 10, 1 << 32
"""Whole numbers up to this size, and products of two and the number of a step, are worth the same as doubles."""


class Compiled:
    """What computes the scalars of a bucket's steps, as long as its settings stay.

    Args:
        launch: updates the bucket.
        bucket: the bucket; its settings are such that doubles have all their bits.
        registers: those before a step, of one type.
        prepared: what is to be handed on with each record.
        largest: a number that is larger does not fit the arrays.
    """

    def __init__(self, launch: Launch, bucket: Bucket, registers: Registers, prepared: Any, largest: float) -> None:
        kernel, dtype = launch.kernel, arithmetic(launch.dtype)
        first: Any = next(iter(registers.values()), register_dtype(bucket.rule).type())
        self.names, self.type, self.prepared, self.limit = [*registers], type(first), prepared, largest / 2
        self.counter, self.record = np.zeros(1 + len(registers)), np.zeros(len(kernel.record), dtype)
        self.numbers: Any = memoryview(self.counter)  # type: ignore[arg-type]
        self.write: Any = Struct(f"{len(self.counter)}d").pack_into
        self.scalars: Any = memoryview(self.record)  # type: ignore[arg-type]
        entry = f"{kernel.name}_scalars_{dtype.name}_{first.dtype.name}"
        arguments = steps.hypers(kernel, bucket), None, self.counter, self.record, None
        self.call = launch.machine.launching(kernel.stem, entry, 1, *arguments)

    def after(self, k: int, registers: Registers) -> tuple[Registers, tuple[bytes, Any]] | None:
        """Return the registers after step ``k``, and its record with what goes along.

        None where the rule has to be asked: a bit is in doubt, or there may be an error, which it describes.
        """
        self.write(self.counter, 0, k - 1, *registers.values())
        self.call()
        counted, *after = self.numbers
        if counted != k or k > STEPS or not sum(map(abs, (*self.scalars, *after))) < self.limit:
            return None
        return dict(zip(self.names, map(self.type, after), strict=True)), (self.scalars.tobytes(), self.prepared)


def compiled(launch: Launch, bucket: Bucket, registers: Registers, prepared: Any, largest: float) -> Compiled | None:
    """Return what computes the scalars of a bucket's steps, None where its rule or its settings ask for Python."""
    kernel = launch.kernel
    if kernel.sums_over_all or not counts(bucket.rule):
        return None
    if not all(_is_double(getattr(bucket.h, name)) for name, _ in kernel.hypers):
        return None
    return Compiled(launch, bucket, registers, prepared, largest)


def _is_double(x: Any) -> bool:
    """Tell whether Python computes with a setting as with a double, or several."""
    if type(x) is tuple:
        return all(map(_is_double, x))
    return x is None or type(x) in (float, bool) or (type(x) is int and abs(x) <= WHOLE)
