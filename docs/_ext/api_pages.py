"""The pages of the API: a page per public module, its names from their docstrings or with a link to their own pages."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import md
from refoptim.conformance.spec import SCHEDULERS

import refoptim
from refoptim.commands.describe import optimizers, stem, summary

FOLDER = "api"

INTRO = """Every public name. Optimizers and schedulers have pages of their own."""

PLUGIN = "refoptim_pytest"


def modules() -> list[ModuleType]:
    """Return the public modules: refoptim, those that it names, checkpoints, ranks, adapters of the suite."""
    named = [getattr(refoptim, name) for name in refoptim.__all__]
    others = map(import_module, ("refoptim.checkpoint", "refoptim.distributed", "refoptim.conformance.adapters"))
    return [refoptim, *(x for x in named if inspect.ismodule(x)), *others]


def names(module: ModuleType) -> list[str]:
    """Return the public names of a module, modules left out."""
    known = getattr(module, "__all__", None) or [name for name, x in vars(module).items() if defined(x, module)]
    return [name for name in known if not inspect.ismodule(getattr(module, name))]


def defined(x: Any, module: ModuleType) -> bool:
    """Tell whether a module defines something public: a class or a function with a docstring."""
    own = inspect.isclass(x) or inspect.isfunction(x)
    return own and x.__module__ == module.__name__ and not x.__name__.startswith("_") and bool(x.__doc__)


def own_page(module: ModuleType, x: Any) -> str:
    """Return the page of an optimizer or scheduler, or of what refoptim names too; empty for anything else."""
    if x in optimizers():
        return f"../optimizers/{stem(x)}.md"
    if x in SCHEDULERS.values():
        return f"../lr_scheduler/{stem(x)}.md"
    return "refoptim.md" if module is not refoptim and any(x is y for y in vars(refoptim).values()) else ""


def home(module: ModuleType, name: str) -> str:
    """Return the module under whose name something is described."""
    return "refoptim" if own_page(module, getattr(module, name)) == "refoptim.md" else module.__name__


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    found = {module.__name__: page(module) for module in modules()} | {PLUGIN: plugin()}
    entries = [line for module in modules() for line in listed(module)]
    entries += [f"\n## [{PLUGIN}]({PLUGIN}.md)\n", first_line(plugin_module())]
    return {"index.md": md.index("API", INTRO, entries, found), **{f"{name}.md": x for name, x in found.items()}}


def listed(module: ModuleType) -> list[str]:
    """Return the lines that list the names of a module, each with its first sentence."""
    head = f"\n## [{module.__name__}]({module.__name__}.md)\n"
    full = {name: (f"{home(module, name)}.{name}", getattr(module, name)) for name in names(module)}
    return [head, *(f"- {{py:obj}}`{name} <{where}>`: {told(x)}" for name, (where, x) in full.items())]


def told(x: Any) -> str:
    """Return the first sentence about a class or function."""
    line = summary(x).replace("``", "`")
    return line.partition(";")[0] + "." if line.startswith("The pure rule of") else line


def first_line(module: ast.Module) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(module) or "").partition("\n")[0]


def page(module: ModuleType) -> str:
    """Return the page of a module."""
    elsewhere = {name: own_page(module, getattr(module, name)) for name in names(module)}
    here = [entry(module, name) for name, where in elsewhere.items() if not where]
    links = [f"- [{name}]({where})" for name, where in elsewhere.items() if where]
    about = md.rest(f".. automodule:: {module.__name__}")
    return md.sections(module.__name__, about, *here, md.section("On their own pages", "\n".join(links)))


def entry(module: ModuleType, name: str) -> str:
    """Return the entry of a class, with its public methods, or of a function, or of something that is there once."""
    if not callable(getattr(module, name)):
        return md.rest(f".. autodata:: {module.__name__}.{name}", "   :no-value:")
    if not inspect.isclass(getattr(module, name)):
        return md.rest(f".. autofunction:: {module.__name__}.{name}")
    more = [] if described(getattr(module, name)) else ["   :undoc-members:"]
    return md.rest(f".. autoclass:: {module.__name__}.{name}", "   :members:", *more)


def described(cls: type) -> bool:
    """Tell whether all public methods of a class have docstrings; those of a protocol may have theirs elsewhere."""
    return all(x.__doc__ for name, x in vars(cls).items() if inspect.isfunction(x) and not name.startswith("_"))


def plugin_module() -> ast.Module:
    """Return the plugin, which is read and not imported, as it needs pytest."""
    path = Path(str(files("refoptim.conformance"))) / "plugin" / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def plugin() -> str:
    """Return the page of the plugin for pytest: what its module says, and its fixtures."""
    module = plugin_module()
    fixtures = [x for x in module.body if isinstance(x, ast.FunctionDef) and "pytest.fixture" in decorators(x)]
    text = [f".. py:module:: {PLUGIN}", "", *(ast.get_docstring(module) or "").splitlines()]
    for fixture in fixtures:
        text += ["", f".. py:function:: {fixture.name}", "", f"   A fixture. {ast.get_docstring(fixture)}"]
    return md.sections(PLUGIN, md.rest(*text))


def decorators(function: ast.FunctionDef) -> list[str]:
    """Return the decorators of a function as text."""
    return [ast.unparse(x) for x in function.decorator_list]
