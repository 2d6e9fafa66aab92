"""Whether this process computes as IEEE 754 says: the bits of the results are written here, not computed.

A thread's processor can be set to lose subnormal numbers, in results (FTZ) or in operands (DAZ), or to round
otherwise. ``torch.set_flush_denormal`` does that, and so does loading a library that was linked with ``-ffast-math``.
What is expected would then be computed wrongly too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arith import Array

FLUSHED = "turns subnormal results into zeros (FTZ)"
IGNORED = "takes subnormal operands for zeros (DAZ)"
ROUNDED = "does not round to nearest even"

CURE = (
    "a library set the processor so, for instance one built with -ffast-math, or torch.set_flush_denormal(True): "
    "start a process without that"
)


class Sample(NamedTuple):
    """An operation, the bits of its operands and of its result, and what is wrong if the result is another."""

    operation: str
    operands: tuple[int, ...]
    result: int
    fault: str


SAMPLES: dict[type[np.floating[Any]], tuple[Sample, ...]] = {
    np.float32: (
        Sample("mul", (0x1C800000, 0x1C800000), 0x00000200, FLUSHED),  # 2**-70 * 2**-70
        Sample("sub", (0x00C00000, 0x00800000), 0x00400000, FLUSHED),  # 1.5 * 2**-126 - 2**-126
        Sample("div", (0x00800000, 0x40000000), 0x00400000, FLUSHED),  # 2**-126 / 2
        Sample("mul", (0x00400000, 0x40000000), 0x00800000, IGNORED),  # 2**-127 * 2
        Sample("add", (0x00400000, 0x00400000), 0x00800000, IGNORED),  # 2**-127 + 2**-127
        Sample("div", (0x00400000, 0x00400000), 0x3F800000, IGNORED),  # 2**-127 / 2**-127
        Sample("sqrt", (0x00000002,), 0x1A800000, IGNORED),  # of 2**-148
        Sample("add", (0x3F800000, 0x33800000), 0x3F800000, ROUNDED),  # 1 + half an ulp
        Sample("add", (0xBF800000, 0xB3800000), 0xBF800000, ROUNDED),
        Sample("add", (0x3F800001, 0x33800000), 0x3F800002, ROUNDED),  # 1 + an ulp and a half
    ),
    np.float64: (
        Sample("mul", (0x1ED0000000000000, 0x1ED0000000000000), 0x0000000000004000, FLUSHED),  # 2**-530 * 2**-530
        Sample("sub", (0x0018000000000000, 0x0010000000000000), 0x0008000000000000, FLUSHED),
        Sample("div", (0x0010000000000000, 0x4000000000000000), 0x0008000000000000, FLUSHED),
        Sample("mul", (0x0008000000000000, 0x4000000000000000), 0x0010000000000000, IGNORED),
        Sample("add", (0x0008000000000000, 0x0008000000000000), 0x0010000000000000, IGNORED),
        Sample("div", (0x0008000000000000, 0x0008000000000000), 0x3FF0000000000000, IGNORED),
        Sample("sqrt", (0x0000000000000001,), 0x1E60000000000000, IGNORED),  # of 2**-1074
        Sample("add", (0x3FF0000000000000, 0x3CA0000000000000), 0x3FF0000000000000, ROUNDED),
        Sample("add", (0xBFF0000000000000, 0xBCA0000000000000), 0xBFF0000000000000, ROUNDED),
        Sample("add", (0x3FF0000000000001, 0x3CA0000000000000), 0x3FF0000000000002, ROUNDED),
    ),
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "sqrt": lambda x: np.sqrt(np.asarray(x)),
}

ELEMENTS = 33
"""How often a sample is computed at once: in the vectors of a loop, and in what is left over."""


def check_rounding(make: Callable[[Array], Any], dtype: type[np.floating[Any]]) -> None:
    """Raise RuntimeError unless arrays that ``make`` makes of NumPy's keep subnormals and round to nearest even."""
    with np.errstate(all="ignore"):
        faults = [sample.fault for sample in SAMPLES[dtype] if _computed(make, dtype, sample) != {sample.result}]
    if faults:
        raise RuntimeError(f"{dtype.__name__} arithmetic in this process {' and '.join(dict.fromkeys(faults))}; {CURE}")


def check_arithmetic() -> None:
    """Raise RuntimeError unless this thread computes as IEEE 754 says; those it starts do as it does."""
    for dtype in SAMPLES:
        check_rounding(np.asarray, dtype)


def _computed(make: Callable[[Array], Any], dtype: type[np.floating[Any]], sample: Sample) -> set[int]:
    """Return the bits of the results of a sample."""
    unsigned = f"u{np.dtype(dtype).itemsize}"
    operands = [make(np.full(ELEMENTS, bits, unsigned).view(dtype)) for bits in sample.operands]
    return set(np.asarray(OPERATIONS[sample.operation](*operands)).view(unsigned).tolist())
