"""Small libraries in C++ that show what is in the headers of kernels."""

from __future__ import annotations

import ctypes
import runpy
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pytest

KERNELS = Path(str(files("refoptim.kernels")))


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
