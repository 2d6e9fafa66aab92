"""The file protocol for schedules: cases as files that any program can read, and the judgement of what it wrote.

Beside the cases of optimizers a suite holds schedules: ``export`` writes them, ``judge`` compares, and says what the
rule of the program is where its learning rates part. Schedules that are functions of the user's cannot be written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refoptim.numerics.arith import Array

from . import lr_cases, record_lr
from .diagnose.schedule_forms import filled
from .diagnose.schedules import diagnose
from .lr_cases import Case
from .run_schedules import curves_of, settings_of
from .spec import Spec, parse
from .strict import GoldenError, check_size, read_bytes, require, shown
from .verify import Tolerance, Verdict, compare
from .words import from_words, layout_of, read_word

RESULT_COLUMNS = "epoch,bits"

MAX_CSV = 1 << 20

README = """
## Schedules

A folder whose `case.txt` begins with `refoptim-schedule` is a schedule: learning rates are asked for, no
optimizer. Its lines:

    refoptim-schedule 1       the version of this format
    case StepLR-plain         the name
    scheduler StepLR          `refoptim explain StepLR` shows the formula
    lr 0.1                    the learning rate of the optimizer before the schedule begins
    epochs 99                 how many steps are taken: 100 learning rates are asked for
    setting gamma 0.1         an argument; of several numbers (milestones) there are several,
                              of pairs (boundaries_and_scales) one after the other; true is 1, false is 0
    member 0 LinearLR         SequentialLR and ChainedScheduler are made of schedulers, counted from 0; 0.1 is
                              member 1 of member 0
    of 0 total_iters 5        an argument of a member
    end

`result.bin` holds the learning rates at epoch 0, 1, 2 …, 64-bit floats, and nothing else; `momentum.bin`, if it is
there, the momenta of CyclicLR and OneCycleLR on an optimizer with momentum 0.9. `result.csv` has the columns
`epoch,bits`. `input.bin` of ReduceLROnPlateau holds the metric at the end of epoch 0, 1, 2 …
"""


class ScheduleRun(NamedTuple):
    """A schedule, with the name of its folder."""

    case: Case
    dtype: str = "float64"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.case.id}.schedule"

    @property
    def spec(self) -> Spec:
        """The scheduler with all its settings."""
        return filled(parse(self.case.scheduler))


def runs() -> list[ScheduleRun]:
    """Return all schedules that can be written down, of cases with two groups the first."""
    cases = [case for name in lr_cases.DRAWS for case in lr_cases.cases(name, record_lr.CASES)]
    return [ScheduleRun(_first_group(case)) for case in cases if "lambda" not in case.scheduler]


def _first_group(case: Case) -> Case:
    """Return a case on its first group alone."""
    spec = lr_cases.of_group(parse(case.scheduler), 0)
    return case._replace(scheduler=text_of(spec), lrs=case.lrs[:1], optimizer="SGD")


def text_of(spec: Spec) -> str:
    """Return the description of a scheduler."""
    settings = [f"{name}={x!r}" for name, x in spec.settings.items()]
    return f"{spec.name}({', '.join([*map(text_of, spec.members), *settings])})"


def files(run: ScheduleRun, schema: int) -> dict[str, bytes]:
    """Return the files of a schedule by name."""
    described = {
        "schema": schema,
        "case": run.case.id,
        "scheduler": run.spec.name,
        "description": run.case.scheduler,
        "lr": run.case.lrs[0],
        "epochs": run.case.epochs,
        "settings": settings_of(run.spec),
    }
    metrics = lr_cases.told(run.case)
    found = {
        "case.json": (json.dumps(described, indent=1) + "\n").encode(),
        "case.txt": "".join(f"{line}\n" for line in lines(run, schema)).encode("ascii"),
    }
    return found if metrics is None else {**found, "input.bin": np.array(metrics, "<f8").tobytes()}


def lines(run: ScheduleRun, schema: int) -> list[str]:
    """Return a schedule as lines of words."""
    head = [
        f"refoptim-schedule {schema}",
        f"case {run.case.id}",
        f"scheduler {run.spec.name}",
        f"lr {run.case.lrs[0]}",
        f"epochs {run.case.epochs}",
    ]
    return [*head, *_settings(run.spec, "setting"), *_members(run.spec, ""), "end"]


def _settings(spec: Spec, word: str) -> list[str]:
    return [f"{word} {name} {_word(x)}" for name, x in spec.settings.items() if x is not None]


def _members(spec: Spec, place: str) -> Iterator[str]:
    for i, member in enumerate(spec.members):
        yield f"member {place}{i} {member.name}"
        yield from _settings(member, f"of {place}{i}")
        yield from _members(member, f"{place}{i}.")


def _word(x: Any) -> str:
    x = [*x.items()] if isinstance(x, Mapping) else x
    if isinstance(x, (list, tuple)):
        return " ".join(map(_word, x))
    return str(int(x)) if isinstance(x, bool) else str(x)


def judge(folder: Path, chosen: Sequence[ScheduleRun], tolerance: Tolerance) -> Iterator[Verdict]:
    """Judge the results of schedules; those of one scheduler that part are explained together."""
    for _, group in groupby(chosen, lambda run: run.spec.name):
        yield from _judged(folder, list(group), tolerance)


def _judged(folder: Path, chosen: Sequence[ScheduleRun], tolerance: Tolerance) -> Iterator[Verdict]:
    found = [_read(folder / run.folder, run) for run in chosen]
    pairs = list(zip(chosen, found, strict=True))
    curves = [curve for run, rows in pairs if not isinstance(rows, str) for curve in _curves(run, rows)]
    said = diagnose(curves).line if curves else ""
    for run, rows in pairs:
        if isinstance(rows, str):
            yield Verdict(run.folder, False, 0, problem=rows)
            continue
        trace = record_lr.our_trace(run.case)
        expected = {key: np.array(trace[key][0]) for key in rows}
        verdict = compare(run.folder, expected, rows, list(range(run.case.epochs + 1)), tolerance)
        yield replace(verdict, note=said) if verdict.differing else verdict


def _curves(run: ScheduleRun, rows: Mapping[str, Array]) -> list[Any]:
    return curves_of(run.case, {key: x[:, None] for key, x in rows.items()})


def _read(here: Path, run: ScheduleRun) -> dict[str, Array] | str:
    """Read what a program wrote; a text says why that is not possible."""
    if not any((here / f"result.{kind}").exists() for kind in ("bin", "csv")):
        return "no result"
    n, of_cycler = run.case.epochs + 1, run.spec.name in lr_cases.CYCLERS
    try:
        binary = (here / "result.bin").exists()
        lr = _read_bin(here / "result.bin", n) if binary else _read_csv(here / "result.csv", n)
        has_momentum = of_cycler and (here / "momentum.bin").exists()
        return {"lr": lr, **({"momentum": _read_bin(here / "momentum.bin", n)} if has_momentum else {})}
    except GoldenError as error:
        return f"refused: {error}"


def _read_bin(path: Path, n: int) -> Array:
    size = check_size(path, 8 * n)
    require(size == 8 * n, f"{path.name} has {size} bytes, expected {8 * n}")
    return np.frombuffer(read_bytes(path, 8 * n), "<f8").astype(float)


def _read_csv(path: Path, n: int) -> Array:
    text = read_bytes(path, MAX_CSV).decode("ascii", "replace").splitlines()
    require(bool(text) and text[0].strip() == RESULT_COLUMNS, f"{path.name} does not have the columns {RESULT_COLUMNS}")
    words: dict[int, int] = {}
    for line in text[1:]:
        epoch, _, bits = line.strip().partition(",")
        word = read_word(bits, 8)
        fits = epoch.isascii() and epoch.isdigit() and len(epoch) < 9 and word is not None and int(epoch) < n
        require(
            fits and int(epoch) not in words, f"{path.name} has a row that is none, or is there twice: {shown(line)}"
        )
        words[int(epoch)] = word or 0
    require(len(words) == n, f"{path.name} lacks {n - len(words)} numbers")
    return from_words(np.array([words[i] for i in range(n)], "<u8"), layout_of(np.zeros(n)))
