"""Everything a user can get wrong: what is raised, what it says, and that nothing has changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import aslinearoperator

import refoptim
from helpers.pictures import picture
from refoptim import Parameter, SparseGrad, functional, register_optimizer_step_post_hook
from refoptim.engines import host

nan, inf = float("nan"), float("inf")
V, T, R = ValueError, TypeError, RuntimeError

Row = tuple[str, Any, type[Exception], str]


def f4(*shape: int) -> Any:
    return np.linspace(-1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def f8(*shape: int) -> Any:
    return f4(*shape).astype(np.float64)


def gradient(name: str, x: Any) -> Any:
    """Return a gradient that the optimizer accepts."""
    return SparseGrad([[0, 1]], 0.5 * x[:2] + 1, x.shape) if name == "SparseAdam" else 0.5 * x + 1


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
]


def trained(name: str) -> tuple[Any, Any]:
    """Return an optimizer after two steps of a matrix, and the matrix."""
    w = f4(2, 3)
    optimizer = getattr(refoptim, name)([w])
    for _ in range(2):
        optimizer.step(grads=[gradient(name, w)])
    return optimizer, w


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


PARAMS = "params argument given to the optimizer should be an iterable of arrays or dicts, but got"
UNORDERED = "optimizer parameters need to be organized in ordered collections"
ONE_OF = "optimizer can only optimize arrays, but one of the params is"
NAMED = "all optimizer params should be with/without names. Some param names are missing"
SUPPORTED = "is not supported: choose one of float16, bfloat16, float32, float64, complex64, complex128"
Refused = tuple[Callable[[Any], Any], type[Exception], str]

MEMBERS: dict[str, Refused] = {
    "no params": (lambda w: None, T, f"{PARAMS} NoneType"),
    "a number": (lambda w: 3, T, f"{PARAMS} int"),
    "a bare array": (lambda w: w, T, f"{PARAMS} ndarray"),
    "a bare sparse matrix": (lambda w: scipy.sparse.eye(3), T, f"{PARAMS} dia_"),
    "a sparse matrix in a group": (lambda w: [{"params": scipy.sparse.eye(3)}], T, f"{ONE_OF} dia_"),
    "a bare Parameter": (lambda w: Parameter(w), T, f"{PARAMS} Parameter"),
    "a bare group": (lambda w: {"params": [w]}, T, f"{PARAMS} dict"),
    "text": (lambda w: "abc", T, f"{PARAMS} str"),
    "nothing": (lambda w: [], V, "optimizer got an empty parameter list"),
    "a set": (lambda w: {Parameter(w)}, T, UNORDERED),
    "a set in a group": (lambda w: [{"params": {Parameter(w)}}], T, UNORDERED),
    "a dict in a group": (
        lambda w: [{"params": {"w": w}}],
        T,
        "the params of a group must be arrays in a list, got dict",
    ),
    "text in a group": (lambda w: [{"params": "w"}], T, "the params of a group must be arrays in a list, got str"),
    "a group without params": (lambda w: [{"lr": 1}], V, "param_group must have the key 'params'"),
    "a setting without a name": (
        lambda w: [{"params": [w], 3: 0.1}],
        T,
        "the settings of a parameter group must have names, got 3",
    ),
    "an array among groups": (lambda w: [{"params": [w]}, f4(2)], T, "param_group must be a dict, but got"),
    "a group among arrays": (lambda w: [f4(2), {"params": [w]}], T, f"{ONE_OF} dict"),
    "a list of numbers": (lambda w: [[1.0, 2.0]], T, f"{ONE_OF} list"),
    "a NumPy scalar": (lambda w: [np.float32(1)], T, f"{ONE_OF} float32"),
    "a memoryview": (lambda w: [memoryview(w)], T, f"{ONE_OF} memoryview"),
    "a sparse matrix": (lambda w: [scipy.sparse.eye(3)], T, f"{ONE_OF} dia_"),
    "a masked array": (lambda w: [np.ma.array(w)], T, "a masked array cannot be optimized"),
    "integers": (lambda w: [np.arange(3)], T, f"dtype int64 {SUPPORTED}"),
    "objects": (lambda w: [np.array([1.0], object)], T, f"dtype object {SUPPORTED}"),
    "long doubles": (lambda w: [w.astype("g")], T, f"{SUPPORTED}"),
    "swapped bytes": (lambda w: [w.astype(">f4")], T, f"dtype >f4 {SUPPORTED}"),
    "a read-only array": (
        lambda w: [np.broadcast_to(w, (2, 2, 3))],
        V,
        "optimizer can only optimize writable arrays, but one of the params is read-only",
    ),
    "one number many times": (
        lambda w: [np.lib.stride_tricks.as_strided(w, (4,), (0,))],
        V,
        "arrays whose elements do not share memory, but one of the params has shape (4,) and strides (0,)",
    ),
    "numbers that overlap by a byte": (
        lambda w: [np.lib.stride_tricks.as_strided(w, (3,), (3,))],
        V,
        "one of the params has shape (3,) and strides (3,)",
    ),
    "axes that cross": (
        lambda w: [np.lib.stride_tricks.as_strided(w, (3, 2), (4, 8))],
        V,
        "one of the params has shape (3, 2) and strides (4, 8)",
    ),
    "a sliding window": (
        lambda w: [np.lib.stride_tricks.as_strided(w, (4, 3), (4, 4))],
        V,
        "one of the params has shape (4, 3) and strides (4, 4)",
    ),
    "the same array twice": (
        lambda w: [w, w],
        V,
        "optimizer contains a parameter group with duplicate parameters: parameters 0 and 1 of the group share memory",
    ),
    "an array and a part of it": (
        lambda w: [f4(2), w, w[:, 1:]],
        V,
        "optimizer contains a parameter group with duplicate parameters: parameters 1 and 2 of the group share memory",
    ),
    "an array and a buffer over it": (
        lambda w: [w, np.frombuffer(w.data, np.float32)],
        V,
        "optimizer contains a parameter group with duplicate parameters: parameters 0 and 1 of the group share memory",
    ),
    "an array and its transpose in two groups": (
        lambda w: [{"params": [f4(2), w.T]}, {"params": [w]}],
        V,
        "some parameters appear in more than one parameter group: parameter 0 of the group shares memory",
    ),
    "the same empty Parameter twice": (
        lambda w: [Parameter(f4(0))] * 2,
        V,
        "optimizer contains a parameter group with duplicate parameters",
    ),
    "some names": (lambda w: [("w", w), f4(2)], V, NAMED),
    "names of some groups": (
        lambda w: [{"params": [("w", w)]}, {"params": [f4(2)]}],
        V,
        "param groups should be with/without names. cannot add param group without names to the optimizer",
    ),
    "a number for a name": (lambda w: [(1, w)], T, "a named parameter must be a pair of a str and an array, got (1,"),
    "three of a pair": (lambda w: [("w", w, 1)], T, "a named parameter must be a pair of a str and an array"),
    "a name twice": (
        lambda w: [("w", w), ("w", f4(2))],
        V,
        "param_names of a parameter group must be 2 names that differ, got ['w', 'w']",
    ),
    "too many names": (
        lambda w: [{"params": [w], "param_names": ["w", "b"]}],
        V,
        "param_names of a parameter group must be 1 names that differ, got ['w', 'b']",
    ),
    "other names": (
        lambda w: [{"params": [("w", w)], "param_names": ["b"]}],
        V,
        "param_names of a parameter group must be 1 names that differ, got ['b']",
    ),
}


def refused(seen: list[Any], act: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Fail unless ``act`` raises exactly this type with this text, and leaves all that is seen as it was."""
    before = picture(seen)
    with pytest.raises(error) as raised:
        act()
    assert type(raised.value) is error
    assert message in str(raised.value)
    assert picture(seen) == before


@pytest.mark.parametrize(("params", "error", "message"), MEMBERS.values(), ids=MEMBERS)
def test_params(params: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    w = f4(2, 3)
    given = params(w)
    refused([w, given], lambda: refoptim.Adagrad(given), error, message)


def is_list_of_members(params: Callable[[Any], Any]) -> bool:
    given = params(f4(2, 3))
    return isinstance(given, list) and len(given) > 0 and not isinstance(given[0], dict)


LISTS = {key: row for key, row in MEMBERS.items() if is_list_of_members(row[0])}


@pytest.mark.parametrize(("params", "error", "message"), LISTS.values(), ids=LISTS)
def test_an_added_group(params: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    """What a list of params may not hold, a group added later may not either."""
    w, mine = f4(2, 3), f4(5)
    given = params(w)
    optimizer = refoptim.Adagrad([("mine", mine)] if isinstance(given[0], tuple) else [mine])
    refused([optimizer, w], lambda: optimizer.add_param_group({"params": given}), error, message)


ADDED: dict[str, Refused] = {
    "not a dict": (lambda o: [f4(2)], T, "param_group must be a dict, but got <class 'list'>"),
    "no params": (lambda o: {"lr": 0.1}, V, "param_group must have the key 'params'"),
    "a parameter again": (lambda o: {"params": o.param_groups[0]["params"][0]}, V, "some parameters appear in more"),
    "part of a parameter": (lambda o: {"params": o.param_groups[0]["params"][0].data[1]}, V, "some parameters appear"),
    "no names": (lambda o: {"params": f4(2)}, V, "cannot add param group without names to the optimizer"),
}


@pytest.mark.parametrize(("group", "error", "message"), ADDED.values(), ids=ADDED)
def test_add_param_group(group: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    optimizer = refoptim.Adagrad([("w", f4(2, 3)), ("b", f4(3))])
    given = group(optimizer)
    if message.startswith("some"):
        given["params"] = [("again", given["params"])]
    refused([optimizer], lambda: optimizer.add_param_group(given), error, message)


OTHERS: dict[str, Refused] = {
    "Muon of a vector": (
        lambda w: refoptim.Muon([w, w[0].copy()]),
        V,
        "Muon only supports 2D parameters whereas we found a parameter with size: (3,) (parameter 1 of group 0)",
    ),
    "Muon of complex numbers": (
        lambda w: refoptim.Muon([w.astype("c8")]),
        R,
        "Muon does not support complex parameters: parameter 0 of group 0 has dtype complex64",
    ),
    "Adafactor of complex numbers": (
        lambda w: refoptim.Adafactor([("w", w.astype("c16"))]),
        R,
        "Adafactor does not support complex parameters: parameter 0 of group 0 (w) has dtype complex128",
    ),
    "SparseAdam of complex numbers": (
        lambda w: refoptim.SparseAdam([w.astype("c8")]),
        V,
        "SparseAdam does not support complex parameters: parameter 0 of group 0 has dtype complex64",
    ),
    "an unknown setting": (lambda w: refoptim.Adam([w], learning_rate=1), T, "'learning_rate'"),
    "maximize by position": (lambda w: refoptim.Adam([w], 1, (0.9, 0.9), 1, 1, False, True), T, "positional"),
    "a setting of another": (lambda w: refoptim.AdamW([w], decoupled_weight_decay=True), T, "decoupled_weight_decay"),
    "a Parameter of a list": (lambda w: Parameter([1.0]), T, f"{ONE_OF} list"),
    "a Parameter of a Parameter": (lambda w: Parameter(Parameter(w)), T, f"{ONE_OF} Parameter"),
    "a Parameter of integers": (lambda w: Parameter(np.arange(3)), T, f"dtype int64 {SUPPORTED}"),
    "a Parameter named 5": (lambda w: Parameter(w, name=5), T, "name must be a str or None, got 5"),
    "a gradient of another shape": (lambda w: Parameter(w, w.T), V, "the gradient must have shape (2, 3), got (3, 2)"),
    "a gradient of another dtype": (
        lambda w: Parameter(w, f8(2, 3)),
        T,
        "the gradient must have dtype float32, got float64",
    ),
    "a gradient of text": (lambda w: Parameter(w, "g"), T, "the gradient must be an array, got str"),
    "fractional indices": (
        lambda w: SparseGrad([[0.0]], [1.0], (3,)),
        T,
        "indices must be integers, got dtype float64",
    ),
    "a negative index": (lambda w: SparseGrad([[-1]], [1.0], (3,)), V, "indices[0] must be in [0, 3), got -1"),
    "an index outside": (lambda w: SparseGrad([[0], [4]], [1.0], (3, 4)), V, "indices[1] must be in [0, 4), got 4"),
    "flags for indices": (lambda w: SparseGrad([[True]], [1.0], (3,)), T, "indices must be integers, got dtype bool"),
    "a list of indices": (
        lambda w: SparseGrad([0], [1.0], (3,)),
        V,
        "indices must have shape (sparse_dim, nnz) with 1 <= sparse_dim <= 1, got (1,)",
    ),
    "more sparse axes than axes": (
        lambda w: SparseGrad([[0], [0]], [1.0], (3,)),
        V,
        "indices must have shape (sparse_dim, nnz) with 1 <= sparse_dim <= 1, got (2, 1)",
    ),
    "ragged indices": (lambda w: SparseGrad([[0], [1, 2]], [1.0], (3, 4)), T, "indices must be an array:"),
    "too many values": (lambda w: SparseGrad([[0]], [1.0, 2.0], (3,)), V, "values must have shape (1,), got (2,)"),
    "rows too short": (lambda w: SparseGrad([[0]], [[1.0]], (3, 2)), V, "values must have shape (1, 2), got (1, 1)"),
    "integer values": (lambda w: SparseGrad([[0]], [1], (3,)), T, f"dtype int64 {SUPPORTED}"),
    "masked values": (lambda w: SparseGrad([[0]], np.ma.ones(1), (3,)), T, "values must not be a masked array"),
    "a fractional shape": (
        lambda w: SparseGrad([[0]], [1.0], (3.7,)),
        T,
        "shape must be a tuple of integers, got (3.7,)",
    ),
    "a number for a shape": (lambda w: SparseGrad([[0]], [1.0], 3), T, "shape must be a tuple of integers, got 3"),
    "a negative shape": (
        lambda w: SparseGrad(np.zeros((1, 0), int), [], (-3,)),
        V,
        "shape must hold integers in [0, inf), got (-3,)",
    ),
    "half a thread": (
        lambda w: refoptim.set_num_threads(0.5),
        V,
        "the number of threads must be an integer in [0, inf), got 0.5",
    ),
    "fewer than no threads": (lambda w: refoptim.set_num_threads(-1), V, "must be an integer in [0, inf), got -1"),
    "a flag for threads": (lambda w: refoptim.set_num_threads(True), V, "must be an integer in [0, inf), got True"),
    "another rounding": (
        lambda w: refoptim.rounding("up").__enter__(),
        V,
        "rounding must be 'each' or 'store', got 'up'",
    ),
    "a half default dtype": (
        lambda w: refoptim.set_default_dtype("float16"),
        T,
        "the default dtype must be float32 or float64, got 'float16'",
    ),
    "no default dtype": (
        lambda w: refoptim.set_default_dtype(None),
        T,
        "the default dtype must be float32 or float64, got None",
    ),
    "a strange default dtype": (
        lambda w: refoptim.set_default_dtype("quad"),
        T,
        "the default dtype must be float32 or float64, got 'quad'",
    ),
    "swapped bytes by default": (
        lambda w: refoptim.set_default_dtype(">f8"),
        T,
        "the default dtype must be float32 or float64, got '>f8'",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), OTHERS.values(), ids=OTHERS)
def test_constructors_and_settings(act: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    w, bystander = f4(2, 3), trained("NAdam")[0]
    refused([w, bystander], lambda: act(w), error, message)


class World:
    """An optimizer after two steps, of parameters in two groups and two dtypes, the last of which is in trouble."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        self.arrays = [f4(2, 3), f4(4, 1), f8(3, 2)]
        groups = [{"params": self.arrays[:2]}, {"params": self.arrays[2:], "lr": 0.25}]
        self.optimizer = getattr(refoptim, name)(groups, **settings)
        self.groups = self.optimizer.param_groups
        self.last = self.groups[1]["params"][0]
        for _ in range(2):
            self.step()

    @property
    def state(self) -> Any:
        return self.optimizer.state[self.last]

    @property
    def grads(self) -> list[Any]:
        return [gradient(self.name, x) for x in self.arrays]

    def step(self) -> None:
        self.optimizer.step(grads=self.grads)

    def step_with_last(self, grad: Any) -> None:
        self.optimizer.step(grads=[*self.grads[:2], grad])


LAST = "parameter 0 of group 1: "
SHAPE, DTYPE, NO_ARRAY = "the gradient must have shape", "the gradient must have dtype", "the gradient must be an array"
SPARSE_ONLY = "SparseAdam does not support dense gradients, please consider Adam instead"
DENSE_ONLY = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor", "Muon"]

GRADIENTS: dict[str, Row] = {
    "wrong shape": ("Adam", lambda: f8(2, 3), V, f"{SHAPE} (3, 2), got (2, 3)"),
    "one element": ("Adam", lambda: f8(1), V, f"{SHAPE} (3, 2), got (1,)"),
    "other floats": ("Adam", lambda: f4(3, 2), T, f"{DTYPE} float64, got float32"),
    "integers": ("Adam", lambda: np.ones((3, 2), np.int64), T, f"{DTYPE} float64, got int64"),
    "objects": ("Adam", lambda: np.ones((3, 2), object), T, f"{DTYPE} float64, got object"),
    "swapped bytes": ("Adam", lambda: f8(3, 2).astype(">f8"), T, f"{DTYPE} float64, got >f8"),
    "masked": ("Adam", lambda: np.ma.ones((3, 2)), T, "the gradient must not be a masked array: fill what is masked"),
    "a list": ("Adam", lambda: [[1.0, 2.0]] * 3, T, f"{NO_ARRAY}, got list"),
    "text": ("Adam", lambda: "gradient", T, f"{NO_ARRAY}, got str"),
    "a number": ("Adam", lambda: 1.0, T, f"{NO_ARRAY}, got float"),
    "a NumPy scalar": ("Adam", lambda: np.float64(1), T, f"{NO_ARRAY}, got float64"),
    "a Parameter": ("Adam", lambda: Parameter(f8(3, 2)), T, f"{NO_ARRAY}, got Parameter"),
    "an operator": ("Adam", lambda: aslinearoperator(f8(3, 2)), T, f"{NO_ARRAY}, got MatrixLinearOperator"),
    "a sparse shape": ("SGD", lambda: SparseGrad([[0]], f8(1, 2), (4, 2)), V, f"{SHAPE} (3, 2), got (4, 2)"),
    "a sparse dtype": ("SGD", lambda: SparseGrad([[0]], f4(1, 2), (3, 2)), T, f"{DTYPE} float64, got float32"),
    "scipy's integers": (
        "SGD",
        lambda: scipy.sparse.coo_array(np.eye(3, 2, dtype="i8")),
        T,
        f"dtype int64 {SUPPORTED}",
    ),
    "an index moved outside": ("SGD", lambda: spoiled(), V, "indices[0] must be in [0, 3), got 3"),
    "dense for SparseAdam": ("SparseAdam", lambda: f8(3, 2), R, SPARSE_ONLY),
} | {
    f"sparse for {name}": (
        name,
        lambda: SparseGrad([[0]], f8(1, 2), (3, 2)),
        R,
        f"{name} does not support sparse gradients",
    )
    for name in DENSE_ONLY
}
"""What the last gradient of a step may not be."""


def spoiled() -> SparseGrad:
    """Return a sparse gradient that was right when it was made."""
    g = SparseGrad(np.array([[0, 1]]), f8(2, 2), (3, 2))
    g.indices[0, 1] = 3
    return g


@pytest.mark.parametrize(("name", "grad", "error", "message"), GRADIENTS.values(), ids=GRADIENTS)
def test_gradient(name: str, grad: Callable[[], Any], error: type[Exception], message: str) -> None:
    world, given = World(name), grad()
    seen = [world.optimizer, world.arrays, given]
    refused(seen, lambda: world.step_with_last(given), error, LAST + message)
    world.last.grad = given
    refused(seen, world.optimizer.step, error, LAST + message)


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients_do_not_go_with_weight_decay(name: str) -> None:
    world, sparse = World(name, weight_decay=0.1), SparseGrad([[0]], f8(1, 2), (3, 2))
    message = f"{LAST}weight_decay option is not compatible with sparse gradients"
    refused([world.optimizer, sparse], lambda: world.step_with_last(sparse), R, message)


def step(*args: Any, **kwargs: Any) -> Callable[[World], Any]:
    return lambda w: w.optimizer.step(*args, **kwargs)


ITERABLE = "grads must be an iterable of gradients in order"

CALLS: dict[str, Row] = {
    "too few grads": ("Adam", step(grads=[None] * 2), V, "must hold one gradient (or None) per parameter: 3, got 2"),
    "too many grads": ("Adam", step(grads=[None] * 4), V, "must hold one gradient (or None) per parameter: 3, got 4"),
    "one array": ("Adam", step(grads=f4(3)), T, f"{ITERABLE}, got ndarray"),
    "one sparse matrix": ("Adam", step(grads=scipy.sparse.eye(3)), T, f"{ITERABLE}, got dia_"),
    "a dict": ("Adam", lambda w: w.optimizer.step(grads=dict(enumerate(w.grads))), T, f"{ITERABLE}, got dict"),
    "a set": ("SparseAdam", lambda w: w.optimizer.step(grads=set(w.grads)), T, f"{ITERABLE}, got set"),
    "text": ("Adam", step(grads="abc"), T, f"{ITERABLE}, got str"),
    "a number": ("Adam", step(grads=3), T, f"{ITERABLE}, got int"),
    "a closure and grads": ("Adam", step(lambda: 1.0, grads=[None] * 3), T, "step takes a closure or grads, not both"),
    "grads by position": ("Adam", step([f4(2)]), T, "closure must be a function that returns the loss, got [array(["),
    "a hook": ("Adam", lambda w: w.optimizer.register_step_pre_hook(3), T, "hook must be callable, got 3"),
    "a global hook": ("Adam", lambda w: register_optimizer_step_post_hook("f"), T, "hook must be callable, got 'f'"),
}


@pytest.mark.parametrize(("name", "act", "error", "message"), CALLS.values(), ids=CALLS)
def test_call(name: str, act: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World(name)
    refused([world.optimizer, world.arrays], lambda: act(world), error, message)


def data(make: Callable[[], Any]) -> Callable[[World], Any]:
    return lambda w: setattr(w.last, "data", make())


def state(**values: Any) -> Callable[[World], Any]:
    return lambda w: w.state.update(values)


def group(**settings: Any) -> Callable[[World], Any]:
    return lambda w: w.groups[1].update(settings)


def without(key: str) -> Callable[[World], Any]:
    return lambda w: w.groups[1].pop(key)


def to_vector(w: World) -> None:
    w.last.data = w.arrays[2] = f8(6)


COUNT = f"{LAST}the state step must be an integer in [0, inf), got"
NUMBER = "must be one float32 or float64 number, got"
UNSPECIFIED = "parameter group didn't specify a value of required optimization parameter"
LIST = "must be a dict with a list 'params', got"
WRITABLE = "optimizer can only optimize writable arrays, but one of the params is read-only"
FIT = "must have shape (3, 2) and dtype float64, got"
MATRIX = "Muon only supports 2D parameters whereas we found a parameter with size: (6,)"
STRANGER = "parameter 1 of group 1 must be a Parameter, got ndarray: add_param_group makes Parameters of arrays"

ALTERED: dict[str, Row] = {
    "frozen": ("Adam", lambda w: w.last.data.setflags(write=False), V, f"{LAST}{WRITABLE}"),
    "data of another shape": ("Adam", data(lambda: f8(5)), V, f"{LAST}{SHAPE} (5,), got (3, 2)"),
    "data of another dtype": ("Adam", data(lambda: f4(3, 2)), T, f"{LAST}{DTYPE} float32, got float64"),
    "data that is none": ("Adam", data(lambda: None), T, f"{LAST}the data must be a NumPy or CuPy array, got NoneType"),
    "masked data": (
        "Adam",
        data(lambda: np.ma.ones((3, 2))),
        T,
        f"{LAST}the data must be a NumPy or CuPy array, got MaskedArray",
    ),
    "a count of text": ("Adam", state(step="2"), V, f"{COUNT} '2'"),
    "a negative count": ("Adam", state(step=-3), V, f"{COUNT} -3"),
    "a broken count": ("Adam", state(step=2.5), V, f"{COUNT} 2.5"),
    "a count without a value": ("Adam", state(step=nan), V, f"{COUNT} nan"),
    "an infinite count": ("Adam", state(step=inf), V, f"{COUNT} inf"),
    "a flag for a count": ("Adam", state(step=True), V, f"{COUNT} True"),
    "a count beyond doubles": ("Adam", state(step=10**400), V, f"{LAST}the scalars of step 1000"),
    "state of another shape": ("Adam", state(exp_avg=f8(6)), V, f"{LAST}the state exp_avg {FIT} (6,) and float64"),
    "state of another dtype": ("Adam", state(exp_avg=f4(3, 2)), V, f"{LAST}the state exp_avg {FIT} (3, 2) and float32"),
    "read-only state": (
        "SGD",
        state(momentum_buffer=np.broadcast_to(f8(1), (3, 2))),
        V,
        "momentum_buffer must be writable",
    ),
    "a list for state": ("Adam", state(exp_avg=[0.0]), V, f"{LAST}the state exp_avg must be a NumPy array, got list"),
    "masked state": ("Adam", state(exp_avg=np.ma.ones((3, 2))), V, "exp_avg must be a NumPy array, got MaskedArray"),
    "state that is no dict": (
        "Adam",
        lambda w: w.optimizer.state.update({w.last: None}),
        T,
        "the state must be a dict, got N",
    ),
    "a register of text": ("NAdam", state(mu_product="1"), V, f"{LAST}the state mu_product {NUMBER} '1'"),
    "two registers": ("NAdam", state(mu_product=np.ones(2)), V, f"{LAST}the state mu_product {NUMBER} array([1., 1.])"),
    "no register": ("ASGD", state(eta=None), V, f"{LAST}the state eta {NUMBER} None"),
    "a register without a value": ("ASGD", state(mu=nan), V, f"{LAST}the state mu {NUMBER} nan"),
    "scalars without a value": ("ASGD", group(lambd=1.0, alpha=1e9), V, f"{LAST}the scalars of step 3 have no value"),
    "a setting gone": ("Adam", without("lr"), V, f"{UNSPECIFIED} lr"),
    "a flag gone": ("Adam", without("foreach"), V, f"{UNSPECIFIED} foreach"),
    "members gone": ("Adam", without("params"), T, f"param_groups[1] {LIST}"),
    "a bare array among members": ("Adam", lambda w: w.groups[1]["params"].append(f8(2)), T, STRANGER),
    "a group of nothing": ("Adam", lambda w: w.groups.append(None), T, f"param_groups[2] {LIST} None"),
    "a vector for Muon": ("Muon", to_vector, V, f"{LAST}{MATRIX}"),
}
"""What a user may have altered between two steps, so that the next one is refused."""


@pytest.mark.parametrize(("name", "alter", "error", "message"), ALTERED.values(), ids=ALTERED)
def test_altered(name: str, alter: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World(name, **({"momentum": 0.9} if name == "SGD" else {}))
    alter(world)
    refused([world.optimizer, world.arrays], world.step, error, message)


KEYS = "a state dict must be a dict with the keys 'state' and 'param_groups'"
PARTS = "a state dict must hold a dict 'state' and a list 'param_groups'"
SIZE = "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
NUMBER_OF_GROUPS = "loaded state dict has a different number of parameter groups (1, expected 2)"
NOT_ONE = "loaded state dict is not one of"
NAMES = "param_names of param_groups[1] of a state dict must be 1 names that differ, got"
INTEGER = "state 0, step, must be an integer in [0, inf), got"
ONE_STATE = "a state dict must have one state 0, a dict, got"


@pytest.mark.parametrize("given", [None, [], {}, 3, "state", {"state": {}}, {"param_groups": []}], ids=repr)
def test_load_no_state_dict(given: Any) -> None:
    world = World("Adam")
    refused([world.optimizer, given], lambda: world.optimizer.load_state_dict(given), ValueError, KEYS)


def the_dict(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved.update(values)


def second_group(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved["param_groups"][1].update(values)


def first(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved["state"][0].update(values)


def lacking(key: str) -> Callable[[Any], Any]:
    return lambda saved: saved["state"][0].pop(key)


SAVED: dict[str, Row] = {
    "a number of groups": ("Adam", the_dict(param_groups=2), V, PARTS),
    "a list of states": ("Adam", the_dict(state=[]), V, PARTS),
    "a group less": ("Adam", lambda d: d["param_groups"].pop(), V, NUMBER_OF_GROUPS),
    "no group": (
        "Adam",
        lambda d: d["param_groups"].insert(0, d["param_groups"].pop() and None),
        V,
        "param_groups[0] of a",
    ),
    "a parameter more": ("Adam", second_group(params=[2, 3]), V, f"{SIZE} (group 1: 2 parameters, expected 1)"),
    "no ids": (
        "Adam",
        second_group(params=None),
        V,
        "param_groups[1] of a state dict must be a dict with a list 'params'",
    ),
    "an id twice": (
        "Adam",
        second_group(params=[0]),
        V,
        "param_groups[1] of a state dict must have other ids than 0, which",
    ),
    "an unknown id": (
        "Adam",
        lambda d: d["state"].update({7: {}}),
        V,
        "state 7 of a state dict belongs to no parameter",
    ),
    "a state twice": ("Adam", lambda d: d["state"].update({"0": d["state"][0]}), V, ONE_STATE),
    "a state that is none": ("Adam", lambda d: d["state"].update({0: None}), V, f"{ONE_STATE} None"),
    "a setting less": (
        "Adam",
        lambda d: d["param_groups"][1].pop("eps"),
        V,
        f"{NOT_ONE} this optimizer: param_groups[1] lacks",
    ),
    "a setting of another": (
        "Adam",
        second_group(momentum=0.5),
        V,
        f"{NOT_ONE} this optimizer: param_groups[1] has 'momentum'",
    ),
    "a setting without a name": (
        "Adam",
        lambda d: d["param_groups"][1].update({7: 1}),
        T,
        "param_groups[1] of a state dict must have names, got 7",
    ),
    "a setting of text": (
        "Adam",
        second_group(lr="1"),
        T,
        "lr must be a real number, got '1' (lr must be in [0, inf))",
    ),
    "too many names": ("Adam", second_group(param_names=["a", "b"]), V, f"{NAMES} ['a', 'b']"),
    "numbers for names": ("Adam", second_group(param_names=[3]), V, f"{NAMES} [3]"),
    "no names": ("Adam", second_group(param_names=None), V, f"{NAMES} None"),
    "a state array less": ("Adam", lacking("exp_avg_sq"), V, f"{NOT_ONE} Adam: state 0 lacks 'exp_avg_sq'"),
    "a state array more": ("Adam", first(sum=f4(2, 3)), V, f"{NOT_ONE} Adam: state 0 has 'sum'"),
    "no count": ("Adam", lacking("step"), V, f"{NOT_ONE} Adam: state 0 lacks 'step'"),
    "a count where none is kept": ("Muon", first(step=1), V, f"{NOT_ONE} Muon: state 0 has 'step'"),
    "a negative count": ("Adam", first(step=-1), V, f"{INTEGER} -1"),
    "a fraction": ("Adam", first(step=1.5), V, f"{INTEGER} 1.5"),
    "an infinite count": ("Adam", first(step=inf), V, f"{INTEGER} inf"),
    "a count without a value": ("Adam", first(step=nan), V, f"{INTEGER} nan"),
    "a count of text": ("Adam", first(step="2"), V, f"{INTEGER} '2'"),
    "a count that is none": ("Adam", first(step=None), V, f"{INTEGER} None"),
    "a flag for a count": ("Adam", first(step=True), V, f"{INTEGER} True"),
    "two counts": ("Adam", first(step=np.array([1, 2])), V, f"{INTEGER} array([1, 2])"),
    "a complex count": ("Adam", first(step=np.array(1j)), V, f"{INTEGER} array(0.+1.j)"),
    "another shape": ("Adam", first(exp_avg=f4(3, 2)), V, "state 0, exp_avg, must have shape (2, 3), got (3, 2)"),
    "one element": ("Adam", first(exp_avg=f4(1)), V, "state 0, exp_avg, must have shape (2, 3), got (1,)"),
    "another dtype": ("Adam", first(exp_avg=f8(2, 3)), V, "state 0, exp_avg, must have dtype float32, got float64"),
    "a ragged list": ("Adam", first(exp_avg=[[1.0], [2.0, 3.0]]), V, "state 0, exp_avg, must be an array: setting an"),
    "a list of text": ("Adam", first(exp_avg=["a"]), V, "state 0, exp_avg, must be an array: could not convert"),
    "a list of giants": (
        "Adam",
        first(exp_avg=[[10**400] * 3] * 2),
        V,
        "state 0, exp_avg, must be an array: int too large",
    ),
    "masked state": (
        "Adam",
        first(exp_avg=np.ma.ones((2, 3))),
        V,
        "state 0, exp_avg, must be an array, got MaskedArray",
    ),
    "text for state": ("Adam", first(exp_avg="zero"), V, "state 0, exp_avg, must be an array, got str"),
    "a register of text": ("NAdam", first(mu_product="1"), V, f"state 0, mu_product, {NUMBER} '1'"),
    "a half register": (
        "NAdam",
        first(mu_product=np.float16(0.5)),
        V,
        f"state 0, mu_product, {NUMBER} np.float16(0.5)",
    ),
    "a register without a value": ("NAdam", first(mu_product=nan), V, f"state 0, mu_product, {NUMBER} nan"),
    "a register beyond doubles": ("NAdam", first(mu_product=10**400), V, f"state 0, mu_product, {NUMBER} 1000"),
    "a list of a register": ("NAdam", first(mu_product=[0.5]), V, f"state 0, mu_product, {NUMBER} [0.5]"),
    "no register": ("ASGD", lacking("eta"), V, f"{NOT_ONE} ASGD: state 0 lacks 'eta'"),
}
"""What a saved state may have become since, so that it is refused."""


@pytest.mark.parametrize(("name", "alter", "error", "message"), SAVED.values(), ids=SAVED)
def test_load_state_dict(name: str, alter: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    world = World(name)
    saved = world.optimizer.state_dict()
    alter(saved)
    refused([world.optimizer, world.arrays, saved], lambda: world.optimizer.load_state_dict(saved), error, message)


@pytest.mark.parametrize("saved_names", [["w", "bias"], ["b", "c"]])
def test_load_other_names(saved_names: list[str]) -> None:
    optimizer = refoptim.Adam([("w", f4(3)), ("b", f4(3))])
    optimizer.step(grads=[f4(3), f4(3)])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = saved_names
    message = f"loaded state dict names other parameters: param_groups[0] has {saved_names}, expected ['w', 'b']"
    refused([optimizer, saved], lambda: optimizer.load_state_dict(saved), ValueError, message)


KINDS = ["SGD", *DENSE_ONLY[:-2], "Adagrad", "SparseAdam", "Adafactor", "Muon"]


@pytest.mark.parametrize("mine", KINDS)
def test_load_the_state_of_another_optimizer(mine: str) -> None:
    """All but AdamW's into Adam: that state holds the setting which makes Adam AdamW, so both go on alike."""
    for other in KINDS:
        if mine == other or (mine, other) == ("Adam", "AdamW"):
            continue
        world, saved = World(mine), World(other).optimizer.state_dict()
        before = picture([world.optimizer, world.arrays])
        with pytest.raises(ValueError, match=f"{NOT_ONE}|AdamW decouples its weight decay"):
            world.optimizer.load_state_dict(saved)
        assert picture([world.optimizer, world.arrays]) == before


JUNK = [None, "x", "", -1, 0, 2.5, nan, inf, [], {}, [None], True, (1, 2), 1j, set(), len, "0", 99, b"b"]
JUNK += [f4(3), f4(3, 2), f8(2, 3), np.array(1.0), np.array("a"), np.ma.ones((2, 3)), np.array([None]), np.float16(1)]


def places(x: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything in nested dicts and lists."""
    pairs = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return [path] * bool(path) + [place for key, value in pairs for place in places(value, (*path, key))]


def altered(saved: Any, rng: random.Random) -> None:
    """Put junk in some place, add junk beside it, or take away what is there."""
    *path, key = rng.choice(places(saved))
    for step in path:
        saved = saved[step]
    if rng.random() < 0.7:
        saved[key] = rng.choice(JUNK)
    elif rng.random() < 0.5 and isinstance(saved, dict):
        saved[rng.choice(["other", 7, -1, "7", None, (1,)])] = rng.choice(JUNK)
    else:
        del saved[key]


@pytest.mark.parametrize("name", KINDS)
def test_altered_state_is_refused_or_good_enough_for_a_step(name: str) -> None:
    """Whatever has happened to it; it never leaves the optimizer half loaded, or with a broken state."""
    rng = random.Random(name)
    loaded = 0
    for _ in range(60):
        world, saved = World(name), World(name).optimizer.state_dict()
        altered(saved, rng)
        before = picture([world.optimizer, world.arrays])
        try:
            world.optimizer.load_state_dict(saved)
        except (TypeError, ValueError, RuntimeError):
            assert picture([world.optimizer, world.arrays]) == before
            continue
        loaded += 1
        world.step()
        assert repr(world.optimizer)
    assert 0 < loaded < 30


def pure(name: str = "adam", **given: Any) -> Callable[[], Any]:
    """Call a pure rule, right but for what is given."""
    arguments = {"params": [f4(3)], "grads": [f4(3)], "state": None, "t": 1} | given
    return lambda: getattr(functional, name)(**arguments)


T_RANGE = "t must be an integer in [1, inf), got"
NO_RULE_ARRAY = "must be an array that understands NumPy's functions, got"
LISTED = "must be a list or tuple, got"
ONE_EACH = "must have one entry per parameter: 1, got 0"
ROW = SparseGrad([[0]], f4(1), (3,))

PURE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "step 0": (pure(t=0), V, f"{T_RANGE} 0"),
    "half a step": (pure(t=1.5), V, f"{T_RANGE} 1.5"),
    "a whole float": (pure(t=1.0), V, f"{T_RANGE} 1.0"),
    "a flag for a step": (pure(t=True), V, f"{T_RANGE} True"),
    "no step": (pure(t=None), V, f"{T_RANGE} None"),
    "a step beyond doubles": (pure(t=10**400), V, "params[0]: the scalars of step 1000"),
    "a bare array": (pure(params=f4(3)), T, f"params {LISTED} ndarray"),
    "a generator": (pure(grads=(g for g in [f4(3)])), T, f"grads {LISTED} generator"),
    "a dict of states": (pure(state={}), T, f"state {LISTED} dict"),
    "no gradients": (pure(grads=[]), V, f"grads {ONE_EACH}"),
    "no states": (pure(state=[]), V, f"state {ONE_EACH}"),
    "a state that is none": (pure(state=[None]), T, "state must hold dicts, got ['NoneType']"),
    "a list of numbers": (pure(params=[[1.0]]), T, f"params[0]: a parameter {NO_RULE_ARRAY} list"),
    "a Parameter": (pure(params=[Parameter(f4(3))]), T, f"params[0]: a parameter {NO_RULE_ARRAY} Parameter"),
    "a masked array": (pure(params=[np.ma.ones(3)]), T, f"params[0]: a parameter {NO_RULE_ARRAY} MaskedArray"),
    "a masked gradient": (pure(grads=[np.ma.ones(3)]), T, f"params[0]: the gradient {NO_RULE_ARRAY} MaskedArray"),
    "a list for a gradient": (pure(grads=[[1.0]]), T, f"params[0]: the gradient {NO_RULE_ARRAY} list"),
    "a gradient's shape": (pure(grads=[f4(4)]), V, f"params[0]: {SHAPE} (3,), got (4,)"),
    "a gradient's dtype": (pure(grads=[f8(3)]), T, f"params[0]: {DTYPE} float32, got float64"),
    "integers": (pure(params=[np.ones(3, "i8")], grads=[np.ones(3, "i8")]), T, f"params[0]: dtype int64 {SUPPORTED}"),
    "a state's shape": (
        pure(state=[{"exp_avg": f4(1)}]),
        V,
        "params[0]: the state exp_avg must have shape (3,), got (1,)",
    ),
    "a state's dtype": (pure(state=[{"exp_avg": f8(3)}]), T, "the state exp_avg must have dtype float32, got float64"),
    "a number for a state": (pure(state=[{"exp_avg": 0.0}]), T, f"params[0]: the state exp_avg {NO_RULE_ARRAY} float"),
    "an unknown state": (
        pure(state=[{"m": f4(3)}]),
        V,
        "the state has 'm', it must be one of ['exp_avg', 'exp_avg_sq', 'step']",
    ),
    "a register of text": (
        pure("nadam", state=[{"mu_product": "1"}]),
        V,
        f"params[0]: the state mu_product {NUMBER} '1'",
    ),
    "an unknown setting": (pure(rate=1), T, "unexpected keyword argument 'rate'"),
    "another rounding": (pure(rounding="up"), V, "rounding must be 'each' or 'store', got 'up'"),
    "sparse for Adam": (pure(grads=[ROW]), R, "params[0]: Adam does not support sparse gradients"),
    "sparse and decay": (
        pure("sgd", grads=[ROW], weight_decay=0.1),
        R,
        "params[0]: weight_decay option is not compatible",
    ),
    "dense for SparseAdam": (pure("sparse_adam"), R, f"params[0]: {SPARSE_ONLY}"),
    "a vector for Muon": (
        pure("muon"),
        V,
        "params[0]: Muon only supports 2D parameters whereas we found a parameter with size",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), PURE.values(), ids=PURE)
def test_pure_rule(act: Callable[[], Any], error: type[Exception], message: str) -> None:
    refused([ROW], act, error, message)


def lend(optimizer: Any = None, parameters: Any = None, alter: Callable[[Any], Any] = id) -> Callable[[World], Any]:
    """Enter the swap, with what is right in place of what is not given."""

    def act(world: World) -> None:
        saved = World("Adam").optimizer.state_dict()
        saved = alter(saved) or saved if alter is not id else saved
        own = {str(i): x.copy() for i, x in enumerate(world.arrays)}
        with refoptim.swap_in_optimizer_params_and_state(optimizer or world.optimizer, parameters or own, saved):
            world.step()

    return act


BOTH = "swapin_optim_state must be a dict with the keys 'state' and 'param_groups'"
THREE = {"a": f4(2, 3), "b": f4(4, 1), "c": f8(3, 2)}

SWAPS: dict[str, tuple[Callable[[World], Any], type[Exception], str]] = {
    "no optimizer": (lend(optimizer="Adam"), T, "str is not an Optimizer"),
    "an optimizer without state": (lend(optimizer=refoptim.Adam([f4(2)])), R, "the optimizer must have state"),
    "a list of parameters": (
        lend(parameters=[f4(2)]),
        T,
        "swapin_parameters must be a dict of parameters by name, got list",
    ),
    "too few parameters": (lend(parameters={"a": f4(2, 3)}), R, "swapin_parameters must hold 3 parameters, got 1"),
    "another shape": (
        lend(parameters=THREE | {"c": f8(2, 3)}),
        R,
        "must have the optimizer's shapes: (3, 2), got (2, 3)",
    ),
    "another dtype": (lend(parameters=THREE | {"c": f4(3, 2)}), T, f"{LAST}{DTYPE} float32, got float64"),
    "a list for an array": (lend(parameters=THREE | {"c": [1.0]}), T, f"{ONE_OF} list"),
    "one memory": (
        lend(parameters=THREE | {"b": THREE["a"].reshape(-1)[:4]}),
        R,
        "swapin_parameters must not share memory",
    ),
    "no state dict": (lend(alter=lambda d: [1]), R, BOTH),
    "no groups": (lend(alter=lambda d: {"state": {}}), R, BOTH),
    "a group less": (
        lend(alter=the_dict(param_groups=[])),
        R,
        "swapin_optim_state must have 2 parameter groups, got []",
    ),
    "a setting less": (lend(alter=lambda d: d["param_groups"][1].pop("lr") and None), R, "settings: ['lr']"),
    "a parameter more": (lend(alter=second_group(params=[1, 2])), R, "must have 1 parameters, got 2"),
    "no ids": (
        lend(alter=second_group(params=None)),
        R,
        "param_groups[1] of swapin_optim_state must be a dict with ids",
    ),
    "a state that is none": (
        lend(alter=the_dict(state={0: None})),
        R,
        "the state of swapin_optim_state must hold a dict per",
    ),
    "a wrong setting": (lend(alter=second_group(lr=nan)), V, "Invalid learning rate: nan (lr must be in [0, inf))"),
    "another state": (
        lend(alter=lambda d: d["state"][2].update(exp_avg=f8(1))),
        V,
        f"{LAST}the state exp_avg {FIT} (1,) and",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), SWAPS.values(), ids=SWAPS)
def test_swap(act: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World("Adam")
    refused([world.optimizer, world.arrays, THREE], lambda: act(world), error, message)


def test_the_tables_hold_at_least_a_hundred_refusals() -> None:
    tables = [HYPERPARAMETERS, MEMBERS, ADDED, OTHERS, GRADIENTS, CALLS, ALTERED, SAVED, PURE, SWAPS]
    assert sum(map(len, tables)) >= 100
