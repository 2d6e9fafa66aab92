"""What the commands share: tables, JSON, and errors of one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import chain, repeat
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])

LINE = 300
"""The longest error in characters."""

WRONG = (TypeError, ValueError, OSError, ImportError, MemoryError, RuntimeError)
"""What is raised about arguments and files."""


class Refused(click.ClickException):
    """A wrong argument or file: one line, exit code 2."""

    exit_code = 2


def refusing(command: F) -> F:
    """Turn what a command raises about its arguments and files into one line and exit code 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends quietly at a closed pipe
            raise
        except ModuleNotFoundError as error:
            extra = "refoptim[bfloat16]" if error.name == "ml_dtypes" else error.name
            raise Refused(f"this needs {error.name}: pip install '{extra}'") from error
        except WRONG as error:
            raise Refused(one_line(str(error) or type(error).__name__)) from error

    return run  # type: ignore[return-value]


def one_line(text: str) -> str:
    """Return a text as one line that is not too long, its middle left out if need be."""
    line = " ".join(text.split())
    return line if len(line) <= LINE else f"{line[: LINE // 2]} … {line[-LINE // 4 :]}"


def print_json(document: Any) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2)
    click.echo()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], styles: Iterable[str] = ()) -> None:
    """Print a table in a terminal, and where it is piped its rows, with tabs between the cells."""
    if not Console().is_terminal:
        for row in rows:
            click.echo("\t".join(row).rstrip("\t"))
        return
    table = Table(*columns)
    for row, style in zip(rows, chain(styles, repeat("")), strict=False):
        table.add_row(*map(Text, row), style=style)
    Console().print(table)
