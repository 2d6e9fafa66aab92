"""The optimizers of other libraries: refoptim's dialects go where the libraries go, live or as recorded."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, run
from refoptim.conformance.cases import Case
from refoptim.conformance.reference import Reference

from dialects.peers import RECORDED, all_cases, read, runs
from refoptim.dialects import dialect, preset

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


class Dialect(Reference):
    """A preset as an implementation."""

    def __init__(self, library: str) -> None:
        self._presets = preset.known()[library]

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self._arrays = [np.array(p) for p in parameters]
        self._build = partial(self._presets[optimizer], self._arrays, **adapters.all_hyper(optimizer, hyper))
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


@pytest.mark.parametrize("library", preset.LIBRARIES)
def test_presets_are_the_libraries_as_recorded(library: str) -> None:
    kept = read(library)["runs"]
    known = preset.known()[library]
    wrong = [
        name
        for name, theirs in kept.items()
        if CASES[name].optimizer in known
        and not agree(trajectory(Dialect(library), CASES[name], theirs["dtype"]), theirs, theirs["dtype"], library)
    ]
    assert not wrong
    assert {CASES[name].optimizer for name in kept} >= set(known)


@pytest.mark.parametrize("library", preset.LIBRARIES)
def test_the_libraries_are_as_recorded(library: str) -> None:
    try:
        make: Any = adapters.find(library)
        make()
    except adapters.NotAvailable as error:
        pytest.skip(str(error))
    kept = read(library)["runs"]
    for case, dtype in runs(library):
        assert agree(trajectory(make(), case, dtype), kept[case.id], dtype, library), case.id


@pytest.mark.parametrize("library", preset.LIBRARIES)
def test_every_flag_of_a_preset_is_needed(library: str) -> None:
    """Without any one of its differences a preset is not the library, in some case that was recorded."""
    kept = read(library)["runs"]
    for name, made in preset.known()[library].items():
        for flag in made.flags:
            others = [other for other in made.flags if other != flag]
            less = dialect(name, *others)
            different = [
                case
                for case, theirs in kept.items()
                if CASES[case].optimizer == name
                and not agree(trajectory(Less(less), CASES[case], theirs["dtype"]), theirs, theirs["dtype"], library)
            ]
            assert different, f"{library}.{name} does not need {flag}"


class Less(Dialect):
    """A class of optimizers as an implementation."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self._presets = {optimizer: self._made}
        super().make(optimizer, hyper, parameters)


def test_presets_have_recordings() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == set(preset.LIBRARIES)
