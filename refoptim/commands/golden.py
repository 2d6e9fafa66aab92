"""The commands ``refoptim golden …``: trajectories made, shown, compared, and handed to programs in other languages."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import track

from ..conformance import export, formats, generate, goldens, record_lr, run, schedules, tasks, verify
from ..conformance.gradients import KINDS, SOURCES
from ..lr_scheduler import LRScheduler
from ..numerics.arith import COMPLEX, FLOATS
from .describe import find
from .output import Refused, echo, print_json, print_table, refusing

T = TypeVar("T")

SHOW_AFTER = 100_000
"""Numbers in all steps from which on progress is shown."""


@click.group()
def golden() -> None:
    """Make golden trajectories, show them, and compare trajectories of any program with them.

    \b
    refoptim golden generate AdamW --set lr=0.01 -o adamw.npz
    refoptim golden show adamw.npz
    refoptim golden verify mine.npz
    refoptim golden export-suite suite --pattern 'adam-*' --dtype float32
    refoptim golden verify suite
    """


def _shape(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Read shapes like 3,4 (a single number is written as an empty text)."""
    try:
        shapes = [tuple(int(size) for size in text.replace("x", ",").split(",") if size.strip()) for text in texts]
    except ValueError:
        shapes = [(-1,)]
    if any(size < 0 for shape in shapes for size in shape):
        raise click.BadParameter(f"a shape is sizes like 3,4, got {' and '.join(map(repr, texts))}")
    return shapes


def _settings(context: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> dict[str, Any]:
    """Read settings like lr=0.1."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"a setting is written NAME=VALUE, got {text!r}")
        if name.strip() in found:
            raise click.BadParameter(f"{name.strip()} is given twice")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """Read a number, a list of numbers, true, false or none; any other text stands for itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


@golden.command(name="generate")
@click.argument("name", metavar="OPTIMIZER")
@click.option("--set", "settings", multiple=True, callback=_settings, metavar="NAME=VALUE", help="A hyperparameter.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice([*FLOATS, *COMPLEX]))
@click.option("--shape", "shapes", multiple=True, callback=_shape, metavar="N,M,…", help="A parameter's; [default: 16]")
@click.option("--steps", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 64) - 1), help="Of all numbers.")
@click.option(
    "--gradient",
    "kind",
    default="normal",
    show_default=True,
    type=click.Choice([*KINDS, *(name for name, source in SOURCES.items() if not source.keys)]),
    help="The kind of the gradients, or a problem.",
)
@click.option("--name", "prefix", metavar="NAME", help="What names in a C header begin with; [default: the file's].")
@click.option("--format", "form", type=click.Choice([*formats.ENCODERS]), help="By default what the suffix says.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: path, bytes, sha256 of the file.")
@refusing
def generate_command(
    name: str,
    settings: dict[str, Any],
    dtype: str,
    shapes: list[tuple[int, ...]],
    steps: int,
    seed: int,
    kind: str,
    prefix: str | None,
    form: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Run OPTIMIZER on the reference and write every step to a file.

    The file holds gradients, parameters and state of all steps, what was run, and on what. The same command makes the
    same bytes. Names are read in any case. LBFGS and ConjugateGradient run on a quadratic. The name of a scheduler
    gives its learning rates; --set lr= and --set momentum= are then those of the SGD it works on.

    \b
    refoptim golden generate adamw -o adamw.npz
    refoptim golden generate Adam --set lr=0.01 --set betas=0.8,0.95 --set amsgrad=true --steps 100 -o adam.json
    refoptim golden generate sgd --dtype bfloat16 --shape 3,4 --shape 7 --seed 5 -o sgd.safetensors
    refoptim golden generate adam --gradient tiny --format c-header -o adam.h
    refoptim golden generate StepLR --set step_size=3 --steps 12 -o lr.csv
    refoptim golden generate 'SequentialLR(LinearLR(total_iters=5), ExponentialLR(gamma=0.9), milestones=[5])' -o lr.npz
    """
    form = form or formats.format_of(output)
    cls = find(name.partition("(")[0])
    if issubclass(cls, LRScheduler):
        described = name.replace(name.partition("(")[0], cls.__name__, 1)
        header, tensors = schedules.make(schedules.task(described, settings, steps, seed))
    else:
        entry = tasks.task(cls, settings, dtype, shapes, steps, seed, kind)
        numbers = steps * sum(math.prod(shape) for shape in entry["shapes"])
        header, tensors = generate.make(entry, _progress("computing", steps, hidden=numbers < SHOW_AFTER))
    data = formats.write(output, formats.Trajectory(header, tensors), form, prefix)
    if as_json:
        print_json({"path": str(output), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def _progress(label: str, total: int | None = None, hidden: bool = False) -> Callable[[Iterable[T]], Iterable[T]]:
    """Return what passes things on and shows how far they are, unless nobody is looking."""
    console = Console(stderr=True)
    disable = hidden or not console.is_terminal

    def watch(things: Iterable[T]) -> Iterable[T]:
        return track(things, label, total=total, console=console, disable=disable, transient=True)

    return watch


@golden.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def show(file: Path, as_json: bool) -> None:
    """Show what a file holds: what was run, on what, and its arrays.

    \b
    refoptim golden show adamw.npz
    refoptim golden show adamw.npz --json
    """
    if verify.is_golden(file):
        _show_golden(goldens.read(file), as_json)
        return
    if verify.is_schedules(file):
        _show_schedules(record_lr.read(file), as_json)
        return
    header, tensors = formats.read(file)
    arrays = [{"name": name, "dtype": x.dtype.name, "shape": list(x.shape)} for name, x in tensors.items()]
    if as_json:
        print_json({**header, "arrays": arrays})
        return
    for key, value in [*header["case"].items(), *dict(header.get("provenance") or {}).items()]:
        echo(f"{_line(key):12}{_line(value)}")
    print_table(
        ("array", "dtype", "shape"), [[x["name"], x["dtype"], " x ".join(map(str, x["shape"]))] for x in arrays]
    )


def _line(x: Any) -> str:
    """Return something of a file on one line; a text stands for itself."""
    return x if isinstance(x, str) else json.dumps(x)


def _show_golden(found: dict[str, Any], as_json: bool) -> None:
    """Show a golden of several cases."""
    rows = [{"case": x["case"], "dtype": x["dtype"], "steps": list(x["steps"])} for x in found["trajectories"]]
    if as_json:
        print_json({"optimizer": found["optimizer"], "provenance": found["provenance"], "trajectories": rows})
        return
    _show_origin("optimizer", found)
    print_table(("case", "dtype", "recorded steps"), [[x["case"], x["dtype"], " ".join(x["steps"])] for x in rows])


def _show_schedules(found: dict[str, Any], as_json: bool) -> None:
    """Show a golden of a scheduler."""
    rows = [{key: x[key] for key in ("scheduler", "optimizer", "metrics")} for x in found["cases"]]
    if as_json:
        print_json({"scheduler": found["scheduler"], "provenance": found["provenance"], "cases": rows})
        return
    _show_origin("scheduler", found)
    print_table(("scheduler", "on", "metric"), [[x["scheduler"], x["optimizer"], x["metrics"] or ""] for x in rows])


def _show_origin(kind: str, found: dict[str, Any]) -> None:
    """Show what a golden is of, and who computed it."""
    echo(f"{kind:12}{_line(found[kind])}")
    for key, value in found["provenance"].items():
        echo(f"{_line(key):12}{_line(value)}")


@golden.command(name="verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--ulp", default=0, show_default=True, type=click.IntRange(0), help="How many ULP may be between numbers."
)
@click.option("--rtol", default=0.0, type=click.FloatRange(0), help="Allow atol + rtol * |expected| instead.")
@click.option("--atol", default=0.0, type=click.FloatRange(0), help="Likewise.")
@click.option("--pattern", "patterns", multiple=True, metavar="GLOB", help="Of a suite: cases like adam-*, or Adam.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice([*FLOATS, *COMPLEX]), help="Of a suite.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def verify_command(
    path: Path,
    ulp: int,
    rtol: float,
    atol: float,
    patterns: Sequence[str],
    dtypes: Sequence[str],
    as_json: bool,
) -> None:
    """Compare a trajectory, or the results in a suite, with the reference.

    PATH is a trajectory file of any program, which says in its header what was run; a golden; or the folder of a suite
    (golden export-suite). Where numbers part, the first one is named, in the order of the computation: step, array,
    element, both values and their bits, and how far they are apart.

    Exit code 0: everything is as close as was asked for, by default bit for bit. 1: something parts, or is missing.
    2: a file is refused.

    \b
    refoptim golden verify mine.npz
    refoptim golden verify mine.csv --ulp 2
    refoptim golden verify suite --pattern 'adam-*' --json
    """
    tolerance = verify.Tolerance(ulp, rtol, atol)
    if path.is_dir():
        verdicts = list(_progress("judging")(export.judge(path, tolerance, patterns, dtypes)))
    else:
        verdicts = verify.verify_file(path, tolerance, _progress("computing"))
    if as_json:
        print_json(
            {
                "tolerance": str(tolerance),
                "holds": all(x.holds for x in verdicts),
                "cases": [x.as_dict() for x in verdicts],
            }
        )
    else:
        _print_verdicts(verdicts)
    if any(x.refused for x in verdicts):
        raise click.exceptions.Exit(2)
    if not all(x.holds for x in verdicts):
        raise click.exceptions.Exit(1)


def _print_verdicts(verdicts: Sequence[verify.Verdict]) -> None:
    colours = {True: "green", False: "red"}
    rows = [[x.name, x.summary, f"{x.differing} of {x.compared}", str(x.shown or "")] for x in verdicts]
    print_table(("case", "result", "differing", "first parts in"), rows, [colours[x.holds] for x in verdicts])
    for note, names in _notes(verdicts).items():
        echo(f"{', '.join(names)}: {note}")
    held = sum(x.holds for x in verdicts)
    echo(f"{held} of {len(verdicts)} hold" + (": all is well" if held == len(verdicts) else ""))


def _notes(verdicts: Sequence[verify.Verdict]) -> dict[str, list[str]]:
    """Return what is known of mistakes, and in which cases it was seen."""
    found: dict[str, list[str]] = {}
    for x in verdicts:
        if x.note:
            found.setdefault(x.note, []).append(x.name)
    return found


@golden.command(name="export-suite")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--pattern", "patterns", multiple=True, metavar="GLOB", help="Only cases like adam-*, or Adam.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice([*FLOATS, *COMPLEX]), help="Only this storage type."
)
@click.option(
    "--numbers", default="bin", show_default=True, type=click.Choice(["bin", "csv"]), help="How they are written."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: the folder and its cases.")
@refusing
def export_suite(folder: Path, patterns: Sequence[str], dtypes: Sequence[str], numbers: str, as_json: bool) -> None:
    """Write cases and their inputs for programs in any language into FOLDER.

    A program reads a case, takes the steps, and writes its parameters beside it; 'golden verify FOLDER' judges it. The
    README.md in the folder explains the files. Options may be given several times.

    \b
    refoptim golden export-suite suite
    refoptim golden export-suite suite --pattern 'sgd-*' --pattern 'adam-*' --dtype float32 --numbers csv
    """
    chosen = export.runs(patterns, dtypes)
    if not chosen:
        raise Refused("no case has such a name and storage type")
    absent = run.lacking("bfloat16")
    left_out = [x for x in chosen if absent and x.dtype == "bfloat16"]
    chosen = [x for x in chosen if x not in left_out]
    if not chosen:
        raise Refused(f"nothing can be exported: {absent}")
    export.export(folder, _progress("computing", len(chosen))(chosen), numbers)
    if left_out:
        echo(f"{len(left_out)} cases in bfloat16 are left out: {absent}", err=True)
    if as_json:
        print_json({"folder": str(folder), "cases": [{"case": x.case.id, "dtype": x.dtype} for x in chosen]})
        return
    echo(f"{len(chosen)} cases in {folder}: read {folder / 'README.md'}")
