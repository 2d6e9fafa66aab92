"""What this machine has and whether it computes as refoptim needs it; nothing heavy is imported to find out."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import __version__
from ..conformance import cases, goldens, record_lr
from ..engines import host, nvrtc
from ..engines.threads import get_num_threads
from ..numerics.ieee import check_rounding

PACKAGES = {
    "numpy": ("numpy",),
    "ml_dtypes": ("ml-dtypes",),
    "scipy": ("scipy",),
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "torch": ("torch",),
    "matplotlib": ("matplotlib",),
    "mpmath": ("mpmath",),
    "click": ("click",),
    "rich": ("rich",),
}
"""Packages that refoptim can use, and the names under which they are installed."""

USES = {"matplotlib": "draws what plot and accuracy show", "mpmath": "computes what accuracy compares with"}
"""What those packages are for that single commands need."""

SHOWN = 3
"""How many goldens with something wrong are named."""


class Finding(NamedTuple):
    """What was looked at, what was found, and whether that is as it must be; None where anything is right."""

    name: str
    value: str
    ok: bool | None = None


def examine() -> list[Finding]:
    """Look at everything."""
    return [*_versions(), *_engines(), *_arithmetic(), *_goldens()]


def _versions() -> Iterator[Finding]:
    yield Finding("refoptim", __version__)
    yield Finding("python", platform.python_version(), sys.version_info >= (3, 10))
    for name, distributions in PACKAGES.items():
        version = next(filter(None, map(_version, distributions)), "")
        needed = name == "numpy"
        use = f"; it {USES[name]}" if name in USES else ""
        yield Finding(name, (version or "not installed") + use, int(version.split(".")[0]) >= 2 if needed else None)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _engines() -> Iterator[Finding]:
    """Say which engines there are; without the kernels of one, the reference still runs on its arrays."""
    yield Finding("engine numpy", f"{get_num_threads()} of {os.cpu_count()} threads", True)
    yield _host()
    parts = ["CuPy" if find_spec("cupy") else "no CuPy", _devices(), _nvrtc()]
    lacks = [x for x in parts if x.startswith("no ")]
    yield Finding("engine cuda", ", ".join(lacks) or "; ".join(parts[1:]), None if lacks else True)


def _host() -> Finding:
    missing = host.missing().removeprefix("which ")
    if missing:
        return Finding("engine host", f"kernels {missing}", False if host.LIBRARY.exists() else None)
    machine = host.machine()
    compiler, threads = machine.kernels.refoptim_compiler, machine.kernels.refoptim_has_threads()
    compiler.restype = ctypes.c_char_p
    built = f"{machine.variant} of {', '.join(host.variants(machine.kernels))}, built by {compiler().decode()}"
    return Finding("engine host", built + ("" if threads else " without OpenMP: one thread"), True)


def _devices() -> str:
    """Name CUDA's devices, and the version of CUDA that their driver knows; they are looked at, not used."""
    cuda, count, version = _driver(), ctypes.c_int(), ctypes.c_int()
    if cuda is None:
        return "no CUDA driver"
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no CUDA device"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    names = [ctypes.create_string_buffer(100) for _ in range(count.value)]
    for device, name in enumerate(names):
        cuda.cuDeviceGetName(name, len(name), device)
    known = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return f"{', '.join(x.value.decode() for x in names)}; driver of CUDA {known}"


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


def _nvrtc() -> str:
    try:
        return "NVRTC " + ".".join(map(str, nvrtc.version()))
    except RuntimeError:
        return "no NVRTC"


def _arithmetic() -> Iterator[Finding]:
    yield Finding("byte order", sys.byteorder, sys.byteorder == "little")
    for dtype in (np.float32, np.float64):
        name = f"{np.dtype(dtype).name}: subnormals, rounding to nearest"
        try:
            check_rounding(np.array, dtype)
            yield Finding(name, "alive, to even", True)
        except RuntimeError as error:
            yield Finding(name, str(error), False)
    right = all(map(_is_root, np.sqrt(np.arange(2.0, 2000.0)).tolist(), range(2, 2000)))
    yield Finding("square roots", "correctly rounded" if right else "not correctly rounded", right)


def _is_root(x: float, square: int) -> bool:
    """Tell whether no double is nearer to a square root than ``x``, exactly."""
    half = Fraction(math.ulp(x)) / 2
    return (Fraction(x) - half) ** 2 <= square <= (Fraction(x) + half) ** 2


def _goldens() -> Iterator[Finding]:
    """Read all goldens, each of which carries a checksum, and say which are missing or belong to no case."""
    folder = goldens.folder()
    expected = [folder / witness / f"{stem}.json" for stem in cases.stems() for witness in goldens.witnesses(stem)]
    expected += record_lr.paths()
    problems = {path: _problem(path) for path in expected}
    problems |= dict.fromkeys(sorted({*folder.glob("*/*.json")} - {*expected}), "without cases")
    wrong = [f"{problem}: {path.parent.name}/{path.name}" for path, problem in problems.items() if problem]
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    yield Finding("goldens", ", ".join([f"{len(expected)} files in {folder}", *wrong[:SHOWN]]) + more, not wrong)


def _problem(path: Path) -> str:
    """Say what is wrong with a golden; nothing if it is as it was recorded."""
    if not path.exists():
        return "missing"
    try:
        record_lr.read(path) if path.parent.name == "lr" else goldens.read(path)
    except (goldens.GoldenError, OSError):
        return "damaged"
    return ""
