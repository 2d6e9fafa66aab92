"""Schedulers described in a line of text, as goldens, the command line and the docs do.

A description looks like the call of a constructor without the optimizer::

    StepLR(step_size=30, gamma=0.5)
    LambdaLR(lr_lambda=lambda epoch: 0.95 ** epoch)
    SequentialLR(LinearLR(total_iters=5), ExponentialLR(gamma=0.9), milestones=[5])

Settings are Python literals, lists of them, and lambdas that compute with numbers and the functions and constants of
``MATH`` alone. Nothing else is ever run. Powers are those of ``refoptim.numerics.power``: no C library decides a bit.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from refoptim import lr_scheduler
from refoptim.numerics.power import cos, exp, log, power
from refoptim.swa_utils import SWALR

SCHEDULERS: dict[str, type[lr_scheduler.LRScheduler]] = {
    **{name: x for name in lr_scheduler.__all__ if isinstance(x := getattr(lr_scheduler, name), type)},
    "SWALR": SWALR,
}
"""The schedulers by name."""

del SCHEDULERS["LRScheduler"]

EXACT = ("sqrt", "floor", "ceil", "trunc", "fabs", "fmod", "copysign", "pi", "e", "tau", "inf", "nan")

MATH = {
    **{name: getattr(math, name) for name in EXACT},
    "pow": power,
    "cos": cos,
    "exp": exp,
    "log": log,
    "abs": abs,
    "max": max,
    "min": min,
}
"""What a lambda may name: what gives the same number on every machine."""

SAFE = (
    *(ast.Lambda, ast.arguments, ast.arg, ast.Name, ast.Load, ast.Constant, ast.Call),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
"""What a lambda may be made of."""


class Spec(NamedTuple):
    """A scheduler to be made: its name, the schedulers it is made of, and its settings."""

    name: str
    members: Sequence[Spec]
    settings: Mapping[str, Any]

    def build(self, optimizer: Any, classes: Mapping[str, Any] = SCHEDULERS, **more: Any) -> Any:
        """Make the scheduler on an optimizer, from ``classes`` by name; all members get the settings ``more``.

        A ChainedScheduler itself takes none of those.
        """
        cls = classes[self.name]
        members = [member.build(optimizer, classes, **more) for member in self.members]
        if self.name == "ChainedScheduler":
            return cls(members, **self.settings)
        return cls(optimizer, *([members] if members else []), **self.settings, **more)


def parse(text: str) -> Spec:
    """Read a description.

    Raises:
        ValueError: it is none, or names a scheduler that does not exist.
    """
    try:
        return _spec(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no scheduler: {error.msg}") from error
    except (MemoryError, RecursionError):
        raise ValueError(f"{text[:60]!r} … is no scheduler: too much stands in one another") from None


def setting(text: str) -> Any:
    """Read the value of a setting: a literal or a lambda; any other text stands for itself."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def _spec(node: ast.expr) -> Spec:
    if isinstance(node, ast.Name):
        return Spec(_known(node.id), [], {})
    spread = isinstance(node, ast.Call) and any(setting.arg is None for setting in node.keywords)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or spread:
        raise ValueError(f"{ast.unparse(node)} is no scheduler: write it like StepLR(step_size=30)")
    settings = {str(setting.arg): _value(setting.value) for setting in node.keywords}
    return Spec(_known(node.func.id), [_spec(member) for member in node.args], settings)


def _known(name: str) -> str:
    if name not in SCHEDULERS:
        raise ValueError(f"there is no scheduler {name!r}: choose one of {', '.join(SCHEDULERS)}")
    return name


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Lambda):
        return _function(node)
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{ast.unparse(node)!r} is no setting: only literals, lists and lambdas are") from error


def _function(node: ast.Lambda) -> Any:
    """Compile a lambda after looking at everything it is made of."""
    parameters, names = {arg.arg for arg in node.args.args}, ", ".join(MATH)
    for part in ast.walk(node):
        called = isinstance(part, ast.Call) and not isinstance(part.func, ast.Name)
        unknown = isinstance(part, ast.Name) and part.id not in parameters | MATH.keys()
        if not isinstance(part, SAFE) or called or unknown:
            raise ValueError(
                f"{ast.unparse(part)!r} cannot stand in {ast.unparse(node)!r}: only numbers and {names} can"
            )
    body = ast.fix_missing_locations(ast.Expression(Powers().visit(node)))
    return eval(compile(body, "<setting>", "eval"), {"__builtins__": {}, **MATH})


class Powers(ast.NodeTransformer):
    """Writes ``x ** y`` as ``pow(x, y)``."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Replace one operation, and those it is made of."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        return ast.Call(ast.Name("pow", ast.Load()), [node.left, node.right], [])
