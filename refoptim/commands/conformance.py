"""The command ``refoptim conformance``: every engine, or anyone's implementation, against every golden."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from ..conformance import adapters, cases, report, run, run_schedules, verdicts
from ..conformance.adapters import ENGINES, NotAvailable
from ..conformance.diagnose.optimizers import named
from ..conformance.verify import Tolerance
from ..formats.files import refuse_same, require_folder
from ..numerics.arith import COMPLEX, FLOATS
from .diagnose import watching
from .output import Refused, echo, print_json, print_table, refusing

OTHERS = ", ".join(x for x in adapters.BUILT_IN if x not in ENGINES)

STYLES = {run.FAILS: "red", run.ERROR: "red", run.DEVIATES: "yellow", run.PASSES: "yellow", run.HOLDS: "green"}


def _named(context: click.Context, option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if ":" in name and not all(name.split(":", 1)):
            raise click.BadParameter(f"expected package.module:Class, got {name!r}")
    return names


@click.command()
@click.option(
    "--engine", "engines", multiple=True, type=click.Choice([*ENGINES]), help="An engine; [default: all here]."
)
@click.option(
    "--impl",
    "implementations",
    multiple=True,
    callback=_named,
    metavar="NAME",
    help=f"Another implementation: {OTHERS}, or package.module:Class.",
)
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Only these cases: adam-*, *-edges, Adam.",
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice([*FLOATS, *COMPLEX]), help="Only this storage.")
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML.")
@click.option("--ulp", type=click.IntRange(0), help="Allow so many ULP, whatever is promised.")
@click.option("--rtol", type=click.FloatRange(0), help="Allow atol + rtol * |expected|, whatever is promised.")
@click.option("--atol", type=click.FloatRange(0), help="Likewise.")
@click.option("--traceback", "whole", is_flag=True, help="Print the whole traceback of what raised.")
@click.option("--no-diagnose", is_flag=True, help="Do not search for the names of mistakes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@refusing
def conformance(
    engines: Sequence[str],
    implementations: Sequence[str],
    patterns: tuple[str, ...],
    dtypes: tuple[str, ...],
    page: Path | None,
    junit: Path | None,
    ulp: int | None,
    rtol: float | None,
    atol: float | None,
    whole: bool,
    no_diagnose: bool,
    as_json: bool,
) -> None:
    """Run the cases and compare every bit with the goldens.

    Without options all engines of this machine run against all goldens, optimizers and schedulers. An implementation
    named by --impl, found as Python finds modules or in this folder, runs against the goldens of refoptim, and where
    an optimizer breaks a promise its mistake is searched for by name, as ``refoptim diagnose`` does. The exit code is 0
    if all promises hold, 1 if one is broken, and 2 if something cannot be run.

    \b
    refoptim conformance
    refoptim conformance --pattern 'adamw-*' --dtype float32 --report report.html
    refoptim conformance --impl optax --impl torch-fused
    refoptim conformance --impl mypackage.adapter:Mine
    refoptim conformance --impl mypackage.adapter:Mine --rtol 1e-5 --atol 1e-7
    """
    _check_outputs(page, junit)
    names = [*engines, *implementations] or available()
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")
    run.check_arithmetic()
    versions = {name: run.versions(name) for name in names}
    results = list(perform(names, patterns, dtypes, tolerance(ulp, rtol, atol)))
    if not results:
        meant = " or ".join(map(repr, patterns))
        where = ", ".join(dtypes) or "any storage type"
        raise Refused(f"no case matches {meant} in {where}: patterns are globs, {near(patterns)}")
    if all(r.outcome == run.NOT_RUN for r in results):
        raise Refused(f"nothing could be run: {'; '.join(sorted({r.reason for r in results}))}")
    diagnoses = {} if no_diagnose else _named_mistakes(implementations, results)
    _write(results, versions, diagnoses, page, junit)
    if as_json:
        print_json(document(results, versions, diagnoses))
    else:
        _show(results, versions, diagnoses, every=not implementations, tracebacks=whole)
        if not (engines or implementations):
            _tell_of_host()
    sys.exit(int(not all(r.ok for r in results)))


def _named_mistakes(implementations: Sequence[str], results: Sequence[run.Result]) -> report.Diagnoses:
    """Name the mistakes of implementations from elsewhere."""
    with watching() as watch:
        return named([r for r in results if r.implementation in implementations], watch)


def tolerance(ulp: int | None, rtol: float | None, atol: float | None) -> Tolerance | None:
    """Return what was asked for in place of what is promised, or None if nothing was."""
    if ulp is not None and (rtol is not None or atol is not None):
        raise Refused("--ulp does not go with --rtol and --atol: choose one measure")
    return None if ulp is rtol is atol is None else Tolerance(ulp or 0, rtol or 0.0, atol or 0.0)


def near(patterns: Sequence[str]) -> str:
    """Suggest a pattern for one that matches nothing."""
    known = [case.id for stem in cases.stems() for case in cases.load(stem)]
    begun = [text for text in patterns if any(text.lower() in name for name in known)]
    return f"try '*{begun[0]}*'" if begun else "'adam-*' is all cases of Adam"


def document(results: Sequence[run.Result], versions: report.Versions, diagnoses: report.Diagnoses) -> dict[str, Any]:
    """Return everything as what JSON can hold."""
    found = [
        {"implementation": a, "optimizer": b, "text": x.text, "names": [*x.flags], **x.details}
        for (a, b), x in diagnoses.items()
    ]
    return {
        "ok": all(r.ok for r in results),
        "versions": versions,
        "verdicts": [v.as_dict() for v in verdicts.verdicts(results)],
        "diagnoses": found,
        "results": [r.as_dict() for r in results],
    }


def _check_outputs(page: Path | None, junit: Path | None) -> None:
    """Refuse, before anything is run, reports that could not be written afterwards."""
    refuse_same({"--report": page, "--junit": junit})
    for path in filter(None, (page, junit)):
        require_folder(path)


def available() -> list[str]:
    """Return the engines that this machine has."""
    found = []
    for name in ENGINES:
        try:
            adapters.find(name)
        except NotAvailable:
            continue
        found.append(name)
    return found


def _tell_of_host() -> None:
    """Say why the kernels for this computer were not run, if so."""
    try:
        adapters.find("host")
    except NotAvailable as error:
        echo(f"host not run: {str(error).partition(': ')[2]} (refoptim doctor)")


def perform(
    names: Sequence[str], pattern: Sequence[str], dtypes: tuple[str, ...], allowed: Tolerance | None = None
) -> Iterator[run.Result]:
    """Run all there is to run, with a progress bar in a terminal."""
    jobs = [job for name in names for job in run.jobs(name, pattern, dtypes, allowed)]
    wanted = [name for name in names if name != "numpy" or not dtypes or "float64" in dtypes]
    schedules = [each for name in wanted for each in run_schedules.work(name, pattern)]
    console = Console(stderr=True)
    work: list[Callable[[], list[run.Result]]] = [*(partial(run.perform, job) for job in jobs), *schedules]
    for perform_one in track(work, "running cases", console=console, disable=not console.is_terminal):
        yield from perform_one()


def _write(
    results: Sequence[run.Result],
    versions: report.Versions,
    diagnoses: report.Diagnoses,
    page: Path | None,
    junit: Path | None,
) -> None:
    try:
        if page:
            report.write(page, report.page(results, versions, " ".join(["refoptim", *sys.argv[1:]]), diagnoses))
        if junit:
            report.write(junit, report.junit(results, diagnoses))
    except OSError as error:
        raise OSError(error.errno, f"cannot write the report: {error.strerror}", error.filename) from error


def _show(
    results: Sequence[run.Result],
    versions: report.Versions,
    diagnoses: report.Diagnoses,
    every: bool,
    tracebacks: bool,
) -> None:
    """Print the table, verdicts, what is broken or new, what was not run and why, versions, and a summary."""
    _print_matrix(results, every)
    for v in (v for v in verdicts.verdicts(results) if v.ran or v.raised or v.unlike):
        known = diagnoses.get((v.implementation, v.optimizer))
        echo(f"{v.optimizer}, {v.implementation}: {v.line}", *(known.text.splitlines() if known else ()))
    for _, found in groupby((r for r in results if not r.ok or r.outcome == run.PASSES), _case):
        _show_case(list(found), tracebacks)
    reasons = Counter((report.column(r), r.reason) for r in results if r.outcome == run.NOT_RUN)
    for (name, reason), n in reasons.items():
        echo(f"{n} not run, {name}: {reason}")
    for name, about in versions.items():
        echo(f"{name}: {', '.join(f'{key} {x}' for key, x in about.items()) or 'version unknown'}")
    echo(report.summary(results))
    echo(report.verdict(results))


def _show_case(same: Sequence[run.Result], tracebacks: bool) -> None:
    """Print what is to be said of a case on an implementation, in all its storage types."""
    for r in same:
        echo(_line(r), *filter(None, [report.farthest(r)]))
        if tracebacks and r.traceback:
            echo(*r.traceback.splitlines())
    about = report.about(same[0].case)
    if about:
        echo(*about)


def _print_matrix(results: Iterable[run.Result], whole: bool) -> None:
    """Print the table, and of rows in which nothing ran only their number unless it is wanted whole."""
    columns, every = report.matrix(results)
    rows = {key: row for key, row in every.items() if whole or any(x.outcome != run.NOT_RUN for x in row.values())}
    worst = [next((s for s in STYLES if any(c.outcome == s for c in row.values())), "") for row in rows.values()]
    piped = not Console().is_terminal
    for chosen in [columns] if piped else fitting(columns, Console().width):
        cells = [(*key, *(row[name].text if name in row else "" for name in chosen)) for key, row in rows.items()]
        titles = ("optimizer", "storage", *chosen)
        print_table(titles, [titles, *cells] if piped else cells, [STYLES.get(outcome, "") for outcome in worst])
    if len(rows) < len(every):
        echo(f"{len(every) - len(rows)} rows are left out, in which nothing ran: why is said below")


def fitting(columns: Sequence[str], width: int) -> list[Sequence[str]]:
    """Part columns into tables that a terminal can hold: beside two of 30 characters each takes about 24."""
    many = max(1, (width - 30) // 24)
    return [columns[i : i + many] for i in range(0, len(columns), many)]


def _case(result: run.Result) -> tuple[str, str]:
    return result.implementation, result.case


def _line(r: run.Result) -> str:
    promised = "" if r.outcome == run.ERROR else f", promised {r.promise or 'nothing'}"
    where = f"{r.outcome}: {r.case} {r.dtype}, {report.column(r)}{promised}"
    return f"{where}: {r.shown or r.reason}" + (f" ({r.reason})" if r.shown and r.reason else "")
