"""Small libraries in C++ that show what is in the headers of kernels."""

from __future__ import annotations

import ctypes
import runpy
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pytest

from refoptim.engines import host

KERNELS = Path(str(files("refoptim.kernels")))

REGISTERS = {"sse2": 16, "avx2": 32, "avx512": 64}
"""Bytes of a register of each variant that processors with instructions of x86 have."""

ROW = 64
"""Bytes of the largest."""


def built(text: str, folder: Path, variant: str = "") -> ctypes.CDLL:
    """Build a library as kernels are built, for any processor or for a variant; skip where no compiler is."""
    build = runpy.run_path(str(KERNELS / "host/build.py"))
    flags: Iterable[str] = build["X86"][variant] if variant else ()
    source, target = folder / "library.cpp", folder / "library.so"
    source.write_text(text)
    try:
        compiler = build["Compiler"]()
    except build["BuildError"] as error:
        pytest.skip(f"no C++ compiler: {error}")
    compiler.run(*build["FLAGS"], *flags, f"-I{KERNELS}", "-shared", source, "-o", target)
    return ctypes.CDLL(str(target))


def built_for(variant: str, text: str, folder: Path) -> ctypes.CDLL:
    """Build a library for a variant; skip where this processor has none of it, or there are no kernels."""
    compiled = host.compiled()
    if compiled is None or variant not in host.variants(compiled):
        pytest.skip(f"this processor has no {variant}, or there are no kernels for it")
    return built(text, folder, variant)
