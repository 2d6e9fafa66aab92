"""Write docs/optimizers/: a page per optimizer, made of its docstring and of what its constructor declares.

python docs/reference.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

import refoptim
from refoptim.hyper import Hyper, Several, declared

HERE = Path(__file__).parent / "optimizers"


def optimizers() -> list[type[refoptim.Optimizer]]:
    """Return the public optimizers by name."""
    found = [getattr(refoptim, name) for name in refoptim.__all__]
    classes = [x for x in found if inspect.isclass(x) and issubclass(x, refoptim.Optimizer)]
    return sorted((x for x in classes if x is not refoptim.Optimizer), key=lambda x: x.__name__.lower())


def page(cls: type[refoptim.Optimizer]) -> str:
    """Return the page of an optimizer."""
    text = inspect.getdoc(cls) or ""
    body = text.replace(".. code-block:: text\n\n", "").replace("``", "`")
    return f"# {cls.__name__}\n\n{body}\n\n## Arguments\n\n{table(cls)}\n"


def table(cls: type[refoptim.Optimizer]) -> str:
    """Return the hyperparameters as a table: name, default, allowed values, meaning."""
    hypers = declared(cls)
    rows = [
        f"| `{name}` | `{argument.default!r}` | {allowed(hypers[name])} | {hypers[name].doc} |"
        for name, argument in inspect.signature(cls).parameters.items()
        if name in hypers
    ]
    return "\n".join(["| name | default | allowed | meaning |", "|---|---|---|---|", *rows])


def allowed(hyper: Hyper) -> str:
    """Return the allowed values of a hyperparameter, a tuple's one by one."""
    if isinstance(hyper, Several):
        return ", ".join(item.range for item in hyper.items)
    return hyper.range


def index(classes: list[type[refoptim.Optimizer]]) -> str:
    """Return the page that lists all optimizers with the first line of their docstrings."""
    rows = [f"- [{x.__name__}]({stem(x)}.md): {(inspect.getdoc(x) or '').splitlines()[0]}" for x in classes]
    return "# Optimizers\n\n" + "\n".join(rows) + "\n"


def stem(cls: type) -> str:
    """Return the name of the file that defines an optimizer."""
    return cls.__module__.rpartition(".")[2]


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
