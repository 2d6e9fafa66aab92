"""Everything that can be wrong with params, groups, and arguments of constructors and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import refoptim
from helpers.refusals import ONE_OF, SUPPORTED, R, Refused, T, V, f4, f8, refused, trained
from refoptim import Parameter, SparseGrad

PARAMS = "params argument given to the optimizer should be an iterable of arrays or dicts, but got"
UNORDERED = "optimizer parameters need to be organized in ordered collections"
NAMED = "all optimizer params should be with/without names. Some param names are missing"

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
