"""Installing builds the kernels for this computer, and succeeds without them where that cannot be done."""

from __future__ import annotations

import ctypes
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pytest

from helpers import ROOT
from refoptim.commands import doctor
from refoptim.engines import host, nvrtc

KERNELS = ROOT / "kernels"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")

needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")
needs_library = pytest.mark.skipif(
    not host.LIBRARY.exists(), reason="the kernels were not built when refoptim was installed"
)


class Wheel(NamedTuple):
    """What making a wheel said about the kernels at last, the files in it, and what it said before."""

    line: str
    files: dict[str, bytes]
    progress: list[str]


Build = Callable[..., Wheel]

BUILT = ("adamax", "rprop")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what an installation is made of, with two kernel files to build instead of all, which takes longer."""
    folder = tmp_path_factory.mktemp("checkout")
    left_out = shutil.ignore_patterns("__pycache__", ".*", "_host.so", "golden")
    for name in ("refoptim", "kernels", "conformance"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for path in (folder / "kernels").rglob("*.cu"):
        if path.stem not in BUILT:
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def build(checkout: Path) -> Build:
    """Return a function that makes a wheel of the copy."""
    pytest.importorskip("setuptools.command.bdist_wheel", reason="setuptools 77 is not installed")

    def run(**environment: str) -> Wheel:
        for left in ("build", "dist"):
            shutil.rmtree(checkout / left, ignore_errors=True)
        inherited = {key: x for key, x in os.environ.items() if key not in ("CXX", "CXXFLAGS")}
        command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
        done = subprocess.run(command, cwd=checkout, env=inherited | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *progress, line = [x for x in done.stdout.splitlines() if x.startswith("refoptim: ")]
        (wheel,) = (checkout / "dist").iterdir()
        assert re.fullmatch(r"refoptim-.*-py3-none-(?!any).*\.whl", wheel.name)
        with ZipFile(wheel) as archive:
            return Wheel(line, {name: archive.read(name) for name in archive.namelist()}, progress)

    return run


@pytest.fixture(scope="module")
def plain(build: Build) -> Wheel:
    """Make a wheel with the compiler that is found, as it is found."""
    return build()


LIBRARY = "refoptim/engines/_host.so"


def text(library: ctypes.CDLL, name: str) -> str:
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    return str(function().decode())


def loaded(wheel: Wheel, folder: Path) -> ctypes.CDLL:
    """Load the library of a wheel."""
    path = folder / "loaded.so"
    path.write_bytes(wheel.files[LIBRARY])
    return ctypes.CDLL(str(path))


def script(path: Path, *refused: str) -> str:
    """Write a compiler that knows all but some flags."""
    tests = "".join(f'case " $* " in *" {x} "*) echo "error: what is {x}" >&2; exit 1;; esac\n' for x in refused)
    path.write_text(f'#!/bin/sh\n{tests}exec {COMPILER} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": ""}, "no C.. compiler was found"),
        ({"CXX": "/nowhere/c++"}, "the C.. compiler cannot be run: .*/nowhere/c...*"),
        ({"CXX": f"{sys.executable} -c"}, ".*python.* fails: .*"),
    ],
)
def test_without_a_compiler_that_works_there_are_no_kernels(
    build: Build, environment: dict[str, str], reason: str
) -> None:
    line, files, progress = build(**environment)
    assert re.fullmatch(f"refoptim: installed without fused kernels for NumPy arrays: {reason}", line)
    assert LIBRARY not in files and "refoptim/kernels/rprop.cu" in files and not progress


@needs_compiler
def test_a_compiler_without_cpp20_is_one_that_does_not_work(build: Build, tmp_path: Path) -> None:
    line, files, _ = build(CXX=script(tmp_path / "old", "-std=c++20"))
    assert line.endswith("fails: error: what is -std=c++20") and LIBRARY not in files


@needs_compiler
def test_a_wheel_holds_the_library_and_its_sources(plain: Wheel, checkout: Path, tmp_path: Path) -> None:
    line, files, _ = plain
    library = loaded(plain, tmp_path)
    variants = text(library, "refoptim_variants").split()
    assert line == f"refoptim: kernels built by {Path(COMPILER).name} for {', '.join(variants)}"
    assert all(getattr(library, f"{variant}_{name}_float32") for variant in variants for name in BUILT)
    assert library.refoptim_supports(variants[-1].encode()) == 1 and not library.refoptim_supports(b"abacus")
    for name, content in files.items():
        if name.startswith("refoptim/kernels/"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    of_wheel, of_checkout = (hash_of(x) for x in (tmp_path / "refoptim/kernels", checkout / "kernels"))
    assert text(library, "refoptim_source_hash") == of_wheel == of_checkout
    folder = checkout / "kernels"
    kernels = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if "__pycache__" not in path.parts}
    assert {f"refoptim/kernels/{name}" for name in kernels} <= files.keys()


def hash_of(folder: Path) -> str:
    return str(runpy.run_path(str(folder / "harness/source_hash.py"))["source_hash"]())


@needs_compiler
def test_flags_from_outside_cannot_change_a_bit(build: Build, plain: Wheel) -> None:
    """The library is the same to the byte, whatever the flags; only those that change no result are passed on."""
    unsafe = "-Ofast -ffast-math -ffp-contract=fast -march=native -mfma -mrecip"
    line, files, _ = build(CXX=f"{COMPILER} -funsafe-math-optimizations", CXXFLAGS=f"-Wextra {unsafe}")
    assert line.endswith(f"; flags left out: -funsafe-math-optimizations {unsafe}")
    assert files[LIBRARY] == plain.files[LIBRARY]


@needs_compiler
def test_what_a_compiler_does_not_know_is_left_out(build: Build, tmp_path: Path) -> None:
    wheel = build(CXX=script(tmp_path / "poor", "-fopenmp", "-march=x86-64-v4"))
    library = loaded(wheel, tmp_path)
    assert text(library, "refoptim_variants") in ("avx2 sse2", "baseline")
    assert not library.refoptim_has_threads()
    left_out = [x for x in wheel.progress if x.endswith("left out")]
    assert len(left_out) == (len(BUILT) if "avx512" in wheel.line else 0) and all("for avx512" in x for x in left_out)


def test_the_hash_is_of_every_source(checkout: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkout / "kernels", tmp_path / "kernels")
    before = hash_of(folder)
    for name in ("rprop.cu", "harness/number.cuh", "host/pack.h", "host/host.cpp", "host/build.py"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert hash_of(folder) != before
        path.write_bytes(content)
        assert hash_of(folder) == before


@needs_compiler
def test_the_build_says_how_far_it_is(plain: Wheel, tmp_path: Path) -> None:
    """The first line names what is built, one for each file and variant follows, and none of them is said twice."""
    variants = text(loaded(plain, tmp_path), "refoptim_variants").split()
    first, *others = plain.progress
    assert re.fullmatch(rf"refoptim: compiling kernels for {', '.join(variants)}: about \d+ s on \d+ processors", first)
    pairs = {f"{name} for {variant}" for name in BUILT for variant in variants}
    found = [re.fullmatch(r"refoptim: (\d+) of (\d+): (.*) compiled", x) for x in others]
    assert [(x[1], x[2]) for x in found if x] == [(str(i + 1), str(len(pairs))) for i in range(len(pairs))]
    assert {x[3] for x in found if x} == pairs


def test_files_that_are_hard_to_compile_are_there() -> None:
    names = runpy.run_path(str(KERNELS / "host/build.py"))["HARD_FILES"]
    assert {*names} < {path.stem for path in KERNELS.rglob("*.cu")}


def exported() -> list[str]:
    """Return the names that the installed library shows, as the linker sees them."""
    nm = shutil.which("nm")
    if not nm or not sys.platform.startswith("linux"):
        pytest.skip("nm, which lists the names in a library, is not installed")
    done = subprocess.run([nm, "-D", "--defined-only", host.LIBRARY], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


@needs_library
def test_every_variant_has_every_entry() -> None:
    names = exported()
    variants = text(ctypes.CDLL(str(host.LIBRARY)), "refoptim_variants").split()
    found = {x: {name.removeprefix(f"{x}_") for name in names if name.startswith(f"{x}_")} for x in variants}
    sources = "".join(path.read_text(encoding="utf-8") for path in KERNELS.rglob("*.cu"))
    stems = re.findall(r"^ENTRIES\((\w+),", sources, re.MULTILINE)
    storages = ("float64", "float32", "float16", "bfloat16", "float16_master", "bfloat16_master")
    assert len(stems) > 10
    assert {f"{stem}_{storage}" for stem in stems for storage in storages} <= found[variants[0]]
    assert all(x == found[variants[0]] for x in found.values())


@needs_library
def test_no_code_is_shared_between_files_or_variants() -> None:
    """Code that the linker takes from one variant for all would not run on the processors of the others.

    What two files call by the same name may differ.
    """
    variants = text(ctypes.CDLL(str(host.LIBRARY)), "refoptim_variants").split()
    stems = "|".join(path.stem for path in KERNELS.rglob("*.cu"))
    any_of = "|".join(variants)
    own = re.compile(rf"refoptim_[a-z_]+|({any_of})_\w+|_Z.*\d+refoptim_({any_of})_({stems}).*")
    assert not [name for name in exported() if not own.fullmatch(name)]


def engine(name: str) -> doctor.Finding:
    (found,) = [x for x in doctor.examine() if x.name == f"engine {name}"]
    return found


@needs_library
def test_doctor_shows_the_kernels_of_this_computer() -> None:
    found = engine("host")
    assert found.ok and found.value.startswith(f"{host.machine().variant} of ")
    assert ("GCC" in found.value) != ("lang" in found.value)


def test_doctor_says_what_is_wrong_with_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "none.so")
    assert engine("host").ok is None and engine("host").value.startswith("kernels were not built when")
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "damaged.so")
    host.LIBRARY.write_bytes(b"\x7fELF")
    assert engine("host").ok is False and engine("host").value.startswith("kernels cannot be loaded")


@needs_compiler
def test_doctor_notices_a_library_of_other_sources(
    plain: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(plain, tmp_path)
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "loaded.so")
    assert engine("host").ok is False and "other sources" in engine("host").value


class Driver:
    """Answers as a driver of CUDA 13.1 with some devices."""

    def __init__(self, *devices: str) -> None:
        self.devices = devices

    def cuInit(self, _: int) -> int:
        return 0 if self.devices else 100

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.devices)
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13010
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:
        name.value = self.devices[device].encode()[: size - 1]
        return 0


def test_doctor_says_what_cuda_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("NVRTC was not found")

    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "_driver", lambda: None)
    monkeypatch.setattr(nvrtc, "version", missing)
    assert engine("cuda") == ("engine cuda", "no CuPy, no CUDA driver, no NVRTC", None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_driver", Driver)
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 5))
    assert engine("cuda") == ("engine cuda", "no CUDA device", None)
    monkeypatch.setattr(doctor, "_driver", lambda: Driver("A", "B"))
    assert engine("cuda") == ("engine cuda", "A, B; driver of CUDA 13.1; NVRTC 13.5", True)
