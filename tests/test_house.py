"""The architecture: what imports what, how long functions are, what is documented, and clean tools."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import SparseGrad
from refoptim.commands import describe
from refoptim.step.hyper import Flag, declared

ROOT = Path(refoptim.__file__).parents[1]
PACKAGES = {
    "refoptim": ROOT / "refoptim",
    "refoptim.kernels": ROOT / "kernels",
    "refoptim.conformance": ROOT / "conformance",
}

ROOMS = [
    *("numerics", "formats", "step", "engines", "kernels"),
    *("clip_grad", "optimizers", "functional", "lr_scheduler", "swa_utils", "amp", "transforms"),
    *("", "dialects", "interop", "distributed", "checkpoint", "conformance", "commands", "__main__"),
]
"""The rooms of refoptim from the ground up ("" is what ``import refoptim`` runs): each may import those before it. What
stands in one room may import one another, but not in a circle."""

UPWARD = {
    (
        "refoptim.engines.host",
        "refoptim.kernels.harness.source_hash",
    ): "a library of other kernels is refused",
    ("refoptim.engines.twins", "refoptim.kernels"): "finds the twin of a function by the name of its module",
    ("refoptim.engines.fused", "refoptim.kernels"): "finds the program of a rule by the name of its room",
    ("refoptim.engines.kernel", "refoptim.kernels"): "reads kernel files",
    ("refoptim.engines.nvrtc", "refoptim.kernels"): "reads kernel files",
}
"""Imports that run upward all the same, with the reason."""

MOST_ENTRIES = 20
"""How many files and folders ``refoptim/`` may hold: what users import by name, and the rooms behind it."""

DEEPEST = 11
"""How many rooms may stand one upon another."""


@cache
def sources() -> dict[str, Path]:
    """Return the files of all modules by their full names."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(sources()[name].read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """Return the modules of refoptim that a module names in its imports, wherever they stand."""
    found: set[str] = set()
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package_of(name))
            members = {f"{base}.{alias.name}" for alias in node.names}
            found |= {member if member in sources() else base for member in members}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("refoptim."):
            found.add(node.value.rstrip("."))  # for importlib to find
    return found & sources().keys()


def package_of(name: str) -> str:
    return name if sources()[name].name == "__init__.py" else name.rpartition(".")[0]


def room(name: str) -> str:
    """Return the room that a module stands in."""
    return [*name.split("."), ""][1]


def rooms_below() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    below: dict[str, set[str]] = {each: set() for each in ROOMS}
    for name in sources():
        below[room(name)] |= {room(other) for other in imported(name) if (name, other) not in UPWARD} - {room(name)}
    return below


def test_every_room_has_a_place() -> None:
    assert {room(name) for name in sources()} == set(ROOMS)


@pytest.mark.parametrize("name", sources())
def test_nothing_imports_upward(name: str) -> None:
    place = ROOMS.index(room(name))
    upward = [other for other in imported(name) if ROOMS.index(room(other)) > place and (name, other) not in UPWARD]
    assert not upward, f"{name} imports {upward}"


def test_what_runs_upward_is_still_there() -> None:
    assert all(other in imported(name) for name, other in UPWARD)


def test_the_house_is_low() -> None:
    below = rooms_below()
    height: dict[str, int] = {}
    for each in TopologicalSorter(below).static_order():
        height[each] = 1 + max((height[other] for other in below[each]), default=0)
    assert max(height.values()) <= DEEPEST, height


def test_the_ground_floor_is_small() -> None:
    found = [path.name for path in (ROOT / "refoptim").iterdir() if path.name != "__pycache__"]
    assert len(found) <= MOST_ENTRIES, found


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: imported(name) - {name} for name in sources()}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(sources())


def test_rules_stand_alone() -> None:
    """One room per optimizer; a variant may build on the rule it is a variant of."""
    rooms = {cls.__module__ for cls in optimizers().values()}
    assert len(rooms) >= 16
    variants = {(cls.__module__, base.__module__) for cls in optimizers().values() for base in cls.__mro__[1:]}
    between = {(name, other) for name in rooms for other in imported(name) if other in rooms}
    assert ("refoptim.optimizers.adamw", "refoptim.optimizers.adam") in between <= variants


def top_levels(name: str) -> set[str]:
    """Return the libraries that a module imports outside of functions."""
    found: set[str] = set()
    for node in parsed(name).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return {each.partition(".")[0] for each in found} - {"__future__", "refoptim"} - sys.stdlib_module_names


@pytest.mark.parametrize("name", sources())
def test_modules_import_numpy_alone(name: str) -> None:
    """Commands, the plugin and interop need more to be what they are; others are imported where they are used."""
    is_command = room(name) == "commands"
    of_pytest = {"pytest"} if name.startswith("refoptim.conformance.plugin") else set()
    of_its_name = {name.rpartition(".")[2].partition("_")[0]} if room(name) == "interop" else set()
    assert top_levels(name) <= ({"numpy", "click", "rich"} if is_command else {"numpy"}) | of_pytest | of_its_name


def test_importing_refoptim_imports_numpy_alone() -> None:
    """All it takes with it, in a fresh interpreter, belongs to NumPy or to Python."""
    code = (
        "import sys; before = set(sys.modules); import refoptim, refoptim.lr_scheduler, refoptim.swa_utils;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"numpy", "refoptim"}


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for name in sources():
        for node in ast.walk(parsed(name)):
            if isinstance(node, Function):
                yield name, node


def length(function: Function) -> int:
    """Count the lines of a function's body, its docstring left out."""
    documented = ast.get_docstring(function, clean=False) is not None
    body = function.body[1:] if documented else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    lengths = np.array([length(function) for _, function in functions()])
    assert len(lengths) > 300
    assert np.median(lengths) <= 8
    assert np.percentile(lengths, 90) <= 20


def test_no_function_is_long() -> None:
    long = [
        f"{name}.{function.name}: {length(function)} lines"
        for name, function in functions()
        if length(function) > 40 and name != "refoptim.optimizers.line_search"
    ]
    assert not long


def public_modules() -> list[ModuleType]:
    """Import every module but those whose libraries are extras."""
    names = [name for name in sources() if not any(find_spec(library) is None for library in top_levels(name))]
    return [importlib.import_module(name) for name in names if not name.rpartition(".")[2].startswith("_")]


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the public classes and functions that a module defines, and the public members of the classes."""
    for name, x in vars(module).items():
        if name.startswith("_") or getattr(x, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(x):
            yield name, x
            for member, y in vars(x).items():
                described = inspect.isfunction(y) or isinstance(y, (property, classmethod, staticmethod))
                if described and not member.startswith("_"):
                    yield f"{name}.{member}", getattr(x, member)
        elif inspect.isfunction(x):
            yield name, x


def test_everything_public_has_a_docstring() -> None:
    """A method that overrides another, or does what a protocol asks for, may leave its description to that."""
    found = [(f"{module.__name__}.{name}", x) for module in public_modules() for name, x in public(module)]
    protocols = [x for _, x in found if inspect.isclass(x) and getattr(x, "_is_protocol", False)]
    asked_for = {name for x in protocols for name, y in vars(x).items() if getattr(y, "__doc__", None)}
    assert len(found) > 300
    assert not [name for name, x in found if not inspect.getdoc(x) and name.rpartition(".")[2] not in asked_for]
    assert not [module.__name__ for module in public_modules() if not module.__doc__]


def optimizers() -> dict[str, type[Any]]:
    """Return the optimizers by name."""
    return {cls.__name__: cls for cls in describe.optimizers()}


def documentation(cls: type[Any]) -> str:
    """Return the docstring of an optimizer; a variant's says whose formula it shares, and that one's is added."""
    own = cls.__doc__ or ""
    return own + "".join(base.__doc__ or "" for base in cls.__mro__[1:] if f"``{base.__name__}``" in own)


def names_it(text: str, name: str) -> bool:
    """Tell whether a text names something: ``betas`` also as ``beta1`` or ``beta2``."""
    return bool(re.search(rf"\b({name}|{name}[12]|{name.removesuffix('s')}[12])\b", text))


@pytest.mark.parametrize("name", optimizers())
def test_docstrings_name_hyperparameters(name: str) -> None:
    cls = optimizers()[name]
    text = documentation(cls)
    assert not [key for key in declared(cls) if key not in describe.SHARED and not names_it(text, key)]


def everything_on(cls: type[Any]) -> dict[str, Any]:
    """Return settings with which an optimizer keeps all the state it can."""
    on = {key: True for key, x in declared(cls).items() if isinstance(x, Flag) and key not in describe.SHARED}
    more = {"momentum": 0.9, "line_search_fn": "strong_wolfe"}
    accepted = inspect.signature(cls).parameters
    return {key: x for key, x in (on | more).items() if key in accepted}


def states(cls: type[Any]) -> set[str]:
    """Return the names of all that an optimizer keeps of a vector and of a matrix."""
    kept: set[str] = set()
    for shape in [(2, 3)] if cls.__name__ == "Muon" else [(3,), (2, 3)]:
        p = refoptim.Parameter(np.linspace(1, 2, int(np.prod(shape))).reshape(shape))
        optimizer = cls([p], **everything_on(cls))
        optimizer.step(bowl(p)) if "closure" in cls.__mro__[1].__module__ else optimizer.step(grads=[slope(cls, p)])
        kept |= optimizer.state[p].keys()
    return kept


def bowl(p: Any) -> Callable[[], float]:
    def closure() -> float:
        p.grad = 4 * p.data**3
        return float(np.sum(p.data**4))

    return closure


def slope(cls: type[Any], p: Any) -> Any:
    if cls.__name__ != "SparseAdam":
        return p.data.copy()
    return SparseGrad(np.arange(p.shape[0])[None], p.data.copy(), p.shape)


@pytest.mark.parametrize("name", optimizers())
def test_docstrings_name_state(name: str) -> None:
    cls = optimizers()[name]
    kept = states(cls)
    assert kept
    of_axes = [re.sub(r"_\d+$", "_i", key) for key in kept]
    assert not [key for key in of_axes if f"``{key}``" not in documentation(cls)]


def run_tool(*command: str) -> None:
    """Run a tool on the whole checkout; skip if it is not installed, fail with what it says if it complains."""
    if not find_spec(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing() -> None:
    run_tool("mypy")


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", ".")


def test_files_are_formatted() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_kernels_are_formatted() -> None:
    formatter = shutil.which("clang-format", path=str(Path(sys.executable).parent)) or shutil.which("clang-format")
    if not formatter:
        pytest.skip("clang-format is not installed")
    files = [path for folder in ("kernels", "tests") for path in (ROOT / folder).rglob("*.*")]
    sources = sorted(path for path in files if path.suffix in (".c", ".cu", ".cuh", ".h", ".cpp"))
    assert len(sources) > 20
    done = subprocess.run([formatter, "--dry-run", "--Werror", *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
