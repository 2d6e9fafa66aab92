"""The command ``refoptim diagnose``: a name for the mistake in an optimizer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import click
from rich.console import Console

from ..conformance import run
from ..conformance.diagnose.answer import Diagnosis
from ..conformance.diagnose.evidence import Evidence, of_file, of_suite
from ..conformance.diagnose.optimizers import diagnose, diagnose_implementation
from ..conformance.diagnose.search import Watch
from ..numerics.arith import COMPLEX, FLOATS
from .output import Refused, echo, one_line, print_json, refusing

STATUS = 100
"""The longest line of progress."""


@click.command(name="diagnose")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--impl", "name", metavar="NAME", help="An implementation: optax, keras …, or package.module:Class.")
@click.option(
    "--pattern", "patterns", multiple=True, metavar="GLOB", help="Only these cases or optimizers: adam-*, Adam."
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice([*FLOATS, *COMPLEX]), help="Only this storage.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def diagnose_command(
    paths: Sequence[Path], name: str | None, patterns: tuple[str, ...], dtypes: tuple[str, ...], as_json: bool
) -> None:
    """Say what is different in an optimizer, by the name of the mistake and the line to look at.

    The optimizer is an implementation (--impl), or what it computed: PATHS are trajectory files, or the folder of a
    suite (golden export-suite) with its results. All axes along which implementations are known to differ are tried,
    and wrong settings, alone and together. What explains every case is named; what explains only some is not.

    Exit code 0: all rules are the same, but perhaps for rounding. 1: one is another, or unknown. 2: nothing can be run.

    \b
    refoptim diagnose --impl mypackage.adapter:Mine
    refoptim diagnose --impl keras --pattern 'adam-*' --json
    refoptim diagnose suite
    refoptim diagnose mine.npz
    """
    if (name is None) == (not paths):
        raise Refused("name an implementation (--impl), or files or the folder of a suite")
    run.check_arithmetic()
    with watching() as watch:
        found = [
            *(_of_implementation(name, patterns, dtypes, watch) if name else _of_paths(paths, patterns, dtypes, watch))
        ]
    if not found:
        raise Refused("nothing could be run: no case matches, or the optimizer can run none of them")
    _print(found, as_json)
    sys.exit(int(not all(x.ok for x in found)))


@contextmanager
def watching() -> Iterator[Watch]:
    """Show in a terminal what is being tried; what an implementation prints goes to stderr."""
    console = Console(stderr=True)
    with redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield lambda text: None
            return
        with console.status("") as status:
            yield lambda text: status.update(one_line(text)[:STATUS])


def _of_implementation(name: str, patterns: tuple[str, ...], dtypes: tuple[str, ...], watch: Watch) -> list[Diagnosis]:
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    found: list[Diagnosis] = diagnose_implementation(name, patterns, dtypes, watch=watch)
    return found


def _of_paths(
    paths: Sequence[Path], patterns: tuple[str, ...], dtypes: tuple[str, ...], watch: Watch
) -> Iterator[Diagnosis]:
    grouped: dict[str, list[Evidence]] = {}
    for path in paths:
        found = of_suite(path, patterns, dtypes) if path.is_dir() else [of_file(path)]
        for evidence in found:
            grouped.setdefault(evidence.case.optimizer, []).append(evidence)
    for optimizer, evidence in grouped.items():
        yield diagnose(optimizer, evidence, watch=watch)


def _print(found: Sequence[Diagnosis], as_json: bool) -> None:
    if as_json:
        print_json({"diagnoses": [x.as_dict() for x in found]})
    else:
        echo(*"\n\n".join(map(str, found)).splitlines())
