"""The suite catches what it claims: each mistake that a case names, made in refoptim, changes its trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import inf
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import cases, goldens, record
from refoptim.conformance.gradients import np_dtype
from refoptim.conformance.trajectory import Digest, bits, run

import refoptim
from refoptim import dialects
from refoptim.dialects.flags import OF_SETTINGS
from refoptim.numerics.arith import as_reals

WITNESS = dict.fromkeys(
    ["Adafactor", "LAMB", "LARS", "MARS", "NovoGrad", "Prodigy", "SOAP", "StableAdamW"], "reference"
)
"""Optimizers whose sums torch adds in another order, so that they are bit for bit their own recording only."""

IN_STATE_ALONE = {
    ("ASGD", "AveragingTooEarly"): "the parameter is not replaced by its average",
    ("Adam", "NanDropped"): "the maximum holds a number, but the average of gradients beside it is NaN",
    ("AdamW", "NanDropped"): "as in Adam",
    ("Adamax", "NanDropped"): "as in Adam",
}
"""Mistakes that change what is kept and leave the parameters as they are."""

OF_BITS = {
    "EtaInDouble",
    "FactorInFloat32",
    "FusedMultiplyAdd",
    "LerpOneSided",
    "MuProductInDouble",
    "NanDropped",
    "SignOfZeroLost",
    "SubnormalsFlushed",
    "SumsInFloat32",
}
"""Mistakes of rounding, and of numbers at the ends of the range."""

CLEAR = 1e-4
"""How far, relative to the largest parameter, any other mistake moves parameters at least: no tolerance hides it."""

CLAIMS = sorted({(case.optimizer, flag) for stem in cases.stems() for case in cases.load(stem) for flag in case.flags})


def carrying(optimizer: str, flag: str) -> list[tuple[cases.Case, str]]:
    """Return the cases that carry a flag, in each of their storage types."""
    found = [case for stem in cases.stems() for case in cases.load(stem) if case.optimizer == optimizer]
    return [(case, dtype) for case in found if flag in case.flags for dtype in case.dtypes if has(dtype)]


def has(dtype: str) -> bool:
    """Tell whether arrays of a dtype can be made here: bfloat16 needs ml_dtypes."""
    try:
        np_dtype(dtype)
    except ImportError:
        return False
    return True


@cache
def golden(optimizer: str) -> dict[tuple[str, str], str]:
    """Return the recorded digests of an optimizer."""
    stem = next(stem for stem in cases.stems() if cases.load(stem)[0].optimizer == optimizer)
    folder = goldens.folder() / WITNESS.get(optimizer, goldens.witnesses(stem)[0])
    found = next(x for x in map(goldens.read, sorted(folder.glob("*.json"))) if x["optimizer"] == optimizer)
    return {(entry["case"], entry["dtype"]): entry["sha256"] for entry in found["trajectories"]}


def trajectory(case: cases.Case, dtype: str) -> tuple[str, list[Any]]:
    """Run refoptim; return the digest, and the reals of the parameters after each step."""
    digest, parameters = Digest(), []
    for frame in run(record.implementation("reference"), case, dtype):
        digest.add(frame)
        parameters.append(np.concatenate([as_reals(p).ravel() for p in frame.parameters]).astype(np.float64))
    return digest.hexdigest(), parameters


def distance(x: Any, y: Any) -> float:
    """Return the largest difference, relative to the largest finite number; infinite where NaN or infinities differ."""
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)):
        return inf
    gap = np.max(np.abs(x[finite] - y[finite]), initial=0)
    return float(gap / np.max(np.abs(x[finite]))) if gap else 0.0


@cache
def unharmed(optimizer: str, case: str, dtype: str) -> tuple[str, list[Any]]:
    stem = next(stem for stem in cases.stems() if cases.load(stem)[0].optimizer == optimizer)
    return trajectory(next(x for x in cases.load(stem) if x.id == case), dtype)


def mutated(optimizer: str, flag: str, case: cases.Case, dtype: str, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run a case on each dialect that makes the mistake."""
    rule = getattr(refoptim, optimizer)
    for axis in dialects.AXES[optimizer, flag]:
        with patch.context() as here:
            here.setattr(refoptim, optimizer, dialects.made_of(rule, axis))
            yield trajectory(case, dtype)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("optimizer", "flag"), CLAIMS)
def test_the_mistake_is_caught(optimizer: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = False
    for case, dtype in carrying(optimizer, flag):
        right, parameters = unharmed(optimizer, case.id, dtype)
        assert right == golden(optimizer).get((case.id, dtype), right)
        far, caught = 0.0, False
        for wrong, others in mutated(optimizer, flag, case, dtype, monkeypatch):
            caught |= wrong != right
            moved |= any(bits(x).tobytes() != bits(y).tobytes() for x, y in zip(parameters, others, strict=True))
            far = max(far, *map(distance, parameters, others))
        assert caught, f"{case.id} in {dtype}"
        assert far > CLEAR or flag in OF_BITS or (optimizer, flag) in IN_STATE_ALONE, f"{case.id} in {dtype}"
    assert moved is ((optimizer, flag) not in IN_STATE_ALONE)


@pytest.mark.diagnose
@pytest.mark.parametrize("optimizer", sorted({optimizer for optimizer, _ in dialects.AXES}))
def test_every_axis_changes_a_case(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stem = next(stem for stem in cases.stems() if cases.load(stem)[0].optimizer == optimizer)
    runs = [(case, dtype) for case in cases.load(stem) for dtype in case.dtypes if has(dtype)]
    rule = getattr(refoptim, optimizer)

    @cache
    def digest(axes: tuple[dialects.Axis, ...], i: int) -> str:
        monkeypatch.setattr(refoptim, optimizer, dialects.made_of(rule, *axes))
        return trajectory(*runs[i])[0]

    for axis in dialects.axes_of(optimizer):
        needed = tuple(dialects.AXES[optimizer, flag][0] for flag in axis.needs[:1])
        likely = sorted(range(len(runs)), key=lambda i: axis.flag not in runs[i][0].flags)
        assert any(digest((axis, *needed), i) != digest(needed, i) for i in likely), axis.flag


def test_every_claim_has_an_axis_and_every_flag_a_meaning() -> None:
    assert set(CLAIMS) <= set(dialects.AXES)
    of_axes = {flag for _, flag in dialects.AXES}
    assert not of_axes & OF_SETTINGS
    assert of_axes | OF_SETTINGS == set(cases.flags()) == set(dialects.FLAGS)
    assert {flag: x.meaning for flag, x in dialects.FLAGS.items()} == cases.flags()
    assert len({optimizer for optimizer, _ in CLAIMS}) == len(cases.stems())
