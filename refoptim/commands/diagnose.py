"""The command ``refoptim diagnose``: a name for the mistake in an optimizer, or in a schedule."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import click
from rich.console import Console

from ..conformance import run, run_schedules
from ..conformance.diagnose import schedules
from ..conformance.diagnose.answer import Diagnosis
from ..conformance.diagnose.evidence import Evidence, collect, of_file, of_suite
from ..conformance.diagnose.optimizers import diagnose, diagnose_implementation
from ..conformance.diagnose.search import Watch
from ..conformance.strict import GoldenError
from ..numerics.arith import COMPLEX, FLOATS
from .output import Refused, echo, one_line, print_json, refusing

STATUS = 100
"""The longest line of progress."""

Said: TypeAlias = "Diagnosis | schedules.Diagnosis"
"""What is said of an optimizer, or of a scheduler."""


@click.command(name="diagnose")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--impl", "name", metavar="NAME", help="An implementation: optax, keras …, or package.module:Class.")
@click.option(
    "--pattern", "patterns", multiple=True, metavar="GLOB", help="Only these cases or optimizers: adam-*, Adam."
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice([*FLOATS, *COMPLEX]), help="Only this storage.")
@click.option("--scheduler", metavar="TEXT", help="PATHS are curves of this scheduler: 'StepLR(step_size=30)'.")
@click.option("--lr", type=float, help="The learning rate of the optimizer whose curve it is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def diagnose_command(
    paths: Sequence[Path],
    name: str | None,
    patterns: tuple[str, ...],
    dtypes: tuple[str, ...],
    scheduler: str | None,
    lr: float | None,
    as_json: bool,
) -> None:
    """Say what is different in an optimizer or a schedule, by the name of the mistake and the line to look at.

    The optimizer is an implementation (--impl), or what it computed: PATHS are trajectory files, or the folder of a
    suite (golden export-suite) with its results. All axes along which implementations are known to differ are tried,
    and wrong settings, alone and together. What explains every case is named; what explains only some is not.

    An implementation's schedules are tried, too. With --scheduler, PATHS are curves: CSV with a column lr (momentum,
    metric), or JSON, a row for each epoch.

    Exit code 0: all rules are the same, but perhaps for rounding. 1: one is another, or unknown. 2: nothing can be run.

    \b
    refoptim diagnose --impl mypackage.adapter:Mine
    refoptim diagnose --impl keras --pattern 'adam-*' --json
    refoptim diagnose suite
    refoptim diagnose mine.npz
    refoptim diagnose curve.csv --scheduler 'StepLR(step_size=30)' --lr 0.1
    """
    if (name is None) == (not paths):
        raise Refused("name an implementation (--impl), or files or the folder of a suite")
    if (scheduler is None) != (lr is None) or (name and scheduler):
        raise Refused("a curve needs --scheduler and --lr, and is a file")
    run.check_arithmetic()
    with watching() as watch:
        if scheduler and lr is not None:
            found = [_of_curve(path, scheduler, lr) for path in paths]
        elif name:
            found = _of_implementation(name, patterns, dtypes, watch)
        else:
            found = [*_of_paths(paths, patterns, dtypes, watch)]
    if not found:
        raise Refused(f"nothing could be run: {_why(name, patterns, dtypes)}")
    _print(found, name, as_json)
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


def _of_implementation(name: str, patterns: tuple[str, ...], dtypes: tuple[str, ...], watch: Watch) -> list[Said]:
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    return [*diagnose_implementation(name, patterns, dtypes, watch=watch), *_of_schedules(name, patterns, watch)]


def _why(name: str | None, patterns: tuple[str, ...], dtypes: tuple[str, ...]) -> str:
    """Say why there is nothing to diagnose: no case matches, or an implementation refuses all that do."""
    jobs = run.jobs(name, patterns, dtypes) if name else []
    reasons = sorted({*collect(jobs).not_run.values()})
    if reasons:
        return "; ".join(reasons)
    return "no case matches" if name else "no case matches that has results"


def _of_schedules(name: str, patterns: tuple[str, ...], watch: Watch) -> Iterator[Said]:
    for stem, jobs in groupby(run_schedules.jobs(name, patterns), lambda job: job.stem):
        watch(f"{stem}: trying its schedules")
        said = run_schedules.performed(list(jobs))[1]
        if said:
            yield said


def _of_curve(path: Path, scheduler: str, lr: float) -> Said:
    try:
        curve = schedules.read_curve(path)
        return schedules.diagnose_curve(scheduler, lr, curve["lr"], curve.get("momentum"), curve.get("metric"))
    except (GoldenError, ValueError, TypeError) as error:
        raise Refused(str(error)) from None


def _of_paths(
    paths: Sequence[Path], patterns: tuple[str, ...], dtypes: tuple[str, ...], watch: Watch
) -> Iterator[Said]:
    grouped: dict[str, list[Evidence]] = {}
    for path in paths:
        found = of_suite(path, patterns, dtypes) if path.is_dir() else [of_file(path)]
        for evidence in found:
            grouped.setdefault(evidence.case.optimizer, []).append(evidence)
    for optimizer, evidence in grouped.items():
        yield diagnose(optimizer, evidence, watch=watch)


def _print(found: Sequence[Said], name: str | None, as_json: bool) -> None:
    if as_json:
        about: dict[str, Any] = {"implementation": name, "versions": run.versions(name)} if name else {}
        print_json({**about, "diagnoses": [{**x.as_dict(), "ok": x.ok} for x in found]})
    else:
        echo(*"\n\n".join(map(str, found)).splitlines())
