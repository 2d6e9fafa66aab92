"""The same bytes on aarch64, which has other instructions and FMA, and on s390x, whose bytes are the other way round.

qemu plays the processors; their Python is in a folder that is made once (``roots``). The kernels are built for them by
GCC's cross compilers.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import digest, halves, roots
from helpers.environments import here, needs_kernels, results

pytestmark = pytest.mark.qemu

SCRIPT = roots.CHECKOUT / "tests" / "helpers" / "digest.py"

OF_NUMPY_2 = ("LBFGS", "ConjugateGradient")
"""What needs the rules of NumPy 2 for types: Debian's for s390x is older, and gives there what it gives on x86-64."""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that copies the package for a machine, and skips where there is no such machine."""

    @cache
    def made(name: str) -> Path:
        try:
            roots.python(name)
        except roots.Missing as missing:
            pytest.skip(str(missing))
        return roots.install(tmp_path_factory.mktemp(name))

    return made


@pytest.fixture(scope="session")
def with_kernels(packages: Any) -> Any:
    """Return a function that builds the kernels for a machine into the copy of the package."""

    @cache
    def made(name: str) -> Path:
        package = packages(name)
        try:
            compiler = roots.compiler(name)
        except roots.Missing as missing:
            pytest.skip(str(missing))
        kernels = package / "refoptim" / "kernels"
        source_hash = runpy.run_path(str(kernels / "harness" / "source_hash.py"))["source_hash"]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CXX", compiler)
            patch.delenv("CXXFLAGS", raising=False)
            build = runpy.run_path(str(kernels / "host" / "build.py"))["build"]
            build(package / "refoptim" / "engines" / "_host.so", source_hash)
        return package

    return made


def run(name: str, package: Path, *arguments: str) -> dict[str, Any]:
    """Run Python on a machine and return the JSON that it prints."""
    done = subprocess.run(
        [*roots.python(name), *arguments],
        cwd=package,
        env=roots.environment(name, package),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return dict(json.loads(done.stdout))


def compare(name: str, package: Path, engine: str, *options: str) -> None:
    """Compare what a machine computes with what this one does; s390x has no bfloat16 and an old NumPy."""
    options = *options, f"--engine={engine}"
    found, expected = run(name, package, str(SCRIPT), *options), here(*options)
    assert found["machine"].split()[:2] == {"aarch64": ["aarch64", "little"], "s390x": ["s390x", "big"]}[name]
    left_out = () if name == "aarch64" else ("bfloat16", *OF_NUMPY_2)
    wanted = {key: x for key, x in results(expected).items() if not any(word in key for word in left_out)}
    compared = {key: found.get(key) for key in wanted}
    if left_out:
        del compared["all"], wanted["all"]
    print(f"{name} {engine}: {len(wanted)} hashes compared, {found['machine']}")
    assert len(wanted) > 25
    assert compared == wanted


@pytest.mark.parametrize("name", roots.MACHINES)
def test_numpy_computes_the_same_bytes(name: str, packages: Any) -> None:
    compare(name, packages(name), "numpy", "--few")


@pytest.mark.slow
def test_numpy_computes_all_the_same_bytes_on_aarch64(packages: Any) -> None:
    compare("aarch64", packages("aarch64"), "numpy")


@pytest.mark.parametrize("name", roots.MACHINES)
def test_kernels_compute_the_same_bytes(name: str, with_kernels: Any) -> None:
    needs_kernels()
    compare(name, with_kernels(name), "host", "--few")


@pytest.mark.slow
def test_kernels_compute_all_the_same_bytes_on_aarch64(with_kernels: Any) -> None:
    needs_kernels()
    compare("aarch64", with_kernels("aarch64"), "host")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["numpy", "host"])
def test_all_promises_hold_on_aarch64(engine: str, packages: Any, with_kernels: Any) -> None:
    package = (with_kernels if engine == "host" else packages)("aarch64")
    found = run("aarch64", package, "-m", "refoptim", "conformance", f"--engine={engine}", "--json")
    holds = sum(x["outcome"] == "holds" for x in found["results"])
    print(f"conformance on aarch64, {engine}: {holds} of {len(found['results'])} hold")
    assert found["ok"]
    assert holds > (500 if engine == "numpy" else 200)


POWERS = """
#include "host/cuda.h"
#include "harness/power.cuh"
#include "harness/number.cuh"
#include <stdio.h>
int main() {
    double x, y;
    while (scanf("%la %la", &x, &y) == 2) {
        float z = (float)x;
        printf("%a %04x %04x\\n", refoptim::power(x, y), refoptim::to_float16(z) & 0xFFFF, refoptim::to_bfloat16(z));
    }
}
"""


def program(name: str, text: str, folder: Path) -> list[str]:
    """Build a small program for a machine, and return the command that runs it; it needs no Python there."""
    try:
        command = [roots.MACHINES[name].qemu, "-L", str(roots.root(name)), str(folder / "program")]
        compiler = roots.compiler(name)
    except roots.Missing as missing:
        pytest.skip(str(missing))
    source = folder / "program.cpp"
    source.write_text(text, encoding="ascii")
    flags = runpy.run_path(str(roots.CHECKOUT / "kernels" / "host" / "build.py"))["FLAGS"]
    include = (f"-I{roots.CHECKOUT / 'kernels'}", "-Wno-unknown-pragmas")
    subprocess.run([compiler, *flags, *include, str(source), "-o", command[-1]], check=True)
    return command


@pytest.mark.parametrize("name", roots.MACHINES)
def test_powers_and_conversions_of_the_kernels(name: str, tmp_path: Path) -> None:
    """Against integers and NumPy here."""
    from refoptim.numerics.arith import to_bfloat16
    from refoptim.numerics.power import power

    command = program(name, POWERS, tmp_path)
    x = np.abs(halves.around_middles("float16", "float32")[0][::37].astype(np.float64))
    y = np.linspace(-7, 9, len(x))
    numbers = "\n".join(f"{a.hex()} {b.hex()}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    done = subprocess.run(command, input=numbers, env={**os.environ}, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [float.fromhex(row[0]) for row in rows] == [power(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    with np.errstate(over="ignore"):
        assert [int(row[1], 16) for row in rows] == x.astype(np.float16).view(np.uint16).tolist()
    bfloat16 = to_bfloat16(x.astype(np.float32)).view(np.uint32) >> 16
    assert [int(row[2], 16) for row in rows] == bfloat16.tolist()
    assert len(rows) > 2000
    print(f"{name}: {len(rows)} powers and conversions are the same")


def test_a_root_that_another_process_made_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packages(machine: Any, folder: Path) -> list[Path]:
        for made in (folder, tmp_path / "root" / "usr"):
            made.mkdir(parents=True)
        return []

    monkeypatch.setattr(roots, "_packages", packages)
    roots._make(roots.MACHINES["s390x"], tmp_path / "root")
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "usr"]


def test_the_script_is_the_one_that_runs_here() -> None:
    assert Path(digest.__file__).samefile(SCRIPT)


SCALARS = """
#define VARIANT this
#include "host/cuda.h"
#include "host/packed_storage.h"
#include "ademamix.cu"
#include <stdio.h>
int main() {
    refoptim::AdEMAMix::Hypers h = {.lr = 1, .betas = {0.5, 0.999, 0.25}, .alpha = 5, .t_alpha_beta3 = 10};
    for (int k = 18; k < 23; k++) {
        double counter = k - 1, record[64], *lr = nullptr, *c = &counter, *r = record;
        float* found_inf = nullptr;
        void* arguments[] = {&h, &lr, &c, &r, &found_inf};
        launch(refoptim::ademamix_scalars_float64_float64, 1, 1, arguments);
        printf("%g ", counter);
    }
}
"""


@pytest.mark.parametrize("name", roots.MACHINES)
def test_a_division_by_zero_is_noticed(name: str, tmp_path: Path) -> None:
    """AdEMAMix has one in its 20th step, with these settings."""
    done = subprocess.run(program(name, SCALARS, tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["18", "19", "-1", "21", "22"]
