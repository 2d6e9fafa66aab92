"""A stand-in for CuPy that needs no GPU: its "GPUs" are memory of this computer, its kernels those of the host build.

It shows the logic of what is built on CuPy: which arrays go where, on which stream and device, how often something is
launched, uploaded or waited for, and that nothing takes these arrays for NumPy's. It shows nothing of GPUs: not that a
binary loads, not what a GPU computes, no launch limits but the simplest, and no races. CuPy's own elementwise functions
flush subnormal float32 numbers to zero; those here do not.

What it refuses is what CuPy refuses: implicit conversion, arrays of another device, copies to a GPU while a stream is
captured, and more. ``counters`` counts; ``world`` says what the computer has.
"""

from __future__ import annotations

from typing import Any

from . import _array, cuda
from ._array import *  # noqa: F403
from ._array import asarray, asnumpy, from_dlpack, full_like, ndarray, zeros_like
from ._gpu import Counters, World, world
from ._raw import CUDADriverError, RawModule

__version__ = "14.2.0"


def __getattr__(name: str) -> Any:
    return getattr(_array, name)


__all__ = [
    "CUDADriverError",
    "Counters",
    "RawModule",
    "World",
    "asarray",
    "asnumpy",
    "cuda",
    "from_dlpack",
    "full_like",
    "ndarray",
    "world",
    "zeros_like",
]
