"""The twins of an optimizer, function by function: the room that defines it, and the kernels that compute the same.

A kernel's struct has the functions of the room's class under the same names; where a program launches several kernels,
its functions have the names of the room's. A function is shown with those of its file that it calls.
"""

from __future__ import annotations

import ast
import re
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from refoptim import Optimizer
from refoptim.commands.describe import stem

Functions = dict[str, str]
"""Source by name."""

ALWAYS = ("scalars", "sums_over_all", "measured_over_all", "sums", "measured", "measure", "update")
"""The functions of a rule that are shown, with a twin or without."""


class Pair(NamedTuple):
    """A function of the room and its twin; what has none is empty."""

    name: str
    room: str
    twin: str
    language: str


def rule(cls: type[Optimizer]) -> type[Optimizer]:
    """Return the class whose room defines the rule: for a preset, the one that it is a preset of."""
    rules = (x for x in cls.__mro__ if issubclass(x, Optimizer))
    return next(x for x in rules if not x.has_kernels or _kernel(stem(x), "cu").exists())


def _kernel(name: str, suffix: str) -> Path:
    return Path(str(files("refoptim.kernels"))) / f"{name}.{suffix}"


def kernel(cls: type[Optimizer]) -> str:
    """Return the source of the kernels; empty where there are none."""
    return _kernel(stem(rule(cls)), "cu").read_text(encoding="utf-8") if cls.has_kernels else ""


def program(cls: type[Optimizer]) -> str:
    """Return the source of the program that launches the kernels in turn; empty where one kernel is all."""
    path = _kernel(stem(rule(cls)), "py")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def pairs(cls: type[Optimizer]) -> list[Pair]:
    """Return the functions of the rule beside their twins, in the order of the room."""
    base = rule(cls)
    room = room_functions(base)
    struct, launched = struct_functions(kernel(cls), base.__name__), python_functions(program(cls))
    shown = {"room": set(struct) | set(launched) | set(ALWAYS), "twin": set(room)}
    found = []
    for name in [name for name in room if name in shown["room"]]:
        twins, language = (struct, "cuda") if name in struct else (launched, "python")
        found.append(Pair(name, with_helpers(name, room, shown["room"]), twin(name, twins, shown["twin"]), language))
    return found


def twin(name: str, functions: Functions, shown: set[str]) -> str:
    """Return a function with its helpers, or nothing if there is none of this name."""
    return with_helpers(name, functions, shown) if name in functions else ""


def with_helpers(name: str, functions: Functions, shown: set[str]) -> str:
    """Return a function and, after it, those that it calls and that ``shown`` does not name; these are shown once."""
    found = [functions[name]]
    for helper in functions:
        if helper not in shown and helper != name and re.search(rf"\b{helper}\(", "\n".join(found)):
            found.append(functions[helper])
            shown.add(helper)
    return "\n\n".join(found)


def room_functions(cls: type[Optimizer]) -> Functions:
    """Return the functions of the file that defines a class, methods of the class included."""
    path = Path(str(files("refoptim.optimizers"))) / f"{stem(cls)}.py"
    return python_functions(path.read_text(encoding="utf-8"), cls.__name__)


def python_functions(source: str, within: str = "") -> Functions:
    """Return the functions of a module, and the methods of one class of it."""
    module = ast.parse(source)
    bodies = [x.body for x in module.body if isinstance(x, ast.ClassDef) and x.name == within]
    nodes = [x for body in (*bodies, module.body) for x in body if isinstance(x, ast.FunctionDef)]
    lines = source.splitlines()
    return {x.name: textwrap.dedent("\n".join(lines[x.lineno - 1 : x.end_lineno])) for x in nodes}


def struct_functions(source: str, within: str) -> Functions:
    """Return the static functions of a struct; a blank line stands between any two of its members."""
    struct = re.search(rf"^struct {within}\b.*?^}};", source, re.MULTILINE | re.DOTALL)
    members = re.split(r"\n\n(?=    \S)", (struct[0] if struct else "").removesuffix("};").rstrip())
    named = [(re.search(r"\bstatic [\w<>, ]+\s+(\w+)\(", member), member) for member in members]
    return {name[1]: textwrap.dedent(member.strip("\n")) for name, member in named if name}
