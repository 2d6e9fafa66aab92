"""The file protocol: cases as files that any program can read, and the judgement of what it wrote beside them.

``export`` writes a folder per case and storage type with the case as JSON and as plain lines, the parameters to begin
with and the gradients of every step, and one ``README.md`` that explains it all. A program in any language computes the
steps and writes ``result.bin`` or ``result.csv`` into the same folder, and perhaps ``state.<name>.bin``. ``judge``
compares these with the reference; it takes nothing from the folder but the list of cases and the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refoptim.formats.files import replace
from refoptim.numerics.arith import Array

from . import cases, export_schedules, generate, tasks
from .cases import Case
from .export_schedules import ScheduleRun
from .record import provenance
from .strict import GOLDEN, MAX_BYTES, WORD, GoldenError, Layout, check_size, read_bytes, read_json, require, shown
from .verify import EXACT, Tolerance, Verdict, compare
from .words import from_words, layout_of, read_word, to_words

FORMAT = "refoptim suite"
SCHEMA = 1

INPUT_COLUMNS = "what,step,parameter,element,bits"
RESULT_COLUMNS = "step,parameter,element,bits"

MAX_LINE = 100

SMALL = GOLDEN._replace(json=GOLDEN.header)
"""A table of cases is no longer than a header."""

README = """\
# A suite for an optimizer in any language

Each folder `<case>.<dtype>` is one case. A program reads the case and its inputs, takes the steps, and writes
what its parameters are after each of them into a file `result.bin` (or `result.csv`) in the same folder. Then

    refoptim golden verify FOLDER

says for each case EXACT, or in which step, parameter and element the result first parts from the reference,
and by how much. Nothing in the folders needs Python.

## The case

`case.json` and `case.txt` say the same. In `case.txt` every line is a word and values, with a space between
any two:

    refoptim-case 1           the version of this format
    case adam-decay           the name
    optimizer Adam            `refoptim explain Adam` shows the formula and the order of operations
    dtype float32             the storage type of parameters, gradients and state
    steps 20                  how many steps to take, counted from 1
    parameters 2              how many parameters there are
    shape 0 2 3 4             parameter 0 has 2 dimensions, 3 and 4
    hyper lr 0.02             a hyperparameter; of several numbers (betas) there are several; true is 1, false is 0
    set 6 lr 0.01             before step 6 a hyperparameter changes
    skip 3 1                  in step 3, parameter 1 has no gradient: nothing of it changes, no step is counted
    estimate 4 0              in step 4, parameter 0 has an estimate; without such lines there are none in any step
    resume 9                  before step 9 the state is saved, the optimizer made anew, and the state loaded
    sparse 5                  gradients are sparse, with 5 entries each
    end

Numbers are decimal and give the same double wherever they are read correctly rounded. A hyperparameter
without a value (None) is left out.

## The numbers

`input.bin` holds numbers and nothing else, little-endian, in C order: first all parameters, one after the
other; then, for each step, the gradients of all parameters, one after the other. A gradient that is skipped
is there, as zeros. A sparse gradient of a parameter is its row numbers, 64-bit integers, and then its
entries, each a row of the parameter. Entries of one row are added up. Where there are lines `estimate`, each
gradient is followed by an estimate of the same shape, zeros where none is given. float16 and bfloat16 take two bytes,
float32 four, float64 eight; a complex number is two reals, the real part first.

`input.csv`, if the suite was exported with `--numbers csv`, has the columns
`what,step,parameter,element,bits`: `what` is `parameter`, `gradient`, `estimate` or `row`, `element` counts reals in C
order, and `bits` are the hexadecimal digits (0 to 9, a to f, all of them) of the number as an unsigned integer.
Float32 1.0 is `3f800000`.

## The result

`result.bin` holds, for each step from 1, all parameters after it, one after the other, in the same form.
`result.csv` has the columns `step,parameter,element,bits` and a row for each number, in any order.

The state can be judged too: `state.<name>.bin` holds, for each step, what is kept under that name of each
parameter, one after the other, zeros where there is nothing yet. The names are those of `refoptim explain`.
Step counts are not judged.

## Arithmetic

float64 computes in float64; float32, float16 and bfloat16 compute in float32, and 16-bit storage rounds after
every operation. Powers, roots and quotients of hyperparameters are computed in double and rounded once. For
the same bits, let the compiler not contract products and sums (`-ffp-contract=off` for C, no `-ffast-math`).
"""

README += export_schedules.README


class Run(NamedTuple):
    """A case in one storage type, with the name of its folder."""

    case: Case
    dtype: str

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.case.id}.{self.dtype}"


def runs(patterns: Sequence[str] = (), dtypes: Sequence[str] = ()) -> list[Run | ScheduleRun]:
    """Return all runs of cases and schedules, or those that a pattern means (``cases.matches``), of a storage type."""
    found: list[Run | ScheduleRun] = [
        *(Run(case, dtype) for stem in cases.stems() for case in cases.load(stem) for dtype in case.dtypes),
        *export_schedules.runs(),
    ]
    named = [run for run in found if cases.matches(patterns, run.case.id, _family(run))]
    return [run for run in named if not dtypes or run.dtype in dtypes]


def _family(run: Run | ScheduleRun) -> str:
    """Return the name of the optimizer or of the scheduler."""
    return run.case.id.rpartition("-")[0] if isinstance(run, ScheduleRun) else run.case.optimizer


def export(folder: Path, chosen: Iterable[Run | ScheduleRun], numbers: str = "bin") -> None:
    """Write a suite of runs, its numbers as ``bin`` or ``csv``; results that lie there already stay.

    Everything is computed before anything is written, and where writing fails what is new is taken away again.
    """
    check_place(folder)
    contents: dict[Path, bytes] = {}
    table = []
    for run in chosen:
        here, found = folder / run.folder, _files(run, numbers)
        _refuse_links(here, *(here / name for name in found))
        contents |= {here / name: data for name, data in found.items()}
        table.append({"case": run.case.id, "dtype": run.dtype, "sha256": _digest(run)})
    suite = {"format": FORMAT, "schema": SCHEMA, "provenance": provenance("reference"), "cases": table}
    contents[folder / "README.md"] = README.encode()
    contents[folder / "suite.json"] = (json.dumps(suite, indent=1) + "\n").encode()
    _write(folder, contents)


def _write(folder: Path, contents: Mapping[Path, bytes]) -> None:
    """Write files; if one cannot be written, take away those that were not there before, and folders left empty."""
    new = [path for path in contents if not path.exists()]
    made = [path for path in [folder, *dict.fromkeys(path.parent for path in contents)] if not path.exists()]
    try:
        for path, data in contents.items():
            replace(path, data)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()
        raise


def _files(run: Run | ScheduleRun, numbers: str) -> dict[str, bytes]:
    """Return the files of a run by name."""
    if isinstance(run, ScheduleRun):
        return export_schedules.files(run, SCHEMA)
    tensors = generate.trajectory(run.case, run.dtype)
    return {
        "case.json": (json.dumps(described(run), indent=1) + "\n").encode(),
        "case.txt": lines(described(run)).encode("ascii"),
        f"input.{numbers}": input_bin(tensors) if numbers == "bin" else input_csv(tensors),
    }


def _digest(run: Run | ScheduleRun, tensors: Mapping[str, Array] | None = None) -> str:
    """Return the SHA-256 of the inputs of a run."""
    if isinstance(run, ScheduleRun):
        return hashlib.sha256(b"".join(export_schedules.files(run, SCHEMA).values())).hexdigest()
    return hashlib.sha256(input_bin(tensors or generate.trajectory(run.case, run.dtype))).hexdigest()


def check_place(folder: Path) -> None:
    """Raise GoldenError if a suite in a folder would take the place of anything but a suite of refoptim.

    The folder may be a link. Within it nothing may be: what is written through one lands in files that lie elsewhere.
    """
    suite, readme = folder / "suite.json", folder / "README.md"
    _refuse_links(suite, readme)
    if suite.exists():
        found = read_json(suite, limits=SMALL)
        ours = isinstance(found, dict) and found.get("format") == FORMAT
        require(ours, f"{folder.name} holds a suite.json that is not refoptim's: choose another folder")
    elif readme.exists():
        ours = readme.is_file() and readme.read_bytes() == README.encode()
        require(ours, f"{folder.name} holds a README.md and no suite: choose another folder")


def _refuse_links(*paths: Path) -> None:
    for path in paths:
        require(not path.is_symlink(), f"{path} is a link: what would be written through it lies elsewhere")


def described(run: Run) -> dict[str, Any]:
    """Return a case as JSON, its defaults written out."""
    case = run.case
    hyper = tasks.written(tasks.all_hyper(case.optimizer, case.hyper))
    return {
        "schema": SCHEMA,
        "case": case.id,
        "comment": case.comment,
        "optimizer": case.optimizer,
        "dtype": run.dtype,
        "steps": case.steps,
        "shapes": [list(shape) for shape in case.shapes],
        "hyper": hyper,
        "set": [{"step": step, **change} for step, change in sorted(case.set.items())],
        "skip": case.skip,
        "resume": case.resume,
        "sparse": case.gradient.get("nnz"),
        "flags": case.flags,
        **({} if case.estimate is None else {"estimates": estimated(case)}),
    }


def estimated(case: Case) -> list[list[int]]:
    """Return the pairs of a step and a parameter that have an estimate."""
    pairs = [[step, i] for step in range(1, case.steps + 1) for i in range(len(case.shapes))]
    return [pair for pair in pairs if pair in case.estimated or pair[0] in case.estimated]


def lines(entry: Mapping[str, Any]) -> str:
    """Return a case as lines of words."""
    found = [
        ["refoptim-case", entry["schema"]],
        *([key, entry[key]] for key in ("case", "optimizer", "dtype", "steps")),
    ]
    found += [["parameters", len(entry["shapes"])]]
    found += [["shape", i, len(shape), *shape] for i, shape in enumerate(entry["shapes"])]
    found += [["hyper", name, value] for name, value in entry["hyper"].items() if value is not None]
    changes = [(change["step"], name, x) for change in entry["set"] for name, x in change.items() if name != "step"]
    found += [["set", *change] for change in changes]
    found += [["skip", *pair] for pair in entry["skip"]]
    found += [["estimate", *pair] for pair in entry.get("estimates", ())]
    found += [[key, entry[key]] for key in ("resume", "sparse") if entry[key] is not None]
    return "\n".join(" ".join(map(_word, line)) for line in [*found, ["end"]]) + "\n"


def _word(x: Any) -> str:
    if isinstance(x, (list, tuple)):
        return " ".join(_word(item) for item in x if item is not None)
    return str(int(x)) if isinstance(x, bool) else str(x)


def _inputs(tensors: Mapping[str, Array]) -> Iterator[tuple[str, int, int, Array]]:
    """Go through parameters and gradients in the order of the file: what, step, parameter, array."""
    count = sum(name.startswith("param.") for name in tensors)
    for i in range(count):
        yield "parameter", 0, i, tensors[f"param.{i}"][0]
    for step in range(len(tensors["param.0"]) - 1):
        for i in range(count):
            if f"rows.{i}" in tensors:
                yield "row", step + 1, i, tensors[f"rows.{i}"][step]
            yield "gradient", step + 1, i, tensors[f"grad.{i}"][step]
            if f"estimate.{i}" in tensors:
                yield "estimate", step + 1, i, tensors[f"estimate.{i}"][step]


def input_bin(tensors: Mapping[str, Array]) -> bytes:
    """Return the inputs as bytes."""
    return b"".join(to_words(np.asarray(x)).tobytes() for _, _, _, x in _inputs(tensors))


def input_csv(tensors: Mapping[str, Array]) -> bytes:
    """Return the inputs as CSV."""
    rows = [INPUT_COLUMNS]
    for what, step, i, x in _inputs(tensors):
        words = to_words(np.asarray(x))
        digits = 2 * words.dtype.itemsize
        rows += [f"{what},{step},{i},{j},{word:0{digits}x}" for j, word in enumerate(words.tolist())]
    return ("\n".join(rows) + "\n").encode("ascii")


def judge(
    folder: Path, tolerance: Tolerance = EXACT, patterns: Sequence[str] = (), dtypes: Sequence[str] = ()
) -> Iterator[Verdict]:
    """Judge the results of a suite, case by case.

    Raises:
        GoldenError: the folder holds no suite, one of another version, or one whose inputs this version does not make.
    """
    schedules = list[ScheduleRun]()
    for run, tensors in _asked_for(folder, patterns, dtypes):
        if isinstance(run, ScheduleRun):
            schedules.append(run)
        else:
            yield _judged(folder / run.folder, tensors, tolerance)
    yield from export_schedules.judge(folder, schedules, tolerance)


def results(
    folder: Path, patterns: Sequence[str] = (), dtypes: Sequence[str] = ()
) -> Iterator[tuple[Run, dict[str, Array]]]:
    """Read the results of a suite, with the gradients that it holds, a row for each step; cases without are left out.

    Raises:
        GoldenError: as ``judge`` does, and for a result that is not what it must be.
    """
    for run, tensors in _asked_for(folder, patterns, dtypes):
        here = folder / run.folder
        if isinstance(run, Run) and has_result(here):
            given = {key: x for key, x in tensors.items() if key.startswith(("grad.", "rows."))}
            yield run, given | _results(here, _by_file(_after_steps(tensors)))


def _asked_for(
    folder: Path, patterns: Sequence[str], dtypes: Sequence[str]
) -> Iterator[tuple[Run | ScheduleRun, dict[str, Array]]]:
    """Go through the cases of a suite that are asked for, with what the reference makes of them."""
    listed = {(entry["case"], entry["dtype"]): entry["sha256"] for entry in entries(folder)}
    chosen = [run for run in runs(patterns, dtypes) if (run.case.id, run.dtype) in listed]
    require(bool(chosen), f"{folder.name} holds no case that was asked for")
    for run in chosen:
        tensors = {} if isinstance(run, ScheduleRun) else generate.trajectory(run.case, run.dtype)
        other = f"{folder.name}: {run.folder} has other inputs than this version makes: export the suite anew"
        require(_digest(run, tensors) == listed[run.case.id, run.dtype], other)
        yield run, tensors


def _after_steps(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Leave out the parameters before the first step."""
    return {name: x[1:] if name.startswith("param.") else x for name, x in tensors.items()}


def _by_file(expected: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Return for the stem of each file the arrays that it holds."""
    return {name: {key: x for key, x in expected.items() if _file(key) == name} for name in map(_file, expected)}


def has_result(here: Path) -> bool:
    """Tell whether a program wrote a result into the folder of a case."""
    return any((here / f"result.{kind}").exists() for kind in ("bin", "csv"))


def entries(folder: Path) -> list[dict[str, Any]]:
    """Read the list of cases of a suite."""
    require(folder.is_dir(), f"{folder.name} is no folder")
    suite = read_json(folder / "suite.json", limits=SMALL)
    require(isinstance(suite, dict) and suite.get("format") == FORMAT, "suite.json is no suite of refoptim")
    version = suite.get("schema")
    require(
        type(version) is int and version == SCHEMA,
        f"suite.json has schema {shown(version)}, this version reads {SCHEMA}",
    )
    table, known = suite.get("cases"), {(run.case.id, run.dtype) for run in runs()}
    require(isinstance(table, list) and bool(table), "suite.json lists no cases")
    for entry in table:
        texts = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("case", "dtype", "sha256"))
        require(
            texts and (entry["case"], entry["dtype"]) in known, f"suite.json lists no case of refoptim: {shown(entry)}"
        )
    return list(table)


def _judged(here: Path, tensors: Mapping[str, Array], tolerance: Tolerance) -> Verdict:
    """Compare what a program wrote into the folder of a case."""
    expected = _after_steps(tensors)
    if not has_result(here):
        return Verdict(here.name, False, 0, problem="no result")
    try:
        found = _results(here, _by_file(expected))
    except GoldenError as error:
        return Verdict(here.name, False, 0, problem=f"refused: {error}")
    return compare(here.name, expected, found, list(range(1, len(expected["param.0"]) + 1)), tolerance)


def _file(key: str) -> str:
    """Return the stem of the file that holds an array: all parameters stand in one, each part of the state in one."""
    kind, _, rest = key.partition(".")
    return {"param": "result", "state": f"state.{rest.partition('.')[2]}"}.get(kind, "")


def _results(here: Path, parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Read all results of a case."""
    unknown = [path.name for path in sorted(here.glob("state.*.bin")) if path.name.removesuffix(".bin") not in parts]
    require(not unknown, f"{shown(unknown[:1])} names no state of this optimizer")
    found: dict[str, Array] = {}
    for name, arrays in parts.items():
        if name and (here / f"{name}.bin").exists():
            found |= _read_bin(here / f"{name}.bin", arrays)
    return found if (here / "result.bin").exists() else found | _read_csv(here / "result.csv", parts["result"])


def _read_bin(path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Read arrays whose rows take turns, step by step."""
    need = sum(layout_of(x).nbytes for x in arrays.values())
    size = check_size(path, MAX_BYTES)
    require(size == need, f"{path.name} has {size} bytes, expected {need}")
    kind = f"<u{WORD[next(iter(arrays.values())).dtype.name]}"
    return _split(np.frombuffer(read_bytes(path, need), kind), arrays)


def _split(words: Array, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Cut a vector of words, step by step and array by array, into arrays."""
    steps = len(next(iter(arrays.values())))
    table, found, place = words.reshape(steps, -1), {}, 0
    for key, x in arrays.items():
        width = layout_of(x).words // steps
        found[key] = from_words(np.ascontiguousarray(table[:, place : place + width]).reshape(-1), layout_of(x))
        place += width
    return found


def _read_csv(path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Read results as CSV."""
    check_size(path, MAX_BYTES)
    layouts = {key: layout_of(x) for key, x in arrays.items()}
    words = {key: np.zeros(x.words, f"<u{WORD[x.dtype]}") for key, x in layouts.items()}
    missing = {key: np.ones(x.words, bool) for key, x in layouts.items()}
    with path.open(encoding="ascii", errors="replace", newline="") as file:
        require(
            file.readline(MAX_LINE).strip() == RESULT_COLUMNS, f"{path.name} does not have the columns {RESULT_COLUMNS}"
        )
        while line := file.readline(MAX_LINE):
            found = _row(line, layouts)
            fits = found is not None and missing[found[0]][found[1]]
            require(bool(fits), f"{path.name} has a row that is none, or is there twice: {shown(line.strip())}")
            assert found is not None
            words[found[0]][found[1]], missing[found[0]][found[1]] = found[2], False
    holes = sum(int(x.sum()) for x in missing.values())
    require(not holes, f"{path.name} lacks {holes} numbers")
    return {key: from_words(words[key], x) for key, x in layouts.items()}


def _row(line: str, layouts: Mapping[str, Layout]) -> tuple[str, int, int] | None:
    """Read a row: the array, the place of a number in it, and its word; None if it is no such row."""
    cells = line.strip().split(",")
    key = f"param.{cells[1]}" if len(cells) == 4 else ""
    if key not in layouts:
        return None
    found = layouts[key]
    width = found.words // found.shape[0]
    bits = read_word(cells[3], WORD[found.dtype])
    try:
        row, element = int(cells[0]) - 1, int(cells[2])
    except ValueError:
        return None
    inside = 0 <= row < found.shape[0] and 0 <= element < width
    return (key, row * width + element, bits) if inside and bits is not None else None
