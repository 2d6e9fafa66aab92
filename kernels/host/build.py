"""Builds the kernels into a library for this computer, with its C++ compiler; the standard library is all it takes."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from itertools import islice, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).parent

COMPILERS = ("c++", "g++", "clang++")

FLAGS = (
    *("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-DHOST"),
    *("-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
"""None of them changes a bit of a result: no contraction, no reordering, no flushing of subnormals."""

HARD = ("-O3", "--param=max-unswitch-level=1")
"""Takes twice as long as ``-O2``: for files whose loops it makes faster. Unlimited, it takes another twice as long."""

HARD_FILES = ("adafactor", "adam8bit", "muon", "order")

SECONDS = 2.0
"""What a file takes for a variant on an idle processor, in the mean of all."""

X86 = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "sse2": ("-march=x86-64",),
}
"""The variants of the library and what each is compiled for, the best first."""

OTHER = {"baseline": ()}

SEARCH = ("-I", "-L", "-B", "-isystem", "-iquote", "-idirafter", "-isysroot", "--sysroot")

VALUED = ("-D", *SEARCH)
"""Flags whose value may be a word of its own."""

HARMLESS = re.compile(
    rf"({'|'.join(SEARCH)})=?.+|-W(?![alp],).*|-Wl,-rpath[,=][^,]+|-Wl,-z,(relro|now)|-g.*|-pipe|-stdlib=.+"
    r"|--gcc-toolchain=.+|-fsanitize.*|-fstack-protector.*|-fno-omit-frame-pointer|-f(debug|file|macro)-prefix-map=.+"
    r"|-fdiagnostics.*"
)
"""Flags from outside that cannot change a result. With ``-D`` of names that the kernels do not know, all that is let
through: a list of flags that do change one would never be whole."""

EDITS = ("CCC_OVERRIDE_OPTIONS",)
"""Variables by which a compiler changes its own command line; it does not get them."""


class BuildError(Exception):
    """No library can be built here."""


class Compiler:
    """The C++ compiler that ``CXX`` names, or the first that is found, with the harmless ones of ``CXXFLAGS``."""

    def __init__(self) -> None:
        words = _words("CXX") or [*filter(shutil.which, COMPILERS)][:1]
        if not words:
            raise BuildError("no C++ compiler was found")
        self.program = [words[0], *takewhile(_is_program, words[1:])]  # ccache g++
        self.command, self.left_out = [*self.program], list[str]()
        for flag in _flags([*words[len(self.program) :], *_words("CXXFLAGS")]):
            (self.command if _is_harmless("".join(flag)) else self.left_out).extend(flag)

    def run(self, *arguments: str | Path) -> str:
        """Run the compiler and return what it prints; raise BuildError with the first error if it fails."""
        try:
            command, known = [*self.command, *arguments], {k: x for k, x in os.environ.items() if k not in EDITS}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=known)
        except OSError as error:
            raise BuildError(f"the C++ compiler cannot be run: {error}") from None
        if done.returncode:
            lines = [*filter(None, done.stderr.splitlines())]
            first = next((x for x in lines if "error" in x), f"exit status {done.returncode}")
            raise BuildError(f"{shlex.join(self.program)} fails: {first}")
        return done.stdout.strip()


def _words(variable: str) -> list[str]:
    """Return what a variable of the environment holds, in words as a shell would make them."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise BuildError(f"{variable} cannot be read: {error}") from None


def _is_program(word: str) -> bool:
    return word[0] not in "-@" and shutil.which(word) is not None and not re.search(r"\.(o|a|so)\b", word)


def _flags(words: Iterable[str]) -> Iterator[list[str]]:
    """Yield each flag with its value."""
    rest = iter(words)
    for word in rest:
        yield [word, *islice(rest, word in VALUED)]


def _is_harmless(flag: str) -> bool:
    if flag in VALUED:
        return False
    if not flag.startswith("-D"):
        return bool(HARMLESS.fullmatch(flag))
    name = re.split(r"\W", flag[2:], maxsplit=1)[0]
    reserved = name.startswith("__") and not re.fullmatch(r"__STDC_\w+_MACROS", name)
    return bool(name) and not reserved and name not in _known_names()


@cache
def _known_names() -> set[str]:
    """Return all words in the sources: a macro of such a name could change them."""
    folder = HERE.parent
    sources = sorted([*folder.rglob("*.cu"), *folder.rglob("*.cuh"), *HERE.glob("*.h"), *HERE.glob("*.cpp")])
    return {name for path in sources for name in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


class Job(NamedTuple):
    """A kernel file to compile for a variant."""

    source: Path
    variant: str
    flags: tuple[str, ...]

    def run(self, compiler: Compiler, folder: Path) -> Path | BuildError:
        """Compile it; return the object, or what went wrong."""
        target = folder / f"{self.variant}_{self.source.stem}.o"
        kernels, source = self.source.stem, f"../{self.source.relative_to(HERE.parent).as_posix()}"
        names = (f"-DVARIANT={self.variant}", f"-DKERNELS={kernels}", f"-DSOURCE={source}")
        try:
            compiler.run(*FLAGS, *self.flags, *names, "-c", HERE / "host.cpp", "-o", target)
        except BuildError as error:
            return error
        return target


Objects = dict[str, list[Path] | BuildError]
"""The objects of each variant, or why there are none."""


def build(
    target: Path,
    source_hash: str,
    only: Iterable[str] = (),
    say: Callable[[str], None] = lambda line: None,
    earlier: Iterable[Path] = (),
) -> str:
    """Build the library and return a line about it; raise BuildError if that cannot be done.

    A library that the same compiler built whole from the same sources is taken as it is.

    Args:
        target: Where to put it, replacing at once what is there.
        source_hash: What it says it was built from.
        only: The variants to build, all by default. Of those the compiler does not know are left out.
        say: Takes a line about what is being done.
        earlier: Where libraries may lie that were built before, beside ``target``.
    """
    compiler = Compiler()
    machine = compiler.run("-dumpmachine")
    known = X86 if machine.startswith(("x86_64", "amd64")) else OTHER
    with TemporaryDirectory() as name:
        folder = Path(name)
        openmp = _openmp(compiler, folder)
        variants = {name: (*known[name], *openmp) for name in only or known}
        recipe = _recipe(compiler, variants, source_hash)
        for path in (target, *earlier):
            if _is_whole(path, recipe):
                _put(target, path.read_bytes())
                return f"kernels are those that {shlex.join(compiler.program)} built before"
        objects = _compile_all(compiler, folder, variants, say)
        library = _link(compiler, folder, _built(objects), openmp, source_hash).read_bytes()
    whole = not any(isinstance(x, BuildError) for x in objects.values())
    _put(target, library + _stamp(recipe, library) if whole else library)
    return _report(compiler, objects, openmp)


def _recipe(compiler: Compiler, variants: Mapping[str, tuple[str, ...]], source_hash: str) -> str:
    """Return a hash of all that a library depends on."""
    parts = [source_hash, compiler.command, compiler.run("--version"), sorted(variants.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _stamp(recipe: str, library: bytes) -> bytes:
    """Return what is put behind a library that has all its variants: loading one does not read so far."""
    return f"\nrefoptim {recipe} {hashlib.sha256(library).hexdigest()}\n".encode()


def _is_whole(path: Path, recipe: str) -> bool:
    """Tell whether a file is the library that would be built, undamaged."""
    data = path.read_bytes() if path.is_file() else b""
    size = len(_stamp(recipe, b""))
    return data[-size:] == _stamp(recipe, data[:-size])


def _put(target: Path, data: bytes) -> None:
    """Write the library, replacing at once what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(target)


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
    compiler: Compiler, folder: Path, variants: dict[str, tuple[str, ...]], say: Callable[[str], None]
) -> Objects:
    """Compile all kernel files for all variants side by side."""
    jobs, workers, results = _jobs(variants), os.cpu_count() or 1, dict[Job, Path | BuildError]()
    seconds = round(SECONDS * len(jobs) / workers)
    say(f"compiling kernels for {', '.join(variants)}: about {seconds} s on {workers} processors")
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(job.run, compiler, folder): job for job in jobs}
        for done in as_completed(running):
            job = running[done]
            results[job] = done.result()
            said = "left out" if isinstance(results[job], BuildError) else "compiled"
            say(f"{len(results)} of {len(jobs)}: {job.source.stem} for {job.variant} {said}")
    return {name: _of_variant([results[job] for job in jobs if job.variant == name]) for name in variants}


def _jobs(variants: dict[str, tuple[str, ...]]) -> list[Job]:
    """Return what is to be compiled, the largest files first: so all processors are done at about the same time."""
    sources = sorted(HERE.parent.rglob("*.cu"), key=lambda path: (-path.stat().st_size, path.name))
    hard = {path: HARD if path.stem in HARD_FILES else () for path in sources}
    return [Job(path, name, (*hard[path], *flags)) for path in sources for name, flags in variants.items()]


def _of_variant(results: list[Path | BuildError]) -> list[Path] | BuildError:
    """Return the objects of a variant, or the first thing that went wrong."""
    errors = [x for x in results if isinstance(x, BuildError)]
    return errors[0] if errors else [x for x in results if isinstance(x, Path)]


def _built(objects: Objects) -> dict[str, list[Path]]:
    """Return those of the variants that were built; raise BuildError if there is none."""
    built = {name: x for name, x in objects.items() if not isinstance(x, BuildError)}
    if not built:
        raise BuildError(str(next(iter(objects.values()))))
    return built


def _link(
    compiler: Compiler, folder: Path, built: dict[str, list[Path]], openmp: tuple[str, ...], source_hash: str
) -> Path:
    facts = (f"-DVARIANTS={' '.join(built)}", f"-DSOURCE_HASH={source_hash}")
    library = folder / "library"
    objects = [path for paths in built.values() for path in paths]
    sources = HERE / "variants.cpp", HERE / "layouts.cpp"
    compiler.run(*FLAGS, *openmp, *facts, "-shared", "-s", *sources, *objects, "-o", library)
    return library


def _report(compiler: Compiler, objects: Objects, openmp: tuple[str, ...]) -> str:
    line = f"kernels built by {shlex.join(compiler.program)} for {', '.join(_built(objects))}"
    line += "" if openmp else ", without threads (no OpenMP)"
    line += "".join(f"; not for {name}: {error}" for name, error in objects.items() if isinstance(error, BuildError))
    return line + (f"; flags left out: {shlex.join(compiler.left_out)}" if compiler.left_out else "")
