"""The commands ``refoptim checkpoint …``: checkpoints shown, verified, converted, and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..checkpoint import CheckpointError
from ..checkpoint.differences import Difference, differences
from ..checkpoint.single import Progress as Told
from ..checkpoint.tree import Found, kind, read_tree, write_tree
from ..formats.files import refuse_same
from .output import echo, one_line, print_json, print_table, refusing

SHOW_AFTER = 1 << 27
"""Bytes of a file from which on progress is shown."""

_path = click.Path(path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def checkpoint() -> None:
    """Show checkpoints, verify, convert, and compare them.

    FILE is what refoptim.checkpoint.save writes (.safetensors, .npz, .json, a folder of shards), or a .pt of torch,
    which is read without torch; nothing in it is run.

    \b
    refoptim checkpoint show run/step-1200.safetensors
    refoptim checkpoint verify run/*.safetensors
    refoptim checkpoint convert model.pt model.safetensors
    refoptim checkpoint diff run/step-1100.safetensors run/step-1200.safetensors
    """


@contextmanager
def _progress(label: str, total: int) -> Iterator[Told]:
    """Yield what is told of bytes, and shows how many of ``total`` that is, where somebody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal or total < SHOW_AFTER
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    files = filter(Path.is_file, sorted(path.iterdir())) if path.is_dir() else [path]
    return sum(x.stat().st_size for x in files)


def _read(path: Path, verify: bool = True) -> Found:
    with _progress(f"reading {path.name}", _size(path)) as progress:
        return read_tree(path, verify, progress)


@checkpoint.command()
@click.argument("file", type=_path)
@_as_json
@refusing
def show(file: Path, as_json: bool) -> None:
    """Show what a checkpoint holds: its metadata, its parts, and its arrays with their digests.

    The arrays themselves are not read, so that this takes no time; 'verify' reads them. An array that stands in several
    places is shown once.

    \b
    refoptim checkpoint show run/step-1200.safetensors
    refoptim checkpoint show run/step-1200.safetensors --json
    """
    found = _read(file, verify=False)
    rows = [_row(name, x, found.about.get("sha256", {}).get(name)) for name, x in found.arrays.items()]
    about = {key: found.about.get(key) for key in ("format", "schema", "refoptim", "metadata", "digest")}
    about |= {"parts": [*found.tree], "bytes": _size(file), "array bytes": sum(row["bytes"] for row in rows)}
    if as_json:
        print_json({**about, "metadata": _plain(about["metadata"]), "arrays": rows})
        return
    for key, value in about.items():
        if value is not None:
            echo(f"{key:12}{_line(value)}")
    print_table(("array", "dtype", "shape", "bytes", "sha256"), [_cells(row) for row in rows])


def _row(name: str, x: Any, digest: str | None) -> dict[str, Any]:
    return {"name": name, "dtype": x.dtype.name, "shape": list(x.shape), "bytes": int(x.nbytes), "sha256": digest}


def _cells(row: dict[str, Any]) -> list[str]:
    shape = " x ".join(map(str, row["shape"]))
    return [row["name"], row["dtype"], shape, str(row["bytes"]), (row["sha256"] or "-")[:16]]


def _line(x: Any) -> str:
    """Return something of a file on one line; a text stands for itself, a list for its items."""
    if isinstance(x, list):
        return ", ".join(map(str, x))
    return x if isinstance(x, str) else json.dumps(_plain(x))


def _plain(x: Any) -> Any:
    """Return plain data as JSON can hold them: what is not JSON's as a text."""
    if isinstance(x, dict):
        return {str(key): _plain(y) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(y) for y in x]
    return x if x is None or isinstance(x, (bool, int, str)) or _is_finite(x) else str(x)


def _is_finite(x: Any) -> bool:
    return type(x) is float and x - x == 0


@checkpoint.command()
@click.argument("files", metavar="FILE...", type=_path, nargs=-1, required=True)
@_as_json
@refusing
def verify(files: Sequence[Path], as_json: bool) -> None:
    """Read every byte of checkpoints, and compare it with their digests; of a .pt, with its CRC-32.

    Exit code 0: all are as they were written. 1: one is damaged, or no checkpoint. 2: one cannot be opened.

    \b
    refoptim checkpoint verify run/step-1200.safetensors
    refoptim checkpoint verify run/*.safetensors --json
    """
    problems = {file: _problem(file) for file in files}
    if as_json:
        print_json({"files": [{"file": str(file), "problem": x} for file, x in problems.items()]})
    else:
        styles = ["red" if x else "green" for x in problems.values()]
        print_table(("file", "result"), [[str(file), x or "whole"] for file, x in problems.items()], styles)
    if any(problems.values()):
        raise click.exceptions.Exit(1)


def _problem(file: Path) -> str | None:
    """Say what is wrong with a checkpoint; None if it is as it was written."""
    try:
        _read(file)
    except CheckpointError as error:
        return one_line(str(error))
    return None


@checkpoint.command()
@click.argument("source", metavar="IN", type=_path)
@click.argument("target", metavar="OUT", type=_path)
@click.option("--shards", type=click.IntRange(1, 99_999), help="Write OUT as a folder of so many files.")
@_as_json
@refusing
def convert(source: Path, target: Path, shards: int | None, as_json: bool) -> None:
    """Write the checkpoint IN as OUT, in the format that the suffix of OUT says; a file that is there is replaced.

    Both may be .safetensors, .npz, .json, .pt, or a folder. Every bit is kept, but a .pt has no form for metadata,
    which are left out, nor for NumPy's numbers, which become arrays. IN is verified.

    \b
    refoptim checkpoint convert model.pt model.safetensors
    refoptim checkpoint convert run/step-1200.safetensors step-1200.pt
    refoptim checkpoint convert run/step-1200.safetensors step-1200 --shards 4
    """
    refuse_same({"IN": source, "OUT": target})
    found = _read(source)
    metadata = found.about["metadata"]
    if metadata is not None and not shards and not kind(target).metadata:
        echo("the metadata are left out: torch's files have no place for them", err=True)
        metadata = None
    with _progress(f"writing {target.name}", sum(x.nbytes for x in found.arrays.values())) as progress:
        write_tree(target, found.tree, metadata, progress, shards)
    if as_json:
        print_json({"path": str(target), "bytes": _size(target)})


@checkpoint.command()
@click.argument("first", metavar="A", type=_path)
@click.argument("second", metavar="B", type=_path)
@_as_json
@refusing
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Say where two checkpoints differ, whatever their formats: in which arrays, how many elements, and how far.

    Elements are compared by their bits, so that -0 is not 0. How far is the most units in the last place between two
    elements of an array; it is not given for integers, nor where one of two elements is NaN. Plain data are compared to
    the bit as well; a tuple and a list of equal items are equal, since a .pt may hold one for the other. Both files are
    verified.

    Exit code 0: they hold the same. 1: they differ. 2: a file is refused.

    \b
    refoptim checkpoint diff mine.safetensors theirs.pt
    refoptim checkpoint diff run/step-1100.safetensors run/step-1200.safetensors --json
    """
    one, other = _read(first), _read(second)
    total = sum(x.nbytes for found in (one, other) for x in found.arrays.values())
    with _progress("comparing", total) as progress:
        found = list(differences(one.tree, other.tree, progress))
    if as_json:
        print_json({"equal": not found, "differences": [x._asdict() for x in found]})
    else:
        print_table(("entry", "difference", "elements", "ulp at most"), [_difference_row(x) for x in found])
        echo(f"{len(found)} differences" if found else "the same, bit for bit")
    if found:
        raise click.exceptions.Exit(1)


def _difference_row(x: Difference) -> list[str]:
    if x.elements is None:
        return [x.name, x.what, "", ""]
    return [x.name, x.what, f"{x.elements} of {x.size}", "-" if x.ulps is None else str(x.ulps)]
