"""What pages are made of: signatures, tables, code blocks, in Markdown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from refoptim.commands.describe import Argument, before_formula, text


def signature(function: Callable[..., Any]) -> str:
    """Return a signature with the defaults and without annotations, which tables and sentences say better."""
    found = inspect.signature(function)
    plain = [x.replace(annotation=inspect.Parameter.empty) for x in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def code(source: str, language: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{source.rstrip()}\n```"


def rest(*lines: str) -> str:
    """Return a block of reStructuredText."""
    return "\n".join(["```{eval-rst}", *lines, "```"])


def entry(kind: str, name: str, arguments: str) -> str:
    """Return the entry of a name in the index, with its signature."""
    return rest(f".. py:{kind}:: {name}{arguments}")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table, whose rows are cards on narrow screens."""
    cells = [titles, ["---"] * len(titles), *rows]
    lines = ["| " + " | ".join(x.replace("|", "\\|") for x in row) + " |" for row in cells]
    return "\n".join([":::{container} cards" + (f" {kind}" if kind else ""), *lines, ":::"])


def arguments_table(arguments: Iterable[Argument]) -> str:
    """Return hyperparameters as a table: name, default, allowed values, meaning."""
    rows = [(f"`{x.name}`", default(x.default), x.allowed, x.meaning) for x in arguments]
    return table(("name", "default", "allowed", "meaning"), rows, "arguments") if rows else ""


def names(found: Iterable[str]) -> str:
    """Return names as code, with commas between them."""
    return ", ".join(f"`{x}`" for x in found)


def default(value: Any) -> str:
    """Return a default as code."""
    return "required" if value is inspect.Parameter.empty else f"`{value!r}`"


def folded(title: str, body: str) -> str:
    """Return what a reader may unfold."""
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def sections(title: str, *parts: str) -> str:
    """Return a page of parts, those left out that are empty."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"


def wide(page: str) -> str:
    """Return a page without a list of its sections beside it."""
    return f"---\nhtml_theme.sidebar_secondary.remove: true\n---\n\n{page}"


def formula(cls: type) -> str:
    """Return the section that shows the formula of a class, and what its docstring says before and after it."""
    found, before = text(cls), before_formula(cls)
    after = [x for x in found.paragraphs[1:] if x not in before and not x.startswith("Args:")]
    return section("Formula", *before, f"```{{formula}}\n{found.formula}\n```", *after)


def section(title: str, *parts: str) -> str:
    """Return a section, or nothing if it has no parts."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def index(title: str, intro: str, entries: Iterable[str], pages: Iterable[str]) -> str:
    """Return a page that lists pages, and puts them into the table of contents."""
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    return sections(title, intro, "\n".join(entries), toctree)
