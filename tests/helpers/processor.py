"""Sets how the processor of this thread computes, as a library may that is loaded: x86-64 alone."""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FLUSHING = {"FTZ": 0x8000, "DAZ": 0x0040, "FTZ and DAZ": 0x8040}
"""The bits of MXCSR that lose subnormal numbers."""

PLAIN = 0x1F80
"""MXCSR as IEEE 754 has it: nothing is flushed, rounding to nearest even."""

needs_mxcsr = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"),
    reason="MXCSR is a register of x86-64, set here by a function of its calling convention on Linux",
)


def set_mxcsr(value: int) -> None:
    """Load MXCSR: ``ldmxcsr [rdi]; ret``."""
    _run(b"\x0f\xae\x17\xc3", ctypes.c_uint32(value))


def get_mxcsr() -> int:
    """Store MXCSR, without its flags: ``stmxcsr [rdi]; ret``."""
    found = ctypes.c_uint32()
    _run(b"\x0f\xae\x1f\xc3", found)
    return found.value & ~0x3F


def _run(code: bytes, argument: ctypes.c_uint32) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function(ctypes.addressof(argument))


@contextmanager
def mxcsr(bits: int) -> Iterator[None]:
    """Set bits of MXCSR inside the block."""
    set_mxcsr(PLAIN | bits)
    try:
        yield
    finally:
        set_mxcsr(PLAIN)
