"""Write docs/optimizers/: a page per optimizer, made of its docstring and of what its constructor declares.

python docs/reference.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from refoptim import Optimizer
from refoptim.commands.describe import arguments, optimizers, stem, summary

HERE = Path(__file__).parent / "optimizers"


def page(cls: type[Optimizer]) -> str:
    """Return the page of an optimizer."""
    text = inspect.getdoc(cls) or ""
    body = text.replace(".. code-block:: text\n\n", "").replace("``", "`")
    return f"# {cls.__name__}\n\n{body}\n\n## Arguments\n\n{table(cls)}\n"


def table(cls: type[Optimizer]) -> str:
    """Return the hyperparameters as a table: name, default, allowed values, meaning."""
    rows = [f"| `{x.name}` | `{x.default!r}` | {x.allowed} | {x.meaning} |" for x in arguments(cls)]
    return "\n".join(["| name | default | allowed | meaning |", "|---|---|---|---|", *rows])


def index(classes: list[type[Optimizer]]) -> str:
    """Return the page that lists all optimizers with the first line of their docstrings."""
    rows = [f"- [{x.__name__}]({stem(x)}.md): {summary(x)}" for x in classes]
    return "# Optimizers\n\n" + "\n".join(rows) + "\n"


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    classes = optimizers()
    return {"index.md": index(classes), **{f"{stem(x)}.md": page(x) for x in classes}}


def main() -> None:
    """Write all pages."""
    HERE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
