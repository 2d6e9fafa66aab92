"""Compiles kernels for CUDA with NVRTC, NVIDIA's runtime compiler: it needs neither a driver nor a GPU.

The compiler is used directly because CuPy compiles with flush-to-zero, whatever options it is given.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

FLAGS = ("-std=c++20", "--fmad=false")
"""Options of every compilation: products are not contracted with sums, and subnormal numbers are kept."""

_PATTERNS = ("lib*/libnvrtc.so*", "bin/nvrtc64_*_0.dll", "bin/*/nvrtc64_*_0.dll")
_INCLUDE = re.compile(r'#include "(?!\.\./host/)([^"]+)"\n')


def expand(stem: str) -> str:
    """Return the source of ``kernels/<stem>.cu`` with the files it includes put in their places, each once.

    What ``HOST`` includes (``../host/…``) is left alone: no compiler for CUDA sees it.
    """
    return _expand(f"{stem}.cu", set())


def _expand(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    text = (files("refoptim.kernels") / name).read_text(encoding="utf-8").replace("#pragma once\n", "\n")
    parts = [f'#line 1 "{name}"\n']
    end = 0
    for include in _INCLUDE.finditer(text):
        line = text.count("\n", 0, include.end()) + 1
        parts += [text[end : include.start()], _expand(_beside(name, include[1]), seen), f'#line {line} "{name}"\n']
        end = include.end()
    return "".join([*parts, text[end:]])


def _beside(name: str, included: str) -> str:
    """Return the name of a file that is named in another one's words."""
    return included if included.startswith("harness/") else f"{name.rpartition('/')[0]}/{included}".lstrip("/")


def compile(  # noqa: A001
    source: str, arch: str, *, major: int | None = None, flags: tuple[str, ...] = FLAGS
) -> bytes:
    """Compile CUDA source for ``arch``: ``sm_90`` gives a binary for that architecture, ``compute_90`` PTX.

    ``major`` asks for a compiler of that major version of CUDA, where several are installed. RuntimeError says that
    there is none, or what the compiler said.
    """
    with compiled(source, arch, major, flags) as (nvrtc, program):
        return binary(nvrtc, program) if arch.startswith("sm_") else ptx(nvrtc, program)


@contextmanager
def compiled(
    source: str, arch: str, major: int | None = None, flags: tuple[str, ...] = FLAGS
) -> Iterator[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    """Give the compiler and what it made of CUDA source: PTX, and for a real architecture a binary as well."""
    nvrtc = _library(major)
    program = ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        options = [option.encode() for option in (*flags, f"--gpu-architecture={arch}")]
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if failed:
            log = _text(nvrtc, program, "ProgramLog").decode(errors="replace")
            raise RuntimeError(f"NVRTC failed for {arch}:\n{log}")
        yield nvrtc, program
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def binary(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> bytes:
    """Return the binary of a program."""
    return _output(nvrtc, program, "CUBIN")


def ptx(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> bytes:
    """Return the PTX of a program."""
    return _text(nvrtc, program, "PTX")


def only(entry: str) -> tuple[str, ...]:
    """Return the options that leave all entries of a kernel file out but one: each takes its time."""
    return "-DCHOOSE", f"-DCHOSEN_{entry}=~,1"


def version(major: int | None = None) -> tuple[int, int]:
    """Return the version of the compiler."""
    return _version(_library(major))


def architectures(major: int | None = None) -> list[int]:
    """Return the architectures the compiler knows: 75, 80, 86 …"""
    nvrtc, n = _library(major), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(n)))
    found = (ctypes.c_int * n.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(found))
    return list(found)


@cache
def _library(major: int | None) -> ctypes.CDLL:
    for path in _paths():
        try:
            nvrtc = ctypes.CDLL(path)
        except OSError:
            continue
        if major in (None, _version(nvrtc)[0]):
            return nvrtc
    wheel = "nvidia-cuda-nvrtc-cu12" if major == 12 else "nvidia-cuda-nvrtc"
    raise RuntimeError(
        f"NVRTC, the runtime compiler of CUDA{f' {major}' if major else ''}, was not found: "
        f"pip install {wheel}, or set CUDA_PATH to where CUDA is installed"
    )


def _paths() -> Iterator[str]:
    """Look into NVIDIA's Python packages, into CUDA_PATH and CUDA_HOME, and where the loader looks."""
    package = find_spec("nvidia")
    wheels = (package and package.submodule_search_locations) or ()
    roots = [root for wheel in wheels for root in Path(wheel).iterdir()]
    roots += [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    for root in roots:
        for pattern in _PATTERNS:
            yield from map(str, sorted(root.glob(pattern)))
    yield find_library("nvrtc") or "libnvrtc.so"


def _version(nvrtc: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def _output(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """Return an output that is text, without the NUL that ends it."""
    return _output(nvrtc, program, what).rstrip(b"\0")


def _check(nvrtc: ctypes.CDLL, code: int) -> None:
    if code:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC failed: {nvrtc.nvrtcGetErrorString(code).decode()}")
