"""What optimizers and schedulers say about themselves, for the docs and the command line.

Formula, state and sources stand in the docstring of a class, hyperparameters in the declarations of its constructor.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import refoptim

from .. import lr_scheduler, transforms
from ..step.hyper import Hyper, Several, declared
from ..step.rule import Rule

SHARED = frozenset({"foreach", "maximize", "capturable", "differentiable", "fused"})
"""Hyperparameters that mean the same for every optimizer that has them."""


class Argument(NamedTuple):
    """A hyperparameter: its name, default, allowed values, and what it means."""

    name: str
    default: Any
    allowed: str
    meaning: str


def optimizers() -> list[type[refoptim.Optimizer]]:
    """Return the public optimizers by name."""
    found = [getattr(refoptim, name) for name in refoptim.__all__]
    classes = [x for x in found if inspect.isclass(x) and issubclass(x, refoptim.Optimizer) and x.is_rule]
    return sorted((x for x in classes if x is not refoptim.Optimizer), key=lambda x: x.__name__.lower())


def schedulers() -> list[type[lr_scheduler.LRScheduler]]:
    """Return the public schedulers by name."""
    others = ("LRScheduler", "get_scheduler")
    found = [getattr(lr_scheduler, name) for name in lr_scheduler.__all__ if name not in others]
    return sorted(found, key=lambda x: x.__name__.lower())


def wrappers() -> list[type]:
    """Return what works around any optimizer, by name."""
    return [refoptim.Lookahead, transforms.MultiSteps, refoptim.SAM]


def find(name: str, others: Iterable[type] = ()) -> type:
    """Return an optimizer or scheduler, or one of some others, by its name, in any case, or by the stem of its file.

    Raises:
        ValueError: there is none; the message suggests names that are near.
    """
    classes: list[type] = [*optimizers(), *schedulers(), *others]
    known = {_plain(key): x for x in classes for key in (stem(x), x.__name__)}
    if _plain(name) in known:
        return known[_plain(name)]
    near = {known[key].__name__: None for key in difflib.get_close_matches(_plain(name), known, cutoff=0.65)}
    hint = f"did you mean {' or '.join(near)}?" if near else "'refoptim list' shows them all"
    raise ValueError(f"there is no optimizer or scheduler {name!r}: {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def stem(cls: type) -> str:
    """Return the name of the file that defines a class."""
    return cls.__module__.rpartition(".")[2]


def is_of_torch(cls: type) -> bool:
    """Tell whether torch has an optimizer or a scheduler."""
    return bool(getattr(cls, "of_torch", cls.__name__ not in lr_scheduler.WIDER))


def summary(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").splitlines()[0]


def arguments(cls: type) -> list[Argument]:
    """Return the hyperparameters of a class in the order of its constructor."""
    hypers = declared(cls)
    return [
        Argument(name, argument.default, allowed(hypers[name]), hypers[name].doc)
        for name, argument in inspect.signature(cls).parameters.items()
        if name in hypers
    ]


def allowed(hyper: Hyper) -> str:
    """Return the allowed values of a hyperparameter, a tuple's one by one."""
    if isinstance(hyper, Several):
        return ", ".join(item.range for item in hyper.items)
    return hyper.range


class Text(NamedTuple):
    """The docstring of a class, taken apart: paragraphs, formulas among them, state, and sources."""

    paragraphs: list[str]
    formula: str
    state: str
    sources: str


def text(cls: type) -> Text:
    """Take the docstring of a class apart; what it does not say itself is taken from the class it derives from."""
    found = _text(inspect.getdoc(cls) or "")
    base = cls.__base__
    if base is None or not (found.formula == "" and _text(inspect.getdoc(base) or "").formula):
        return found
    above = text(base)
    return found._replace(formula=above.formula, state=found.state or above.state)


def before_formula(cls: type) -> list[str]:
    """Return those paragraphs between the first line of a class's docstring and its formula that lead to the latter."""
    parts = _parts(inspect.getdoc(cls) or "")
    formulas = [i for i, part in enumerate(parts) if part.startswith(".. code-block::")]
    return parts[1 : formulas[0]] if formulas else []


def _parts(docstring: str) -> list[str]:
    return re.split(r"\n\n(?=\S)", docstring.replace("``", "`"))


def _text(docstring: str) -> Text:
    parts = _parts(docstring)
    formulas = [_formula(part) for part in parts if part.startswith(".. code-block::")]
    state = [part for part in parts if re.match(r"State\b", part)]
    sources = [part for part in parts if re.match(r"Sources?:", part)]
    known = (*state, *sources)
    rest = [part for part in parts if part not in known and not part.startswith(".. code-block::")]
    return Text(rest, "\n\n".join(formulas), "\n\n".join(state), "\n\n".join(sources))


def _formula(part: str) -> str:
    return textwrap.dedent(part.partition("\n\n")[2]).rstrip()


def operations(cls: type) -> str:
    """Return the code of the array half of a rule: its operations, in their order; empty where there is none."""
    return _code(cls, "update")


def scalars(cls: type) -> str:
    """Return the code of what a rule computes of a step's scalars, in double; empty where there is none."""
    return _code(cls, "scalars")


def _code(cls: type, name: str) -> str:
    """Return the code of a class method that is not the one every rule begins with."""
    method = getattr(getattr(cls, name, None), "__func__", None)
    if not issubclass(cls, Rule) or not inspect.isfunction(method) or method is getattr(Rule, name).__func__:
        return ""
    return textwrap.dedent(inspect.getsource(method)).removeprefix("@classmethod\n").rstrip()
