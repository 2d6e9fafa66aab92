"""Folders with the Python of another processor, for qemu to run: made once of Debian's packages and of wheels.

``python roots.py aarch64`` makes one and prints where it is. It needs Debian's ``apt-get``, ``dpkg-deb`` and the
network, and changes nothing outside its folder: lists, packages and their state are its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
CHECKOUT = TESTS.parents[1]


class Machine(NamedTuple):
    """Another processor: the names that Debian, its libraries and compilers, qemu and wheels have for it."""

    debian: str
    libraries: str
    qemu: str
    wheels: tuple[str, ...]
    packages: tuple[str, ...]


MACHINES = {
    "aarch64": Machine(
        "arm64",
        "aarch64-linux-gnu",
        "qemu-aarch64",
        ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"),
        ("python3", "libstdc++6", "libgomp1"),
    ),
    "s390x": Machine(
        "s390x",
        "s390x-linux-gnu",
        "qemu-s390x",
        (),
        ("python3", "python3-numpy", "libstdc++6", "libgomp1"),
    ),
}
"""NumPy has wheels for the one, and Debian's packages for the other."""

WHEELS = ("numpy", "ml_dtypes", "click", "rich")
"""What the package needs of other projects, in the versions that are installed here."""


class Missing(Exception):
    """There is no such root, and none can be made."""


def cache() -> Path:
    """Return the folder in which roots are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refoptim-tests"


def root(name: str) -> Path:
    """Return the root of a machine, the one that ``REFOPTIM_<NAME>_ROOT`` names or one that is made once.

    Raises:
        Missing: there is none and none can be made; the message says why.
    """
    given = os.environ.get(f"REFOPTIM_{name.upper()}_ROOT")
    found = Path(given) if given else cache() / f"{name}-{metadata.version('numpy')}"
    if not (found / "usr").is_dir():
        if given:
            raise Missing(f"{given} is no root folder")
        _make(MACHINES[name], found)
    return found


def python(name: str) -> list[str]:
    """Return the command that runs Python for a machine, or raise Missing."""
    machine = MACHINES[name]
    if shutil.which(machine.qemu) is None:
        raise Missing(f"{machine.qemu} is not installed (Debian's qemu-user)")
    here = root(name)
    alternatives = ":".join(f"/usr/lib/{machine.libraries}/{library}" for library in ("blas", "lapack"))
    return [machine.qemu, "-L", str(here), "-E", f"LD_LIBRARY_PATH={alternatives}", str(_interpreter(here))]


def compiler(name: str) -> str:
    """Return the C++ compiler for a machine, or raise Missing."""
    found = f"{MACHINES[name].libraries}-g++"
    if shutil.which(found) is None:
        raise Missing(f"{found} is not installed (Debian's g++-{MACHINES[name].libraries})")
    return found


def environment(name: str, package: Path) -> dict[str, str]:
    """Return the environment in which Python for a machine finds the package in a folder, and nothing of this one."""
    path = os.pathsep.join(map(str, (package, root(name) / "wheels")))
    kept = {key: x for key, x in os.environ.items() if not key.startswith(("PYTHON", "LD_", "COV_"))}
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def _interpreter(here: Path) -> Path:
    return sorted(here.glob("usr/bin/python3.[0-9]*[0-9]"))[-1]


def _make(machine: Machine, target: Path) -> None:
    """Make a root beside its place and move it there when it is whole, unless another process was faster."""
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        for package in _packages(machine, beside / "apt"):
            _run("dpkg-deb", "-x", str(package), str(beside))
        if machine.wheels:
            _install_wheels(machine, beside)
        shutil.rmtree(beside / "apt")
        beside.rename(target)
    except OSError:
        if not (target / "usr").is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _packages(machine: Machine, folder: Path) -> list[Path]:
    """Download packages and all they depend on, as if nothing were installed."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": machine.debian,
        "APT::Architectures": machine.debian,
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
        "Dir::State::Lists": f"{folder}/lists",
        "Dir::State::status": f"{folder}/status",
        "Dir::State::extended_states": f"{folder}/extended_states",
        "Dir::Cache": str(folder),
        "Dir::Log": str(folder),
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    _run(*apt, "update")
    _run(*apt, "-y", "--no-install-recommends", "--download-only", "install", *machine.packages)
    return sorted((folder / "archives").glob("*.deb"))


def _install_wheels(machine: Machine, here: Path) -> None:
    version = _interpreter(here).name.removeprefix("python")
    wanted = [f"{name}=={metadata.version(name)}" for name in WHEELS]
    platforms = [f"--platform={name}" for name in machine.wheels]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    _run(*pip, *platforms, f"--python-version={version}", f"--target={here / 'wheels'}", *wanted)


def _run(*command: str) -> None:
    """Run a command, or raise Missing with the last line of what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Missing(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = [*filter(None, (done.stdout + done.stderr).splitlines())]
        raise Missing(f"{command[0]} fails: {said[-1] if said else done.returncode}")


def install(target: Path) -> Path:
    """Copy the package to a folder as it would be installed, without a library of kernels; return that folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for source, name in (("refoptim", "."), ("kernels", "kernels"), ("conformance", "conformance")):
        shutil.copytree(CHECKOUT / source, target / "refoptim" / name, ignore=ignored, dirs_exist_ok=True)
    return target


if __name__ == "__main__":
    print(root(sys.argv[1]))
