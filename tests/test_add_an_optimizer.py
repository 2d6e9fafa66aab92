"""The page on how to add an optimizer works as it stands: its files are written into a copy of refoptim, and run."""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.kernels import COMPILER

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "built" / "add_an_optimizer.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


ENTER = """from pathlib import Path
import refoptim
from refoptim.conformance import enter
enter.enter(Path(refoptim.__file__).parent, enter.rooms())"""
"""What the command does first."""


def file(path: str) -> str:
    """Return the block whose first line names a file, without that line."""
    (text,) = [text for _, text in BLOCKS if text.startswith((f"# {path}\n", f"// {path}\n"))]
    return text.partition("\n")[2]


def programs() -> list[str]:
    """Return the programs of the page, the one that needs kernels last."""
    return [text for kind, text in BLOCKS if kind == "python" and text.startswith("# Not run here")]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return the folder of a package laid out as if installed, with the optimizer of the page."""
    found = tmp_path / "refoptim"
    ignored = shutil.ignore_patterns("__pycache__", "golden", "*.so")
    for source, target in {
        "refoptim": found,
        "kernels": found / "kernels",
        "conformance": found / "conformance",
    }.items():
        shutil.copytree(ROOT / source, target, ignore=ignored)
    (found / "optimizers" / "signum.py").write_text(file("refoptim/optimizers/signum.py"), encoding="utf-8")
    (found / "kernels" / "signum.cu").write_text(file("kernels/signum.cu"), encoding="utf-8")
    run(found, "-c", ENTER)
    return found


def run(package: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(package: Path) -> None:
    """Build the kernels of the page, and no others."""
    for path in (package / "kernels").rglob("*.cu"):
        if path.stem != "signum":
            path.unlink()
    source_hash = runpy.run_path(str(package / "kernels" / "harness" / "source_hash.py"))["source_hash"]()
    known = ["sse2"] if platform.machine() in ("x86_64", "AMD64") else []
    target = package / "engines" / "_host.so"
    runpy.run_path(str(package / "kernels" / "host" / "build.py"))["build"](target, source_hash, known)


def test_the_optimizer_of_the_page_trains_and_agrees_with_its_witness(package: Path) -> None:
    run(package, "-c", "\n".join(programs()[:-1]))
    assert "lerp(exp_avg, g, 1 - momentum)" in run(package, "-m", "refoptim", "explain", "signum")


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_the_kernel_of_the_page_has_the_bits_of_its_room(package: Path) -> None:
    build(package)
    run(package, "-c", "\n".join(programs()))


def test_the_case_of_the_page_is_one(package: Path) -> None:
    (case,) = [text for kind, text in BLOCKS if kind == "json"]
    (package / "conformance" / "cases" / "signum.json").write_text(case, encoding="utf-8")
    out = str(package.parent / "golden")
    run(package, "-m", "refoptim.conformance.record", "--witness", "reference", "--only", "signum", "--out", out)
    assert (package.parent / "golden" / "reference" / "signum.json").exists()


def test_the_words_of_the_page_are_the_same_in_both_files() -> None:
    words = [
        re.findall(r"\b(axpy|lerp|sign)\(", file(path))
        for path in ("refoptim/optimizers/signum.py", "kernels/signum.cu")
    ]
    assert words[0][-4:].count("lerp") == words[1].count("lerp") == 1
    assert words[1] == ["axpy", "lerp", "axpy", "sign"] and words[0][-4:] == words[1]
