"""Runs of the optimizers of other libraries, recorded where they are installed, for those places where they are not.

``python tests/dialects/peers.py keras`` puts every case that the library's adapter can run in float64 through it, or in
float32 where the library has no float64, and writes the parameters after the recorded steps, with the versions of what
computed them, to ``recorded/keras.json``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

import refoptim

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).parent / "recorded"

if not any(path == str(ROOT) for path in refoptim.__path__):
    refoptim.__path__.append(str(ROOT))

from refoptim.conformance import adapters, cases, run  # noqa: E402
from refoptim.conformance.cases import Case  # noqa: E402
from refoptim.conformance.trajectory import decode, encode  # noqa: E402


def all_cases() -> list[Case]:
    """Return the cases, and besides those that have gaps with a weight decay, and RMSprop with all that it has."""
    found = [case for stem in cases.stems() for case in cases.load(stem)]
    gaps = [decayed(case) for case in found if case.id.endswith("-only-gaps") and can_decay(case)]
    return found + gaps + [centered(case) for case in found if case.id == "rmsprop-only-lr-changes"]


def centered(case: Case) -> Case:
    """Return a case of RMSprop with momentum that is centered too."""
    return replace(case, id="rmsprop-centered-lr-changes", hyper={**case.hyper, "centered": True})


def decayed(case: Case) -> Case:
    """Return a case with a weight decay, no momentum and gaps."""
    hyper = {name: x for name, x in case.hyper.items() if name != "momentum"} | {"weight_decay": 0.07}
    return replace(case, id=case.id.replace("-only-gaps", "-gaps-decayed"), hyper=hyper)


def can_decay(case: Case) -> bool:
    """Tell whether an optimizer has a weight decay."""
    return "weight_decay" in signature(getattr(refoptim, case.optimizer)).parameters


def runs(library: str) -> Iterator[tuple[Case, str]]:
    """Yield the cases that a library can run, each in the widest storage type in which it can."""
    make = adapters.find(library)
    for case in all_cases():
        wide = [dtype for dtype in ("float64", "float32") if dtype in case.dtypes]
        able = [dtype for dtype in wide if can_run(make(), case, dtype)]
        if able and not case.id.endswith("-edges"):
            yield case, able[0]


def can_run(library: Any, case: Case, dtype: str) -> bool:
    """Tell whether a library can run a case, which some only say when they are made."""
    if adapters.why_not(library, case, dtype):
        return False
    try:
        library.make(case.optimizer, case.hyper, [np.ones(shape, dtype) for shape in case.shapes])
    except adapters.Unsupported:
        return False
    return True


def record(library: str) -> dict[str, Any]:
    """Run a library and return what is kept of it."""
    make, kept = adapters.find(library), {}
    for case, dtype in runs(library):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run.execute(make(), case, dtype)
        rows = [found.steps.index(step) for step in case.record]
        kept[case.id] = {
            "dtype": dtype,
            **{f"param.{i}": encode(found.tensors[f"param.{i}"][rows]) for i in range(len(case.shapes))},
        }
    return {"versions": dict(make().versions()), "runs": kept}  # type: ignore[attr-defined]


def read(library: str) -> dict[str, Any]:
    """Return what was recorded of a library, its arrays decoded."""
    found = json.loads((RECORDED / f"{library}.json").read_text(encoding="utf-8"))
    for entry in found["runs"].values():
        entry.update({key: decode(x) for key, x in entry.items() if key != "dtype"})
    return dict(found)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        RECORDED.mkdir(exist_ok=True)
        text = json.dumps(record(name), indent=1)
        (RECORDED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
