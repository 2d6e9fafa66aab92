"""What holds for all commands: their help, a closed pipe, and a checkout that is not installed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from helpers import ROOT
from helpers.command_line import call
from refoptim.commands.main import main

RUN = "import refoptim; refoptim.__path__.append({!r}); from refoptim.commands.main import main; main()"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield what names each command, and each group of commands."""
    yield path
    for name, command in group.commands.items():
        yield from commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]


def start(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run Python on arguments, without what is installed by path files."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-S", *arguments], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, **more
    )


@pytest.mark.parametrize("path", [*commands(main)], ids=" ".join)
def test_examples_in_help_stand_on_lines_of_their_own(path: tuple[str, ...]) -> None:
    text = call(*path, "--help").stdout
    assert "\\b" not in text and "\b" not in text
    examples = [line for line in text.splitlines() if line.startswith(("  refoptim ", "  mpiexec "))]
    assert all(line.count("refoptim ") == 1 for line in examples)
    if not isinstance(command := _find(path), click.Group):
        doc = (command.callback.__doc__ or "") if command.callback else ""
        written = [line.strip() for line in doc.splitlines() if line.strip().startswith(("refoptim ", "mpiexec "))]
        assert written and [line.strip() for line in examples] == written


def _find(path: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


PRINTING = [
    ("explain", "adamw"),
    ("explain", "adamw", "--json"),
    ("list",),
    ("doctor",),
    ("doctor", "--json"),
    ("conformance", "--engine", "numpy", "--pattern", "sgd-plain", "--dtype", "float64"),
    ("accuracy", "--pattern", "sgd", "--dtype", "float64", "--impl", "numpy", "--steps", "2"),
    ("golden", "--help"),
    ("--version",),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_closed_pipe_ends_quietly(arguments: tuple[str, ...]) -> None:
    there, here = os.pipe()
    os.close(there)
    try:
        done = start("-c", RUN.format(str(ROOT)), *arguments, stdout=here)
    finally:
        os.close(here)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.sweep(3)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_an_output_that_cannot_be_written_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = start("-c", RUN.format(str(ROOT)), *arguments, stdout=full)
    expected = f"Error: the output cannot be written: {os.strerror(errno.ENOSPC)}\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_checkout_that_is_not_installed_says_so_in_one_line() -> None:
    done = start("-m", "refoptim", "list", stdout=subprocess.PIPE)
    expected = "refoptim's command line runs from an installed package: pip install -e . in this checkout, or call it "
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{expected}from another folder\n")


def test_no_help_shows_a_mark_of_click() -> None:
    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        yield CliRunner().invoke(main, [*path, "--help"]).stdout
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    texts = [*walk(main, ())]
    assert len(texts) > 15 and not [text for text in texts if "\b" in text or "\\b" in text or "\\x08" in text]
