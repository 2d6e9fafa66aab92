"""What the commands share: all that they print, tables, JSON, and errors of one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import chain, repeat
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..formats.visible import visible

F = TypeVar("F", bound=Callable[..., Any])

LINE = 300
"""The longest error in characters."""

WRONG = (TypeError, ValueError, ArithmeticError, OSError, ImportError, MemoryError, RuntimeError)
"""What is raised about arguments and files."""


class Refused(click.ClickException):
    """A wrong argument or file: one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Program(click.Group):
    """The whole command line: whatever is wrong, what is said of it holds nothing that a terminal obeys."""

    def main(self, args: Any = None, prog_name: str | None = None, **more: Any) -> Any:  # type: ignore[override]
        """Run a command; the name of the program is ours, whatever the file is called."""
        return super().main(args, prog_name or "refoptim", **more)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read the options before a command."""
        with _visible_errors():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the options of a command, and run it."""
        with _visible_errors():
            return super().invoke(ctx)


@contextmanager
def _writing() -> Iterator[None]:
    """Turn what is wrong with the stream that is written to into one line and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # click ends quietly at a closed pipe
        raise
    except OSError as error:
        raise Refused(f"the output cannot be written: {error.strerror or error}") from error


@contextmanager
def _visible_errors() -> Iterator[None]:
    try:
        with _writing():  # help, which click prints
            yield
    except click.ClickException as error:
        vars(error).update(message=visible(error.message, "\n\t"))  # an attribute that click calls final
        raise


def refusing(command: F) -> F:
    """Turn what a command raises about its arguments and files into one line and exit code 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except ModuleNotFoundError as error:
            raise Refused(f"this needs {error.name}: pip install {error.name}") from error
        except WRONG as error:
            raise Refused(str(error) or type(error).__name__) from error

    return run  # type: ignore[return-value]


def one_line(text: str) -> str:
    """Return a text as one line that is not too long, its middle left out if need be."""
    line = " ".join(visible(text, "\n\t").split())
    return line if len(line) <= LINE else f"{line[: LINE // 2]} … {line[-LINE // 4 :]}"


@_writing()
def echo(*lines: str, err: bool = False, color: str | None = None) -> None:
    """Print lines, in a terminal in a color."""
    click.secho("\n".join(map(visible, lines)), err=err, fg=color)


@_writing()
def heading(text: str) -> None:
    """Print a heading."""
    click.secho(visible(text), bold=True)


@_writing()
def print_json(document: Any) -> None:
    """Print one JSON document, whole or not at all; it is plain ASCII."""
    click.echo(json.dumps(document, indent=2))


@_writing()
def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], styles: Iterable[str] = ()) -> None:
    """Print a table in a terminal, and where it is piped its rows, with tabs between the cells."""
    shown = [[*map(visible, row)] for row in rows]
    if not Console().is_terminal:
        for row in shown:
            click.echo("\t".join(row).rstrip("\t"))
        return
    table = Table()
    for column in columns:
        table.add_column(Text(visible(column)))
    for row, style in zip(shown, chain(styles, repeat("")), strict=False):
        table.add_row(*map(Text, row), style=style)
    Console().print(table)
