"""Installing builds the kernels for this computer, and succeeds without them where that cannot be done."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import runpy
import shutil
import stat
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
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

    def run(again: bool = False, **environment: str) -> Wheel:
        """``again``: as pip does it in a folder in which it was before."""
        for left in ("dist",) if again else ("build", "dist"):
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


@needs_compiler
def test_a_wheel_holds_every_module(plain: Wheel, checkout: Path) -> None:
    """Those of each folder where it is installed: what an editable installation finds, another one must hold."""
    places = {"refoptim": "refoptim", "kernels": "refoptim/kernels", "conformance": "refoptim/conformance"}
    modules = {
        f"{place}/{path.relative_to(checkout / folder).as_posix()}"
        for folder, place in places.items()
        for path in (checkout / folder).rglob("*.py")
    }
    wanted = {name.replace("refoptim/conformance/plugin/", "refoptim_pytest/") for name in modules}
    assert len(wanted) > 200 and wanted <= plain.files.keys()


def hash_of(folder: Path) -> str:
    return str(runpy.run_path(str(folder / "harness/source_hash.py"))["source_hash"]())


@pytest.mark.kernels
@needs_compiler
def test_flags_from_outside_cannot_change_a_bit(build: Build, plain: Wheel) -> None:
    """The library is the same to the byte, whatever the flags; only those that change no result are passed on."""
    unsafe = "-Ofast -ffast-math -ffp-contract=fast -march=native -mfma -mrecip"
    line, files, _ = build(CXX=f"{COMPILER} -funsafe-math-optimizations", CXXFLAGS=f"-Wextra {unsafe}")
    assert line.endswith(f"; flags left out: -funsafe-math-optimizations {unsafe}")
    assert code(files) == code(plain.files)


def code(files: dict[str, bytes]) -> bytes:
    """Return the library of a wheel without the line behind it, which says what it was built with."""
    found, line = files[LIBRARY][:-1].rsplit(b"\n", 1)
    assert re.fullmatch(rb"refoptim [0-9a-f]{64} [0-9a-f]{64}", line)
    return found


@pytest.mark.kernels
@needs_compiler
@pytest.mark.parametrize("before", [True, False])
def test_flags_of_a_wrapper_cannot_change_a_bit(build: Build, plain: Wheel, tmp_path: Path, before: bool) -> None:
    """Flags that the compiler gets from elsewhere are undone by those behind them, or seen by the kernels."""
    wrapper = tmp_path / "wrapper"
    fast = "-O3 -ffast-math -ffp-contract=fast"
    wrapper.write_text(f'#!/bin/sh\nexec {COMPILER} {fast if before else ""} "$@" {"" if before else fast}\n')
    wrapper.chmod(0o755)
    line, files, _ = build(CXX=str(wrapper))
    if before:
        assert code(files) == code(plain.files)
    else:
        assert "the compiler is set to change results" in line and LIBRARY not in files


CHANGING = [
    *("-Ofast", "-O fast", "-ffast-math", "--fast-math", "-funsafe-math-optimizations", "-ffp-contract=fast", "-mfma"),
    *("-fassociative-math", "-freciprocal-math", "-ffinite-math-only", "-fno-signed-zeros", "-frounding-math", "-O3"),
    *("-mfpmath=387", "-march=native", "-mdaz-ftz", "-fexcess-precision=fast", "-fsingle-precision-constant"),
    *("-fno-honor-nans", "-fdenormal-fp-math=preserve-sign", "-x c", "-std=c++98", "-specs=fast.specs", "-pg"),
    *("-Xclang -ffast-math", "-Xpreprocessor -Dsqrt=x", "-mllvm -fp-contract=fast", "--param x=1", "-include fast.h"),
    *("-imacros fast.h", "@flags", "fast.o", "-Wl,fast.o", "-Wl,--wrap=sqrt", "-Wa,-mfma", "-Wp,-Dsqrt=x"),
    *(
        "-fplugin=fast.so",
        "-wrapper fast",
        "-D fabsf=x",
        "-D__FAST_MATH__",
        "-Dmul(x,y)=x",
        "-D HOST=0",
        "-UHOST",
    ),
    *("'-ffast-math'", "-Wl,-rpath,/a,fast.o", "--config=fast.cfg", "-l fast"),
]


def compiler(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Any:
    """Return the compiler that a build would use."""
    for name in ("CXX", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"CXX": COMPILER, **environment}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(KERNELS / "host/build.py"))["Compiler"]()


@needs_compiler
@pytest.mark.parametrize("flag", CHANGING)
def test_what_could_change_a_result_is_left_out_in_every_spelling(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word.strip("'") for word in flag.split()]
    found = compiler(monkeypatch, CXXFLAGS=f"-g {flag} -pipe")
    assert (found.command, found.left_out) == ([COMPILER, "-g", "-pipe"], words)
    found = compiler(monkeypatch, CXX=f"{COMPILER} {flag}", CXXFLAGS="-pipe")
    assert (found.command, found.left_out) == ([COMPILER, "-pipe"], words)


@needs_compiler
def test_a_flag_that_lacks_its_value_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("-D", "-I", "--sysroot", "-isystem"):
        assert compiler(monkeypatch, CXXFLAGS=f"-g {flag}").left_out == [flag]
    assert compiler(monkeypatch, CXXFLAGS="-D -g -pipe").left_out == ["-D", "-g"]


@needs_compiler
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-I dir -Idir", ["-I", "dir", "-Idir"]),
        ("-isystem dir -L dir -B dir", ["-isystem", "dir", "-L", "dir", "-B", "dir"]),
        ("-D NDEBUG=1 -D_GLIBCXX_ASSERTIONS", ["-D", "NDEBUG=1", "-D_GLIBCXX_ASSERTIONS"]),
        (
            """-DTHIS='a b' '-DTHAT="c d"' -I"my dir" -I my\\ dir""",
            ["-DTHIS=a b", '-DTHAT="c d"', "-Imy dir", "-I", "my dir"],
        ),
        ("--sysroot /x --sysroot=/x", ["--sysroot", "/x", "--sysroot=/x"]),
        ("-Wall -Wno-psabi -Wl,-rpath,/x -Wl,-z,now", ["-Wall", "-Wno-psabi", "-Wl,-rpath,/x", "-Wl,-z,now"]),
        ("-g3 -ggdb -pipe -fsanitize=address", ["-g3", "-ggdb", "-pipe", "-fsanitize=address"]),
        ("-fdebug-prefix-map=/a=/b -fstack-protector-strong", ["-fdebug-prefix-map=/a=/b", "-fstack-protector-strong"]),
    ],
)
def test_what_changes_no_result_is_passed_on(flags: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiler(monkeypatch, CXXFLAGS=flags)
    assert (found.command, found.left_out) == ([COMPILER, *words], [])


@pytest.mark.kernels
@needs_compiler
def test_flags_with_values_of_their_own_and_quotes_build(build: Build, plain: Wheel, tmp_path: Path) -> None:
    flags = f"""-I {tmp_path} -D THIS -D 'THAT="a b"' -isystem "{tmp_path}" """
    line, files, _ = build(CXXFLAGS=flags)
    assert (line, code(files)) == (plain.line, code(plain.files))


@needs_compiler
def test_a_launcher_before_the_compiler_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = compiler(monkeypatch, CXX=f"launcher {COMPILER} -g -O3")
    assert (found.command, found.left_out) == (["launcher", COMPILER, "-g"], ["-O3"])
    assert found.run("-dumpmachine")


@needs_compiler
def test_a_variable_that_edits_the_command_line_is_kept_from_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "says"
    path.write_text('#!/bin/sh\necho "[$CCC_OVERRIDE_OPTIONS] [$CPATH]"\n')
    path.chmod(0o755)
    found = compiler(monkeypatch, CXX=str(path), CCC_OVERRIDE_OPTIONS="+-ffast-math", CPATH="/x")
    assert found.run() == "[] [/x]"


def test_quotes_that_do_not_end_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="CXXFLAGS cannot be read: No closing quotation") as raised:
        compiler(monkeypatch, CXXFLAGS="-D 'A=1")
    assert type(raised.value).__name__ == "BuildError"


@pytest.mark.slow
@needs_compiler
def test_what_is_built_already_is_not_built_again(build: Build, checkout: Path, tmp_path: Path) -> None:
    """The same sources, compiler and flags give the same library; one that was damaged is built anew."""
    quick = hasty(tmp_path / "hasty")
    first = build(CXX=quick)
    second = build(again=True, CXX=quick)
    assert first.progress and not second.progress and second.files[LIBRARY] == first.files[LIBRARY]
    assert second.line == f"refoptim: kernels are those that {quick} built before"
    assert build(again=True, CXX=quick, CXXFLAGS="-D THIS").progress
    (path,) = (checkout / "build").glob(f"lib*/{LIBRARY}")
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:5000] + b"\1\2\3" + whole[5003:]):
        path.write_bytes(damaged)
        done = build(again=True, CXX=quick)
        assert done.progress and done.files[LIBRARY] == first.files[LIBRARY]


def hasty(path: Path) -> str:
    """Write a compiler that takes less time: it does not optimize."""
    path.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" -O0\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.kernels
@needs_compiler
def test_a_library_that_lacks_a_variant_is_built_again(build: Build, tmp_path: Path) -> None:
    """What the compiler could not do, for want of memory perhaps, it may do now."""
    poor = script(tmp_path / "poor", "-march=x86-64-v4")
    assert build(CXX=poor).progress
    assert bool(build(again=True, CXX=poor).progress) == (platform.machine() in ("x86_64", "AMD64"))


@pytest.mark.kernels
@needs_compiler
def test_a_library_in_place_is_taken(build: Build, checkout: Path, tmp_path: Path) -> None:
    """An editable installation builds elsewhere and copies: what it left in the checkout is taken the next time."""
    quick = hasty(tmp_path / "hasty")
    first, place = build(CXX=quick), checkout / LIBRARY
    place.write_bytes(first.files[LIBRARY])
    try:
        assert not build(CXX=quick).progress
    finally:
        place.unlink()


@pytest.mark.kernels
@needs_compiler
def test_what_a_compiler_does_not_know_is_left_out(build: Build, tmp_path: Path) -> None:
    wheel = build(CXX=script(tmp_path / "poor", "-fopenmp", "-march=x86-64-v4"))
    library = loaded(wheel, tmp_path)
    assert text(library, "refoptim_variants") in ("avx2 sse2", "baseline")
    assert not library.refoptim_has_threads()
    left_out = [x for x in wheel.progress if x.endswith("left out")]
    assert len(left_out) == (len(BUILT) if "avx512" in wheel.line else 0) and all("for avx512" in x for x in left_out)


def has(package: str, major: int) -> bool:
    """Tell whether a package is installed, in a version that is not older."""
    try:
        return int(metadata.version(package).split(".")[0]) >= major
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(
    not (has("pip", 23) and has("setuptools", 77)), reason="pip 23 and setuptools 77 are not installed, or are older"
)
def test_the_remedy_brings_the_kernels_although_pip_has_a_wheel_without(checkout: Path, tmp_path: Path) -> None:
    """Installed from an index without a compiler, the wheel stays in pip's cache; with a compiler it comes back."""
    index, quick = tmp_path / "index", script(tmp_path / "quick", "-march=x86-64-v4", "-march=x86-64-v3")
    sdist = [sys.executable, "setup.py", "-q", "sdist", "-d", str(index / "refoptim")]
    subprocess.run(sdist, cwd=checkout, check=True, capture_output=True)
    (index / "refoptim" / "index.html").write_text(
        "".join(f'<a href="{x.name}">{x.name}</a>' for x in index.rglob("*.gz"))
    )
    with served(index) as url:
        pip = installer(tmp_path, url)
        assert not pip("install", "refoptim", CXX="/nowhere/c++")
        assert not pip("install", "--force-reinstall", "refoptim", CXX=quick)
        command = host.REBUILD.split()
        assert command[0] == "pip" and command[-1] == "." and " ".join(command) in host.REMEDY
        assert pip(*command[1:-1], "refoptim", CXX=quick)
        assert not pip("install", "--force-reinstall", "refoptim", CXX="/nowhere/c++")
        assert pip(*command[1:-1], str(checkout), CXX=quick)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as a package index."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Silent(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: Any) -> None:
        pass


def installer(folder: Path, index: str) -> Callable[..., bool]:
    """Make an environment that has setuptools alone; return what runs pip there and tells if there are kernels then."""
    venv.create(folder / "venv", with_pip=False)
    tools = folder / "tools"
    tools.mkdir()
    here = Path(str(metadata.distribution("setuptools").locate_file("")))
    for path in (*here.glob("setuptools*"), *here.glob("_distutils_hack")):
        (tools / path.name).symlink_to(path)
    isolated = {"PIP_CACHE_DIR": str(folder / "cache"), "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": str(tools)}
    isolated |= {"NO_PROXY": "127.0.0.1"}
    found = {key: x for key, x in os.environ.items() if not key.startswith(("PIP_", "CXX", "PYTHON"))} | isolated

    def pip(verb: str, *arguments: str, CXX: str) -> bool:
        options = ("--no-deps", "--no-build-isolation", "--index-url", index, "--disable-pip-version-check")
        python = str(folder / "venv" / "bin" / "python")
        command = [sys.executable, "-m", "pip", "--python", python, verb, *options, *arguments]
        done = subprocess.run(
            command, env=found | {"CXX": CXX}, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return bool(list((folder / "venv").rglob("_host.so")))

    return pip


def test_the_guide_gives_the_remedy() -> None:
    assert f"```sh\n{host.REBUILD}\n```" in (ROOT / "docs" / "guide" / "install.md").read_text(encoding="utf-8")


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
