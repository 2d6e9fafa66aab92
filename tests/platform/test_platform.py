"""The same bytes whatever the processor, the C library, NumPy's dispatch, the locale, hashes, threads and time zone."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import digest
from helpers.environments import here, needs_kernels, results, run

FMA_OFF = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-AVX2,-FMA4,-AVX2_Usable,-FMA_Usable"}


def dispatch_off() -> dict[str, str]:
    """Return what makes NumPy and OpenBLAS do without all instructions that not every processor of the kind has."""
    from numpy._core import _multiarray_umath as core

    found = [x for x in core.__cpu_dispatch__ if core.__cpu_features__.get(x)]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Prescott"}


ENVIRONMENTS: dict[str, tuple[Callable[[], dict[str, str]], list[str]]] = {
    "FMA off": (lambda: FMA_OFF, []),
    "dispatch off": (dispatch_off, []),
    "hashes 0, C, one thread": (
        lambda: {"PYTHONHASHSEED": "0", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "UTC"},
        ["--threads=1"],
    ),
    "hashes 12345, five threads": (
        lambda: {"PYTHONHASHSEED": "12345", "TZ": "Pacific/Kiritimati", "OMP_NUM_THREADS": "3", "PYTHONUTF8": "1"},
        ["--threads=5"],
    ),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_few_results_are_the_same_bytes(name: str) -> None:
    environment, options = ENVIRONMENTS[name]
    found = run(environment(), "--few", *options)
    assert len(found) > 60
    assert results(found) == results(here("--few"))


@pytest.mark.platform
@pytest.mark.parametrize("engine", ["numpy", "host"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_all_results_are_the_same_bytes(name: str, engine: str) -> None:
    if engine == "host":
        needs_kernels()
    environment, options = ENVIRONMENTS[name]
    found = run(environment(), f"--engine={engine}", *options)
    assert len(found) > (300 if engine == "numpy" else 200)
    assert results(found) == results(here(f"--engine={engine}"))


@pytest.mark.platform
@pytest.mark.parametrize("name", ["FMA off", "dispatch off"])
def test_all_promises_hold(name: str) -> None:
    """In the environment as it is the tests of the command see to it."""
    environment = ENVIRONMENTS[name][0]()
    code = "import refoptim; refoptim.__path__.append({!r}); from refoptim.commands.main import main; main()"
    code = code.format(str(Path(digest.__file__).parents[2]))
    command = [sys.executable, "-c", code, "conformance", "--engine=numpy", "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"]
    assert sum(x["outcome"] == "holds" for x in found["results"]) > 500


@pytest.mark.parametrize(("name", "sensor"), [("FMA off", "C library"), ("dispatch off", "SIMD")])
def test_the_environments_change_what_is_not_promised(name: str, sensor: str) -> None:
    """Without this the comparisons above would show nothing."""
    found = run(ENVIRONMENTS[name][0](), "--few")
    if found[sensor] == here("--few")[sensor]:
        pytest.skip(f"{name} changes no bit of the {sensor} on this machine: it shows nothing here")


def test_a_locale_with_a_comma_changes_nothing(tmp_path: Path) -> None:
    if not shutil.which("localedef") or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("there is nothing to make a German locale of (Debian's package locales)")
    subprocess.run(["localedef", "-f", "UTF-8", "-i", "de_DE", str(tmp_path / "de_DE.UTF-8")], check=True)
    environment = {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8"}
    code = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.str(1.5))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1,5\n"
    found = run(environment, "--few", "--locale=de_DE.UTF-8")
    assert results(found) == results(here("--few"))


def test_nothing_sums_floats_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sum`` adds floats with a correction from Python 3.12 on, and without before."""

    def integers(terms: Any, start: Any = 0) -> Any:
        found = [*terms]
        assert not any(isinstance(x, (float, np.floating)) for x in [*found, start])
        return add(found, start)

    add = builtins.sum
    monkeypatch.setattr(builtins, "sum", integers)
    with pytest.raises(AssertionError):
        sum([0.5, 0.25])
    found = [*digest.trajectories("numpy", True), *digest.schedules(True), *digest.closures(True), *digest.averages()]
    assert len(found) > 45
