"""Every wrong hyperparameter, wherever it is given: what is raised, what it says, and that nothing has changed."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ROOT
from helpers.kernels import NEEDS_KERNELS
from helpers.refusals import R, Row, T, V, f4, gradient, inf, nan, refused, trained
from refoptim import functional
from refoptim.engines import host

POSITIVE = "(lr must be in (0, inf))"
ADJUST = "(adjust_lr_fn must be one of 'original', 'match_rms_adamw' or None)"
REALS = "(its values must be in (-inf, inf), (-inf, inf), (-inf, inf))"
BETA = "Invalid beta parameter at index"

HYPERPARAMETERS: list[Row] = [
    ("SGD", {"lr": -0.5}, V, "Invalid learning rate: -0.5 (lr must be in [0, inf))"),
    ("SGD", {"lr": nan}, V, "Invalid learning rate: nan (lr must be in [0, inf))"),
    ("SGD", {"lr": inf}, V, "Invalid learning rate: inf (lr must be in [0, inf))"),
    ("SGD", {"lr": 10**400}, V, "Invalid learning rate: inf (lr must be in [0, inf))"),
    ("SGD", {"lr": "0.1"}, T, "lr must be a real number, got '0.1' (lr must be in [0, inf))"),
    ("SGD", {"lr": True}, T, "lr must be a real number, got True (lr must be in [0, inf))"),
    ("SGD", {"lr": None}, T, "lr must be a real number, got None (lr must be in [0, inf))"),
    ("SGD", {"lr": 1j}, T, "lr must be a real number, got 1j (lr must be in [0, inf))"),
    ("SGD", {"lr": (0.1,)}, T, "lr must be a real number, got (0.1,) (lr must be in [0, inf))"),
    ("SGD", {"lr": np.array([0.1, 0.2])}, V, "Tensor lr must be 1-element, got shape (2,)"),
    ("SGD", {"lr": np.array([])}, V, "Tensor lr must be 1-element, got shape (0,)"),
    ("SGD", {"lr": np.array(nan)}, V, "Invalid learning rate: nan (lr must be in [0, inf))"),
    ("SGD", {"lr": np.array([-1.0])}, V, "Invalid learning rate: -1.0 (lr must be in [0, inf))"),
    ("SGD", {"lr": np.array(1j)}, T, "lr must hold a real number, got dtype complex128 (lr must be in [0, inf))"),
    ("SGD", {"lr": np.array("1")}, T, "lr must hold a real number, got dtype <U1 (lr must be in [0, inf))"),
    ("SGD", {"lr": np.array(True)}, T, "lr must hold a real number, got dtype bool (lr must be in [0, inf))"),
    ("SGD", {"lr": np.ma.masked}, T, "lr must be a real number, got masked (lr must be in [0, inf))"),
    ("SGD", {"momentum": -0.1}, V, "Invalid momentum value: -0.1 (momentum must be in [0, inf))"),
    ("SGD", {"momentum": nan}, V, "Invalid momentum value: nan (momentum must be in [0, inf))"),
    ("SGD", {"dampening": nan}, V, "Invalid dampening value: nan (dampening must be in (-inf, inf))"),
    ("SGD", {"weight_decay": -1}, V, "Invalid weight_decay value: -1 (weight_decay must be in [0, inf))"),
    ("SGD", {"weight_decay": inf}, V, "Invalid weight_decay value: inf (weight_decay must be in [0, inf))"),
    ("SGD", {"nesterov": 1}, T, "nesterov must be True or False, got 1"),
    (
        "SGD",
        {"nesterov": True},
        V,
        "Nesterov momentum requires a momentum and zero dampening (nesterov=True with momentum=0, dampening=0)",
    ),
    (
        "SGD",
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        V,
        "Nesterov momentum requires a momentum and zero dampening (nesterov=True with momentum=0.9, dampening=0.1)",
    ),
    ("SGD", {"maximize": None}, T, "maximize must be True or False, got None"),
    ("SGD", {"maximize": "yes"}, T, "maximize must be True or False, got 'yes'"),
    ("SGD", {"foreach": 1}, T, "foreach must be True or False or None, got 1"),
    ("SGD", {"differentiable": 1}, T, "differentiable must be True or False, got 1"),
    ("SGD", {"capturable": "no"}, T, "capturable must be True or False, got 'no'"),
    ("Adam", {"lr": -1e-9}, V, "Invalid learning rate: -1e-09 (lr must be in [0, inf))"),
    ("Adam", {"betas": (1.0, 0.9)}, V, f"{BETA} 0: 1.0 (betas[0] must be in [0, 1))"),
    ("Adam", {"betas": (0.9, -0.1)}, V, f"{BETA} 1: -0.1 (betas[1] must be in [0, 1))"),
    ("Adam", {"betas": (0.9, nan)}, V, f"{BETA} 1: nan (betas[1] must be in [0, 1))"),
    ("Adam", {"betas": (0.9, True)}, T, "betas[1] must be a real number, got True (betas[1] must be in [0, 1))"),
    ("Adam", {"betas": (0.9, np.array([0.5, 0.5]))}, V, "Tensor betas[1] must be 1-element, got shape (2,)"),
    (
        "Adam",
        {"betas": (0.9,)},
        V,
        "betas must be a tuple of exactly 2 values, got (0.9,) (its values must be in [0, 1), [0, 1))",
    ),
    (
        "Adam",
        {"betas": 0.9},
        V,
        "betas must be a tuple of exactly 2 values, got 0.9 (its values must be in [0, 1), [0, 1))",
    ),
    (
        "Adam",
        {"betas": np.array([0.9, 0.99])},
        V,
        "betas must be a tuple of exactly 2 values, got array([0.9 , 0.99]) (its values must be in [0, 1), [0, 1))",
    ),
    ("Adam", {"eps": -1e-8}, V, "Invalid epsilon value: -1e-08 (eps must be in [0, inf))"),
    ("Adam", {"eps": nan}, V, "Invalid epsilon value: nan (eps must be in [0, inf))"),
    ("Adam", {"weight_decay": nan}, V, "Invalid weight_decay value: nan (weight_decay must be in [0, inf))"),
    ("Adam", {"amsgrad": 0}, T, "amsgrad must be True or False, got 0"),
    ("Adam", {"decoupled_weight_decay": 1}, T, "decoupled_weight_decay must be True or False, got 1"),
    ("AdamW", {"weight_decay": -0.01}, V, "Invalid weight_decay value: -0.01 (weight_decay must be in [0, inf))"),
    ("AdamW", {"betas": (-0.5, 0.9)}, V, f"{BETA} 0: -0.5 (betas[0] must be in [0, 1))"),
    ("NAdam", {"momentum_decay": -1}, V, "Invalid momentum_decay value: -1 (momentum_decay must be in [0, inf))"),
    ("NAdam", {"momentum_decay": nan}, V, "Invalid momentum_decay value: nan (momentum_decay must be in [0, inf))"),
    ("RAdam", {"eps": -1}, V, "Invalid epsilon value: -1 (eps must be in [0, inf))"),
    ("RAdam", {"betas": (0.9, 1)}, V, f"{BETA} 1: 1 (betas[1] must be in [0, 1))"),
    ("Adamax", {"lr": nan}, V, "Invalid learning rate: nan (lr must be in [0, inf))"),
    ("Adamax", {"eps": "small"}, T, "eps must be a real number, got 'small' (eps must be in [0, inf))"),
    ("Adadelta", {"rho": 1.5}, V, "Invalid rho value: 1.5 (rho must be in [0, 1])"),
    ("Adadelta", {"rho": -0.1}, V, "Invalid rho value: -0.1 (rho must be in [0, 1])"),
    ("Adagrad", {"lr_decay": -1}, V, "Invalid lr_decay value: -1 (lr_decay must be in [0, inf))"),
    (
        "Adagrad",
        {"initial_accumulator_value": -1.0},
        V,
        "Invalid initial_accumulator_value value: -1.0 (initial_accumulator_value must be in [0, inf))",
    ),
    ("RMSprop", {"alpha": 1.01}, V, "Invalid alpha value: 1.01 (alpha must be in [0, 1])"),
    ("RMSprop", {"centered": "yes"}, T, "centered must be True or False, got 'yes'"),
    ("Rprop", {"etas": (0.5, 1.0)}, V, "Invalid eta values: 1.0 (etas[1] must be in (1, inf))"),
    ("Rprop", {"etas": (0.0, 1.2)}, V, "Invalid eta values: 0.0 (etas[0] must be in (0, 1))"),
    ("Rprop", {"step_sizes": (-1.0, 5)}, V, "Invalid step_sizes[0] value: -1.0 (step_sizes[0] must be in [0, inf))"),
    (
        "Rprop",
        {"step_sizes": (2.0, 1.0)},
        V,
        "Invalid step_sizes: (2.0, 1.0) (step_sizes[0] must be in [0, step_sizes[1]])",
    ),
    ("ASGD", {"lambd": -1e-4}, V, "Invalid lambd value: -0.0001 (lambd must be in [0, inf))"),
    ("ASGD", {"alpha": nan}, V, "Invalid alpha value: nan (alpha must be in [0, inf))"),
    ("ASGD", {"t0": -1}, V, "Invalid t0 value: -1 (t0 must be in [0, inf])"),
    ("SparseAdam", {"lr": 0.0}, V, f"Invalid learning rate: 0.0 {POSITIVE}"),
    ("SparseAdam", {"eps": 0.0}, V, "Invalid epsilon value: 0.0 (eps must be in (0, inf))"),
    ("Adafactor", {"lr": -1}, V, "Learning rate should be >= 0 but is: -1 (lr must be in [0, inf))"),
    ("Adafactor", {"beta2_decay": 0.5}, V, "beta2_decay should be <= 0 but is: 0.5 (beta2_decay must be in (-inf, 0])"),
    (
        "Adafactor",
        {"eps": (-1e-3, 1e-3)},
        V,
        "epsilon1 should be >= 0 but is: -0.001 (eps[0] must be in [0, inf) or None)",
    ),
    ("Adafactor", {"eps": (None, nan)}, V, "epsilon2 should be >= 0 but is: nan (eps[1] must be in [0, inf))"),
    ("Adafactor", {"d": 0.5}, V, "Clipping threshold d should be >= 1 but is: 0.5 (d must be in [1, inf))"),
    (
        "Adafactor",
        {"weight_decay": -0.5},
        V,
        "weight_decay should be >= 0 but is: -0.5 (weight_decay must be in [0, inf))",
    ),
    ("Muon", {"momentum": -1.0}, V, "momentum should be >= 0 but is: -1.0 (momentum must be in [0, inf))"),
    ("Muon", {"weight_decay": nan}, V, "weight decay should be >= 0 but is: nan (weight_decay must be in [0, inf))"),
    (
        "Muon",
        {"ns_steps": 100},
        V,
        "Number of steps must be less than 100 for computational efficiency but is: 100 (ns_steps must be in [0, 100))",
    ),
    ("Muon", {"ns_steps": 5.0}, T, "ns_steps must be an integer, got 5.0 (ns_steps must be in [0, 100))"),
    (
        "Muon",
        {"ns_coefficients": (1.0, 2.0)},
        V,
        f"ns_coefficients must be a tuple of exactly 3 values, got (1.0, 2.0) {REALS}",
    ),
    (
        "Muon",
        {"adjust_lr_fn": "best"},
        V,
        f"Adjust learning rate function best is not supported {ADJUST}",
    ),
    (
        "Muon",
        {"ns_dtype": "float16"},
        V,
        "Invalid ns_dtype: float16 (ns_dtype must be one of 'bfloat16', 'float32', 'float64')",
    ),
    (
        "Muon",
        {"products": "fast"},
        V,
        "Invalid products: fast (products must be one of 'exact', 'library')",
    ),
]


def as_argument(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    return lambda: getattr(refoptim, name)([w], **given)


def of_a_group(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    return lambda: getattr(refoptim, name)([{"params": [f4(3, 3)]}, {"params": [w], **given}])


def of_an_added_group(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    return lambda: optimizer.add_param_group({"params": [f4(3, 3)], **given})


def set_between_steps(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    optimizer.add_param_group({"params": [f4(3, 3)]})
    optimizer.param_groups[1].update(given)
    return lambda: optimizer.step(grads=[gradient(name, w), gradient(name, f4(3, 3))])


def loaded(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(given)
    return lambda: optimizer.load_state_dict(saved)


def of_the_pure_rule(name: str, given: dict[str, Any], optimizer: Any, w: Any) -> Callable[[], Any]:
    pure = getattr(functional, "sparse_adam" if name == "SparseAdam" else name.lower())
    return lambda: pure([w], [gradient(name, w)], None, 1, **given)


WAYS = [as_argument, of_a_group, of_an_added_group, set_between_steps, loaded, of_the_pure_rule]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "given", "error", "message"), HYPERPARAMETERS)
def test_hyperparameter(name: str, given: dict[str, Any], error: type[Exception], message: str, way: Any) -> None:
    optimizer, w = trained(name)
    refused([optimizer, w, given], way(name, given, optimizer, w), error, message)


FLAGS: list[Row] = [
    ("Adam", {"fused": 0.5}, T, "fused must be True or False or None, got 0.5"),
    ("Adam", {"fused": True, "foreach": True}, R, "`fused` and `foreach` cannot be `True` together."),
    ("Adam", {"fused": True, "differentiable": True}, R, "`fused` does not support `differentiable`"),
]


@pytest.mark.parametrize("way", [as_argument, of_a_group, of_an_added_group, set_between_steps])
def test_kernels_that_were_not_built(way: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "_host.so")
    optimizer, w = trained("Adam")
    message = f"fused=True needs the compiled kernels, which were not built when refoptim was installed: {host.REMEDY}"
    refused([optimizer, w], way("Adam", {"fused": True}, optimizer, w), R, message)


@NEEDS_KERNELS
@pytest.mark.parametrize("name", ["Adam", "Muon"])
def test_a_pure_rule_takes_no_kernels(name: str) -> None:
    optimizer, w = trained(name)
    message = "fused kernels write in place, and this function makes new arrays: leave fused=None"
    refused([optimizer, w], of_the_pure_rule(name, {"fused": True}, optimizer, w), R, message)


@pytest.mark.parametrize("way", [way for way in WAYS if way is not loaded])
@pytest.mark.parametrize(("name", "given", "error", "message"), FLAGS)
def test_fused(name: str, given: dict[str, Any], error: type[Exception], message: str, way: Any) -> None:
    optimizer, w = trained(name)
    refused([optimizer, w, given], way(name, given, optimizer, w), error, message)


@pytest.mark.parametrize("way", [of_a_group, of_an_added_group, set_between_steps, loaded])
def test_adamw_stays_decoupled(way: Any) -> None:
    optimizer, w = trained("AdamW")
    message = "AdamW decouples its weight decay: decoupled_weight_decay must be True, got False"
    refused([optimizer, w], way("AdamW", {"decoupled_weight_decay": False}, optimizer, w), V, message)


TABLES = {
    "step/test_bad_hyperparameters.py": ["HYPERPARAMETERS"],
    "step/test_bad_params.py": ["MEMBERS", "ADDED", "OTHERS"],
    "step/test_bad_steps.py": ["GRADIENTS", "CALLS", "ALTERED"],
    "step/test_bad_states.py": ["SAVED"],
    "functional/test_refused.py": ["PURE"],
    "optimizers/test_bad_swaps.py": ["SWAPS"],
}


def test_the_tables_hold_at_least_a_hundred_refusals() -> None:
    files = {path: runpy.run_path(str(ROOT / "tests" / path)) for path in TABLES}
    assert sum(len(files[path][name]) for path, names in TABLES.items() for name in names) >= 100
