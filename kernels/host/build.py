"""Builds the kernels into a library for this computer, with its C++ compiler; the standard library is all it takes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent

COMPILERS = ("c++", "g++", "clang++")

FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-Wall", "-DHOST"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
"""None of them changes a bit of a result: no contraction, no reordering, no flushing of subnormals."""

X86 = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "sse2": ("-march=x86-64",),
}
"""The variants of the library and what each is compiled for, the best first."""

OTHER = {"baseline": ()}

HARMLESS = ("-D", "-I", "-L", "-W", "-B", "-g", "-pipe", "-fsanitize", "-fstack-protector", "-fno-omit-frame-pointer")
"""What flags from outside begin with that cannot change a result; all others are left out."""


class BuildError(Exception):
    """No library can be built here."""


class Compiler:
    """The C++ compiler that ``CXX`` names, or the first that is found, with the harmless ones of ``CXXFLAGS``."""

    def __init__(self) -> None:
        words = shlex.split(os.environ.get("CXX", "")) or [*filter(shutil.which, COMPILERS)][:1]
        if not words:
            raise BuildError("no C++ compiler was found")
        flags = [*words[1:], *shlex.split(os.environ.get("CXXFLAGS", ""))]
        self.left_out = [x for x in flags if x.startswith("-") and not x.startswith(HARMLESS)]
        self.command = [x for x in [*words, *flags] if x == words[0] or x.startswith(HARMLESS)]

    def run(self, *arguments: str | Path) -> str:
        """Run the compiler and return what it prints; raise BuildError with the first error if it fails."""
        try:
            done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise BuildError(f"the C++ compiler cannot be run: {error}") from None
        if done.returncode:
            lines = [*filter(None, done.stderr.splitlines())]
            first = next((x for x in lines if "error" in x), f"exit status {done.returncode}")
            raise BuildError(f"{self.command[0]} fails: {first}")
        return done.stdout.strip()


def build(target: Path, source_hash: str, only: Iterable[str] = ()) -> str:
    """Build the library and return a line about it; raise BuildError if that cannot be done.

    Args:
        target: Where to put it, replacing at once what is there.
        source_hash: What it says it was built from.
        only: The variants to build, all by default. Of those the compiler does not know are left out.
    """
    compiler = Compiler()
    machine = compiler.run("-dumpmachine")
    known = X86 if machine.startswith(("x86_64", "amd64")) else OTHER
    wanted = {name: known[name] for name in only or known}
    with TemporaryDirectory() as folder:
        objects = Path(folder)
        openmp = _openmp(compiler, objects)
        errors = _compile_all(compiler, objects, wanted, openmp)
        built = [name for name, error in errors.items() if not error]
        if not built:
            raise BuildError(str(next(iter(errors.values()))))
        _link(compiler, objects, built, openmp, source_hash, target)
    return _report(compiler, built, errors, openmp)


def _openmp(compiler: Compiler, folder: Path) -> tuple[str, ...]:
    """Return the flag for threads, nothing if it does not work; the compiler is seen to work at all."""
    source = folder / "probe.cpp"
    source.write_text("void probe(int* x) {\n#pragma omp parallel for\nfor (int i = 0; i < 9; i++) x[i] = i;\n}\n")
    try:
        compiler.run(*FLAGS, "-fopenmp", "-shared", source, "-o", folder / "probe.so")
    except BuildError:
        compiler.run(*FLAGS, "-shared", source, "-o", folder / "probe.so")
        return ()
    return ("-fopenmp",)


def _compile_all(
    compiler: Compiler, folder: Path, variants: dict[str, tuple[str, ...]], openmp: tuple[str, ...]
) -> dict[str, BuildError | None]:
    """Compile the kernels for all variants side by side; return what went wrong with each."""

    def compile_one(name: str) -> BuildError | None:
        flags = [*FLAGS, *openmp, f"-DVARIANT={name}", *variants[name]]
        try:
            compiler.run(*flags, "-c", HERE / "host.cpp", "-o", folder / f"{name}.o")
        except BuildError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(variants, pool.map(compile_one, variants), strict=True))


def _link(
    compiler: Compiler, folder: Path, built: list[str], openmp: tuple[str, ...], source_hash: str, target: Path
) -> None:
    facts = (f"-DVARIANTS={' '.join(built)}", f"-DSOURCE_HASH={source_hash}")
    library = folder / "library"
    objects = [folder / f"{name}.o" for name in built]
    compiler.run(*FLAGS, *openmp, *facts, "-shared", HERE / "variants.cpp", *objects, "-o", library)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(library, beside)
    beside.replace(target)


def _report(compiler: Compiler, built: list[str], errors: dict[str, BuildError | None], openmp: tuple[str, ...]) -> str:
    line = f"kernels built by {compiler.command[0]} for {', '.join(built)}"
    line += "" if openmp else ", without threads (no OpenMP)"
    line += "".join(f"; not for {name}: {error}" for name, error in errors.items() if error)
    return line + (f"; flags left out: {' '.join(compiler.left_out)}" if compiler.left_out else "")
