"""Records the goldens of the schedulers: ``python -m refoptim.conformance.record_lr`` writes ``golden/lr/*.json``.

The witness is torch.optim.lr_scheduler with correctly rounded powers and cosines (``rounded``), and of a schedule that
torch does not have the library that owns the rule (``lr_witnesses``), rounded likewise. Each file holds the
cases of a scheduler (``lr_cases``), plain ones and drawn ones, and of each the learning rates and momenta of its groups
at epochs 0, 1, 2 …, as hexadecimal floats. Frame, checksum and dates are those of the goldens of optimizers.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import refoptim
from refoptim.numerics.arith import Array
from refoptim.numerics.ieee import check_arithmetic

from . import goldens, lr_witnesses, record
from .diagnose.schedule_forms import filled
from .lr_cases import CYCLERS, DRAWS, TORCHS, WIDER, Case, cases, make_optimizer, of_group, trace
from .oracle import rounded_schedules, torch_schedulers
from .spec import parse
from .strict import require

CASES = 5
"""Drawn cases of a scheduler."""

KEYS = {"schema", "scheduler", "provenance", "cases", "checksum"}

WITNESS = "torch.optim.lr_scheduler"

NUMBER = re.compile(r"-?0x[01]\.[0-9a-f]{1,13}p[+-]\d{1,4}", re.ASCII)
"""A finite double as ``float.hex`` writes it."""


def folder() -> Path:
    """Return the folder of the goldens that come with the package."""
    return goldens.folder() / "lr"


def paths() -> list[Path]:
    """Return the goldens that come with the package, one for each scheduler."""
    return [folder() / f"{name}.json" for name in sorted(DRAWS)]


def to_hex(values: Iterable[float]) -> str:
    """Write numbers as hexadecimal floats."""
    return " ".join(float(x).hex() for x in values)


def from_hex(text: str) -> list[float]:
    """Undo ``to_hex``."""
    return [float.fromhex(word) for word in text.split()]


def torch_trace(case: Case) -> dict[str, list[list[float]]]:
    """Run a case on torch."""
    import torch

    with rounded_schedules():
        return trace(case, make_optimizer(case, torch.optim, lambda: torch.zeros(1)), torch_schedulers())


def witness_trace(case: Case) -> dict[str, list[list[float]]]:
    """Run a case on the library that owns the rule, each group by itself."""
    spec = filled(parse(case.scheduler))
    if spec.name not in WIDER:
        return torch_trace(case)
    groups = [(of_group(spec, i).settings, lr) for i, lr in enumerate(case.lrs)]
    return {"lr": [lr_witnesses.exact(spec.name, settings, lr, case.epochs) for settings, lr in groups]}


def our_trace(case: Case) -> dict[str, list[list[float]]]:
    """Run a case on refoptim."""
    return trace(case, make_optimizer(case, refoptim, lambda: np.zeros(1)))


def provenance(name: str) -> dict[str, str]:
    """Say who computed the golden of a scheduler, and how."""
    found = record.provenance(WITNESS)
    if name not in WIDER:
        return found
    owner = lr_witnesses.OWNERS[name]
    return {**found, "witness": owner, "version": lr_witnesses.LIBRARIES[owner].version}


def kept(name: str) -> tuple[str, ...]:
    """Return what is recorded of a scheduler."""
    return ("lr", "momentum") if name in CYCLERS else ("lr",)


def schedules(name: str) -> dict[str, Any]:
    """Run the cases of a scheduler on its witness and return the golden, without date and checksum."""
    check_arithmetic()
    entries = []
    for case in cases(name, CASES):
        values = witness_trace(case)
        entries.append({**_inputs(case), **{key: [to_hex(group) for group in values[key]] for key in kept(name)}})
    return {"schema": goldens.SCHEMA, "scheduler": name, "provenance": provenance(name), "cases": entries}


def _inputs(case: Case) -> dict[str, Any]:
    """Return what a golden says of a case."""
    described = {"scheduler": case.scheduler, "optimizer": case.optimizer, "metrics": case.metrics}
    return {"case": case.id, **described, "initial_lr": to_hex(case.lrs)}


def case_of(entry: Mapping[str, Any]) -> Case:
    """Return the case of an entry of a golden."""
    lrs, epochs = tuple(from_hex(entry["initial_lr"])), len(from_hex(entry["lr"][0])) - 1
    return Case(entry["scheduler"], entry["optimizer"], entry["metrics"], lrs, epochs, entry["case"])


def read(path: Path) -> dict[str, Any]:
    """Read a golden, or raise GoldenError if it is cut off, of another version, altered, or holds other cases."""
    golden = goldens.read(path, KEYS)
    name, entries, origin = golden["scheduler"], golden["cases"], golden["provenance"]
    require(isinstance(name, str) and name in DRAWS, f"{path.name} is of no scheduler of refoptim")
    require(isinstance(origin, dict) and "witness" in origin, f"{path.name} names no witness")
    known = cases(name, CASES)
    require(isinstance(entries, list) and len(entries) == len(known), f"{path.name} does not hold {len(known)} cases")
    for i, (entry, case) in enumerate(zip(entries, known, strict=True)):
        require(_fits(entry, name, case), f"{path.name}: case {i} is not that of this version")
    return golden


def _fits(entry: Any, name: str, case: Case) -> bool:
    """Tell whether an entry is a case as this version has it, with all numbers."""
    if not isinstance(entry, dict) or {key: x for key, x in entry.items() if key not in kept(name)} != _inputs(case):
        return False
    return all(key in entry and _is_table(entry[key], case) for key in kept(name))


def _is_table(x: Any, case: Case) -> bool:
    """Tell whether something holds a number for each group and epoch."""
    if not isinstance(x, list) or len(x) != len(case.lrs) or not all(isinstance(row, str) for row in x):
        return False
    rows = [row.split(" ") for row in x]
    return all(len(row) == case.epochs + 1 and all(map(NUMBER.fullmatch, row)) for row in rows)


def values(entry: Mapping[str, Any]) -> dict[str, Array]:
    """Return the numbers of an entry as arrays, with a row for each epoch."""
    return {key: np.array([from_hex(row) for row in entry[key]]).T for key in ("lr", "momentum") if key in entry}


def main(arguments: Sequence[str] | None = None) -> None:
    """Record all goldens, or some."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.record_lr", description=str(__doc__))
    parser.add_argument("--out", type=Path, default=folder(), help="the folder to write to")
    parser.add_argument("names", nargs="*", metavar="SCHEDULER", help="all of torch's where none is named")
    given = parser.parse_args(arguments)
    for name in given.names or TORCHS:
        record.save(given.out / f"{name}.json", schedules(name))


if __name__ == "__main__":
    main()
