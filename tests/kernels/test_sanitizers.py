"""The kernels under the sanitizers for addresses, undefined behaviour and races between real threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.emulator.emulator import COMPILER, HERE, build

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
THREAD = ("-fsanitize=thread", "-g1")
BLOCKS = (*THREAD, "-DBLOCKS_AT_ONCE")
HOST = (*ADDRESS, "-DHOST", "-DVARIANT=emulator", "-Wno-unknown-pragmas", "-Wno-psabi")

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


def run(flags: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with the library of a sanitizer loaded first, at addresses that it can work with."""
    names = ("libtsan.so" if flags[0] == THREAD[0] else "libasan.so", "libstdc++.so")
    paths = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in names
    ]
    command = [*([found, "-R"] if (found := shutil.which("setarch")) else []), sys.executable, *map(str, arguments)]
    environment = {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(paths)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def skip_without(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Skip the test if a sanitizer is not there, or does not work with Python here."""
    try:
        library = build(tmp_path / "probe.so", *flags, kernels="none")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the compiler has no {flags[0]}: {error.stderr[-200:]}")
    probe = run(flags, "-c", f"import ctypes, numpy; ctypes.CDLL({str(library)!r}); print('done')")
    if probe.stdout != "done\n":
        pytest.skip(f"{flags[0]} does not run here: {probe.stderr[-200:]}")


@pytest.mark.parametrize(
    ("flags", "blocks", "threads"),
    [(ADDRESS, 2, 3), (THREAD, 2, 3), (BLOCKS, 3, 1), (HOST, 3, 1)],
    ids=["addresses and undefined behaviour", "races in a block", "races between blocks", "host"],
)
def test_kernels_run_clean(flags: tuple[str, ...], blocks: int, threads: int, tmp_path: Path) -> None:
    skip_without(flags[:3], tmp_path)
    library = build(tmp_path / "emulator.so", *flags)
    found = run(flags, HERE / "work.py", library, blocks, threads)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-4000:]


@pytest.mark.parametrize(
    ("flags", "broken", "complaint"),
    [
        (ADDRESS, "broken_store", "heap-buffer-overflow"),
        (ADDRESS, "broken_load", "heap-buffer-overflow"),
        (ADDRESS, "beyond", "heap-buffer-overflow"),
        (ADDRESS, "broken_overflow", "signed integer overflow"),
        (ADDRESS, "broken_alignment", "misaligned address"),
        (THREAD, "broken_barrier", "data race"),
        ((*THREAD, "-DNO_BARRIERS"), "sums", "data race"),
        (BLOCKS, "broken_grid", "data race"),
        (THREAD, "broken_divergence", "threads end while others of their block wait"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_mistakes_are_found(flags: tuple[str, ...], broken: str, complaint: str, tmp_path: Path) -> None:
    skip_without(flags, tmp_path)
    kernels = {"beyond": "sgd.cu", "sums": "sums.cu"}.get(broken, "none")
    library = build(tmp_path / "emulator.so", *flags, kernels=kernels)
    blocks, threads = (3, 1) if flags == BLOCKS else (1, 3)
    found = run(flags, HERE / "work.py", library, blocks, threads, broken)
    assert found.returncode and complaint in found.stderr, found.stderr[-4000:]
