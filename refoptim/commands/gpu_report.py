"""What was run on a GPU, and on which: reports that the documents show."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..conformance import strict
from ..engines import cuda, nvrtc
from ..formats.files import replace

ROOT = Path(__file__).parents[2]

REPORT = ROOT / "docs" / "gpu.json"
"""The last reports of each kind."""


def write(kind: str, found: Any, path: Path = REPORT, where: dict[str, Any] | None = None) -> None:
    """Put what was found into the file of reports, in the place of the last report of its kind."""
    reports = read(path) | {kind: {"where": where or surroundings(), "found": found}}
    replace(path, (json.dumps(reports, indent=1) + "\n").encode())


def read(path: Path = REPORT) -> dict[str, Any]:
    """Return the reports there are."""
    return strict.read_object(path) if path.is_file() else {}


def surroundings(device: int = 0) -> dict[str, Any]:
    """Return the GPU, the versions of all that takes part, the date, and the commit (None outside of a checkout)."""
    gpu = cuda.machine(device)
    cupy: Any = import_module("cupy")
    return {
        **_properties(gpu, cupy.cuda.runtime, device),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "CUDA of the driver": _version(cupy.cuda.runtime.driverGetVersion()),
        "CUDA of CuPy": _version(cupy.cuda.runtime.runtimeGetVersion()),
        "NVRTC": ".".join(map(str, nvrtc.version(gpu.major))),
        "CuPy": cupy.__version__,
        "NumPy": np.__version__,
        "torch": _installed("torch"),
        "Python": platform.python_version(),
        "refoptim": __version__,
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _properties(gpu: cuda.Cuda, runtime: Any, device: int) -> dict[str, Any]:
    """Return what a GPU tells of itself; after a kernel went astray it tells nothing, and that is reported."""
    try:
        properties = runtime.getDeviceProperties(device)
    except RuntimeError as error:
        return {"device": f"does not answer: {error}"}
    return {
        "device": properties["name"].decode(),
        "compute capability": gpu.capability / 10,
        "memory in GiB": round(properties["totalGlobalMem"] / 2**30, 1),
    }


def _installed(name: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _output(*command: str) -> str | None:
    """Return the first line that a program prints, None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None
