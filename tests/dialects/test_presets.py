"""The optimizers of other libraries: refoptim's dialects go where the libraries go, live or as recorded."""

from __future__ import annotations

import warnings
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, run
from refoptim.conformance.adapters.transformers import BOUND
from refoptim.conformance.cases import Case
from refoptim.conformance.reference import Reference

import refoptim
from dialects.formulas import FORMULAS, Formula
from dialects.peers import RECORDED, all_cases, read, runs
from refoptim.dialects import Axis, made_of, preset

CASES = {case.id: case for case in all_cases()}
CLOSE = {"float64": (1e-9, 1e-11), "float32": (2e-4, 2e-5)}
"""How far rounding alone takes runs of some dozen steps apart, relative and absolute."""

IN_FLOAT32 = {
    "mlx": "numbers that are no arrays are float32",
    "onnx": "the attributes of operators are float32",
    "paddle": "the settings that its kernels take are float32",
    "tensorflow1": "hyperparameters are float32",
    "tensorflow2": "hyperparameters are float32",
}
"""Libraries that round to float32 on the way, though their arrays are float64."""

LOOSE = (1e-6, 1e-7)

UNSTABLE = {("mxnet", "nadam-product"): "a number swings wider and wider, and by 1e9 in the run what rounding parts"}
"""Runs that cannot be compared to the end."""

ROUNDING_ALONE = ("DecayInStep", "MuProductInDouble")
"""Flags of what is the same number, rounded at another place."""


def own_settings(library: str, hyper: Any) -> dict[str, Any]:
    """Return the settings that the adapter of a library chooses by torch's."""
    return {"relative_step": hyper.get("lr", BOUND) == BOUND} if library == "transformers" else {}


class Dialect(Reference):
    """A preset as an implementation."""

    def __init__(self, library: str) -> None:
        self._library, self._presets = library, preset.known()[library]

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self._arrays = [np.array(p) for p in parameters]
        settings = {**adapters.all_hyper(optimizer, hyper), **own_settings(self._library, hyper)}
        self._build = partial(self._presets[optimizer], self._arrays, **settings)
        self._optimizer = self._build()


def trajectory(implementation: Any, case: Case, dtype: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run.execute(implementation, case, dtype)
    rows = [found.steps.index(step) for step in case.record]
    return {f"param.{i}": found.tensors[f"param.{i}"][rows] for i in range(len(case.shapes))}


def agree(ours: dict[str, Any], theirs: dict[str, Any], dtype: str, library: str) -> bool:
    rtol, atol = LOOSE if library in IN_FLOAT32 and dtype == "float64" else CLOSE[dtype]
    return all(np.allclose(ours[key], theirs[key], rtol=rtol, atol=atol, equal_nan=True) for key in ours)


@cache
def kept_of(library: str) -> dict[str, Any]:
    """Return the runs of a library: recorded, or computed from its formulas."""
    if library not in FORMULAS:
        runs = read(library)["runs"]
        return {name: x for name, x in runs.items() if (library, name) not in UNSTABLE}
    formula, able = Formula(library), [case for case in all_cases() if not case.id.endswith("-edges")]
    able = [case for case in able if not adapters.why_not(formula, case, "float64")]
    return {case.id: {"dtype": "float64", **trajectory(formula, case, "float64")} for case in able}


def differing(library: str, implementation: Any, optimizer: str) -> list[str]:
    """Return the cases of an optimizer in which an implementation is not the library."""
    return [
        name
        for name, theirs in kept_of(library).items()
        if CASES[name].optimizer == optimizer
        and not agree(trajectory(implementation, CASES[name], theirs["dtype"]), theirs, theirs["dtype"], library)
    ]


def distance(library: str, implementation: Any, optimizer: str) -> float:
    """Return how far an implementation is from the library, over all cases of an optimizer that both run."""
    total = 0.0
    for name, theirs in kept_of(library).items():
        if CASES[name].optimizer == optimizer:
            ours = trajectory(implementation, CASES[name], theirs["dtype"])
            total += sum(float(np.nansum(np.abs(ours[key] - theirs[key].astype(np.float64)))) for key in ours)
    return total


@pytest.mark.sweep(3)
@pytest.mark.parametrize("library", preset.LIBRARIES)
def test_presets_are_the_libraries_as_recorded_or_written(library: str) -> None:
    known, kept = preset.known()[library], kept_of(library)
    assert not [name for optimizer in known for name in differing(library, Dialect(library), optimizer)]
    assert {CASES[name].optimizer for name in kept} == set(known)


@pytest.mark.parametrize("library", [name for name in preset.LIBRARIES if name not in FORMULAS])
def test_the_libraries_are_as_recorded(library: str) -> None:
    try:
        make: Any = adapters.find(library)
        make()
    except adapters.NotAvailable as error:
        pytest.skip(str(error))
    kept = kept_of(library)
    for case, dtype in runs(library):
        if (library, case.id) not in UNSTABLE:
            assert agree(trajectory(make(), case, dtype), kept[case.id], dtype, library), case.id


@pytest.mark.sweep(3)
@pytest.mark.parametrize("library", preset.LIBRARIES)
def test_every_flag_of_a_preset_is_needed(library: str) -> None:
    """Without any one of its differences a preset is not the library, or, where that only rounds, farther from it."""
    for name, made in preset.known()[library].items():
        for axis in made.axes:
            less = Less(library, without(made, axis))
            needed = bool(differing(library, less, name))
            if axis.flag in ROUNDING_ALONE:
                needed = needed or distance(library, Dialect(library), name) < distance(library, less, name)
            assert needed, f"{library}.{name} does not need {axis.flag}"


def without(made: Any, axis: Axis) -> Any:
    """Return a preset that lacks one of its differences, and what needs it, with settings of its own."""
    others = [x for x in made.axes if x is not axis and axis.flag not in x.needs]
    less = made_of(getattr(refoptim, made.__name__), *others)
    own = [cls for cls in made.__mro__[1:] if cls.__module__ == made.__module__]
    return type(made.__name__, (*own, less), {}) if own else less


class Less(Dialect):
    """A class of optimizers as an implementation."""

    def __init__(self, library: str, made: Any) -> None:
        self._library, self._made = library, made

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self._presets = {optimizer: self._made}
        super().make(optimizer, hyper, parameters)


def test_presets_have_recordings_or_formulas() -> None:
    assert sorted([*(path.stem for path in RECORDED.glob("*.json")), *FORMULAS]) == sorted(preset.LIBRARIES)
