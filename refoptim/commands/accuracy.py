"""The command ``refoptim accuracy``: how far refoptim and others are from real arithmetic."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from ..conformance import accuracy as errors
from ..conformance import run
from ..conformance.accuracy import Missing, Row
from ..conformance.adapters import NotAvailable
from ..conformance.exact import DIGITS
from ..conformance.verify import plain
from . import drawing
from .error_picture import draw
from .output import Refused, echo, print_json, print_table, refusing

TITLES = ("optimizer", "storage", "implementation", "largest ULP", "mean ULP", "of the way")


@click.command()
@click.option("--pattern", default="", metavar="GLOB", help="Only these cases or optimizers: adam-*, Adam.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(errors.STORAGES), help="Only this storage.")
@click.option("--impl", "names", multiple=True, metavar="NAME", help="Only this implementation; may be repeated.")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(1), help="How many steps are taken.")
@click.option(
    "--factor", default=2.0, show_default=True, type=click.FloatRange(1), help="How far above torch's is too far."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Draw a .png or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@refusing
def accuracy(
    pattern: str,
    dtypes: tuple[str, ...],
    names: tuple[str, ...],
    steps: int,
    factor: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure errors against the same rules in real arithmetic, that is in 50 digits.

    All implementations get the same gradients. A table tells for each optimizer, storage type and implementation the
    largest and the mean error of a parameter in units in the last place (ULP), which are small where a parameter
    passes zero, and the largest error relative to the distance that an element travels. Without --impl, refoptim's
    reference and kernels, torch, optax and Keras are measured, where they are installed.

    The exit code is 1 if somewhere refoptim's mean error is more than --factor times that of torch's loop over tensors,
    and 2 if nothing can be measured.

    \b
    refoptim accuracy -o accuracy.svg
    refoptim accuracy --pattern adam --dtype float32 --impl numpy --impl torch-for-loop
    """
    if find_spec("mpmath") is None:
        raise Refused("this needs mpmath: pip install mpmath")
    if output:
        drawing.check(output)
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        chosen = names or tuple(errors.available())
        versions = {name: run.versions(name) for name in chosen}
    except NotAvailable as error:
        raise Refused(str(error)) from error
    found = list(_measured(pattern, dtypes, chosen, steps))
    rows = errors.summary(x for x in found if isinstance(x, Row))
    missing = [x for x in found if isinstance(x, Missing)]
    if not rows:
        raise Refused(f"nothing could be measured: {_reasons(missing) or f'no case matches {pattern!r}'}")
    if output:
        draw(rows, output)
        echo(f"wrote {output}", err=True)
    worse = errors.above(rows, factor)
    if as_json:
        _print_json(rows, missing, versions, steps, bool(worse))
    else:
        _print(rows, missing, versions, factor)
    sys.exit(bool(worse))


def _measured(pattern: str, dtypes: Sequence[str], names: Sequence[str], steps: int) -> Iterator[Row | Missing]:
    """Measure all there is to measure, with a progress bar in a terminal."""
    console = Console(stderr=True)
    jobs = errors.jobs(pattern, dtypes, steps)
    for job in track(jobs, "measuring", console=console, disable=not console.is_terminal):
        yield from errors.measure(job, names)


def _reasons(missing: Iterable[Missing]) -> str:
    return "; ".join(sorted({x.reason for x in missing}))


def _print_json(
    rows: Sequence[Row], missing: Sequence[Missing], versions: dict[str, dict[str, str]], steps: int, worse: bool
) -> None:
    described = [{key: plain(x) for key, x in asdict(row).items()} for row in rows]
    print_json(
        {
            "ok": not worse,
            "digits": DIGITS,
            "steps": steps,
            "versions": versions,
            "rows": described,
            "missing": [x._asdict() for x in missing],
        }
    )


def _print(rows: Sequence[Row], missing: Sequence[Missing], versions: dict[str, dict[str, str]], factor: float) -> None:
    """Print the table, where refoptim is above torch, what was not measured and why, and versions."""
    cells = [_cells(row) for row in rows]
    above = errors.above(rows)
    worse = [ours for ours, theirs in above if ours.mean_ulp > factor * theirs.mean_ulp]
    piped = not Console().is_terminal
    print_table(TITLES, [TITLES, *cells] if piped else cells, ["red" if row in worse else "" for row in rows])
    for ours, theirs in above:
        where = f"{ours.optimizer} {ours.storage}, {ours.implementation}"
        echo(f"above torch: {where}: {ours.mean_ulp:.4g} ULP, {theirs.mean_ulp:.4g} ULP")
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for x in missing:
        if x.case not in reasons[x.implementation, x.reason]:
            reasons[x.implementation, x.reason].append(x.case)
    for (name, reason), cases in reasons.items():
        echo(f"not measured: {name}, {', '.join(cases)}: {reason}")
    for name, found in versions.items():
        echo(f"{name}: {', '.join(f'{key} {x}' for key, x in found.items()) or 'version unknown'}")


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (f"{x:.3g}" for x in (row.largest_ulp, row.mean_ulp, row.relative))
    return row.optimizer, row.storage, row.implementation, *numbers
