"""What autodoc shows: a pure rule with the settings of its optimizer, and a link in the place of the whole formula."""

from __future__ import annotations

import re
from typing import Any

import md

import refoptim


def rule_of(x: Any) -> str:
    """Return the name of the optimizer whose pure rule a function is; empty for anything else."""
    found = re.match(r"The pure rule of ``(\w+)``", getattr(x, "__doc__", None) or "")
    return found[1] if found else ""


def signature(app: Any, what: str, name: str, x: Any, options: Any, given: str, returned: str) -> Any:
    """Show the settings of a pure rule."""
    if not rule_of(x):
        return None
    settings = md.signature(getattr(refoptim, rule_of(x))).removeprefix("(params, ").replace("*, ", "")
    return given.replace("**settings)", settings), returned


def docstring(app: Any, what: str, name: str, x: Any, options: Any, lines: list[str]) -> None:
    """Leave the formula of a pure rule to the page of its optimizer."""
    if rule_of(x):
        lines[:] = [f"The pure rule of :py:class:`~refoptim.{rule_of(x)}`; above stands what goes in and out.", ""]
    if what == "module":
        lines[:] = [re.sub(r"^:param (\w+):", r":\1:", line).replace(":raises ", ":Raises ") for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Listen to autodoc."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
