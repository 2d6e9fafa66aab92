"""Enters optimizers: ``python -m refoptim.conformance.enter NAME``, run in a checkout, does all that follows of a room.

It writes every room into the lists of names, builds the kernels, and records the goldens of the optimizers named.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refoptim import optimizers
from refoptim.optimizers.base import Optimizer
from refoptim.optimizers.closure import ClosureOptimizer

from . import cases, record


class Room(NamedTuple):
    """A room: the stem of its file, the name of its optimizer, and whether that takes gradients."""

    stem: str
    name: str
    pure: bool


def rooms() -> list[Room]:
    """Return all rooms: the modules that define an optimizer of their own name."""
    found = []
    for module in pkgutil.iter_modules(optimizers.__path__):
        classes = vars(importlib.import_module(f"{optimizers.__name__}.{module.name}")).values()
        named = module.name.replace("_", "")
        own = [x for x in classes if inspect.isclass(x) and x.__name__.lower() == named and issubclass(x, Optimizer)]
        found += [Room(module.name, x.__name__, not issubclass(x, ClosureOptimizer)) for x in own]
    return found


def of_names(name: str) -> tuple[int, str]:
    """Return what a list of names is sorted by: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


class Lines(NamedTuple):
    """Lines of a file, one for each room: how they look, and what they are sorted by."""

    text: Callable[[Room], str]
    key: Callable[[str], Any] = str
    wanted: Callable[[Room], bool] = lambda room: True


def exported(name: Callable[[Room], str], wanted: Callable[[Room], bool] = lambda room: True) -> Lines:
    """Return the lines of ``__all__``."""
    return Lines(lambda x: f'    "{name(x)}",', lambda line: of_names(line.strip(' ",')), wanted)


def _is_pure(room: Room) -> bool:
    return room.pure


def _is_dense(room: Room) -> bool:
    return room.pure and room.stem != "sparse_adam"


FILES: dict[str, tuple[Lines, ...]] = {
    "__init__.py": (Lines(lambda x: f"from .optimizers.{x.stem} import {x.name}"), exported(lambda x: x.name)),
    "functional.py": (
        Lines(lambda x: f"from .optimizers import {x.stem} as _{x.stem}", wanted=_is_pure),
        Lines(lambda x: f"{x.stem} = pure_step(_{x.stem}.{x.name})", wanted=_is_pure),
        exported(lambda x: x.stem, _is_pure),
    ),
    "interop/torch.py": (
        Lines(lambda x: f"{x.name} = optimizer_class(refoptim.{x.name})", lambda line: of_names(line.split()[0])),
        exported(lambda x: x.name),
    ),
    "interop/jax.py": (
        Lines(lambda x: f"from ..optimizers import {x.stem} as _{x.stem}", wanted=_is_dense),
        Lines(lambda x: f"{x.name} = optimizer_class(_{x.stem}.{x.name})", str.lower, _is_dense),
    ),
}
"""The files of refoptim that list all optimizers."""


def entered(text: str, lines: Lines, found: Iterable[Room]) -> str:
    """Return a text with a line for each room, among those of its kind that are there."""
    form = re.escape(lines.text(Room("STEM", "NAME", True)))
    pattern = re.compile("^" + re.sub(r"STEM|NAME", r"\\w+", form) + "\n", re.MULTILINE)
    there = list(pattern.finditer(text))
    begin, end = there[0].start(), there[-1].end()
    kept = text[begin:end].splitlines()
    wanted = [lines.text(room) for room in found if lines.wanted(room)]
    return text[:begin] + "".join(f"{x}\n" for x in sorted({*kept, *wanted}, key=lines.key)) + text[end:]


def enter(package: Path, found: Sequence[Room]) -> None:
    """Write all rooms into the lists of a package."""
    for name, kinds in FILES.items():
        path = package / name
        old = text = path.read_text(encoding="utf-8")
        for lines in kinds:
            text = entered(text, lines, found)
        if text != old:
            path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Enter all rooms, build the kernels, and record the goldens of some optimizers."""
    parser = argparse.ArgumentParser(prog="python -m refoptim.conformance.enter", description="Enters optimizers.")
    parser.add_argument("stems", nargs="+", choices=cases.stems(), metavar="NAME", help="the stem of a room")
    given = parser.parse_args(arguments)
    package = Path(optimizers.__path__[0]).parent
    enter(package, rooms())
    subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], check=True, cwd=package.parent)
    subprocess.run([sys.executable, "-m", record.__name__, "--only", *given.stems], check=True)


if __name__ == "__main__":
    main()
