"""The kernels under the sanitizers for addresses and undefined behaviour, as a device and as this computer run them.

Races and barriers are found where PTX is executed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.sanitized.build import COMPILER, HERE, build

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
HOST = (*ADDRESS, "-DHOST", "-DVARIANT=sanitized", "-Wno-unknown-pragmas", "-Wno-psabi")

OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "PYTHONMALLOC": "malloc",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
}

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        not COMPILER or sys.platform != "linux", reason="there is no C++ compiler, or this is not Linux"
    ),
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with the library of the sanitizer loaded first, at addresses that it can work with."""
    paths = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    command = [*([found, "-R"] if (found := shutil.which("setarch")) else []), sys.executable, *map(str, arguments)]
    environment = {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(paths)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def skip_without(tmp_path: Path) -> None:
    """Skip the test if the sanitizers are not there, or do not work with Python here."""
    try:
        library = build(tmp_path / "probe.so", *ADDRESS, kernels="none")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the compiler has no {ADDRESS[0]}: {error.stderr[-200:]}")
    probe = run("-c", f"import ctypes, numpy; ctypes.CDLL({str(library)!r}); print('done')")
    if probe.stdout != "done\n":
        pytest.skip(f"{ADDRESS[0]} does not run here: {probe.stderr[-200:]}")


@pytest.mark.parametrize(
    ("flags", "blocks", "threads"),
    [(ADDRESS, 2, 3), pytest.param(ADDRESS, 100, 1, marks=pytest.mark.slow), (HOST, 3, 1)],
    ids=["2x3", "100x1", "host"],
)
def test_kernels_run_clean(flags: tuple[str, ...], blocks: int, threads: int, tmp_path: Path) -> None:
    skip_without(tmp_path)
    library = build(tmp_path / "sanitized.so", *flags)
    found = run(HERE / "run.py", library, blocks, threads)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-4000:]


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("broken_store", "heap-buffer-overflow"),
        ("broken_load", "heap-buffer-overflow"),
        ("beyond", "heap-buffer-overflow"),
        ("broken_overflow", "signed integer overflow"),
        ("broken_alignment", "misaligned address"),
    ],
)
def test_mistakes_are_found(broken: str, complaint: str, tmp_path: Path) -> None:
    skip_without(tmp_path)
    library = build(tmp_path / "sanitized.so", *ADDRESS, kernels="sgd.cu" if broken == "beyond" else "none")
    found = run(HERE / "run.py", library, 1, 3, broken)
    assert found.returncode and complaint in found.stderr, found.stderr[-4000:]
