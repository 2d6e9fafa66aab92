"""Trees of arrays: which arrays have which paths, and what is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse

import refoptim
from helpers.refusals import ONE_OF, f4, refused
from refoptim import Parameter, named_arrays
from refoptim.swa_utils import AveragedModel

HINT = "make a list of it with refoptim.named_arrays"


class Layer:
    """A model with parameters and a buffer, without names."""

    def __init__(self) -> None:
        self.w, self.b, self.mean = f4(2, 3), f4(3), f4(3)

    def parameters(self) -> Any:
        return iter([self.w, self.b])

    def buffers(self) -> Any:
        return iter([self.mean])


class Pair(NamedTuple):
    x: Any
    y: Any


def paths(model: Any) -> list[str]:
    return [path for path, _ in named_arrays(model)]


def test_paths_are_in_the_order_of_the_tree() -> None:
    model = {"encoder": [{"weight": f4(2), "bias": f4(1)}, {"weight": f4(3)}], "decoder": (f4(1), f4(1)), 7: f4(1)}
    expected = ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "decoder.0", "decoder.1", "7"]
    assert paths(model) == expected
    assert paths(OrderedDict(reversed(model.items())))[0] == "7"
    assert paths(UserDict(model)) == expected
    assert paths([f4(1), [f4(1)], Pair(f4(1), f4(1))]) == ["0", "1.0", "2.0", "2.1"]
    assert named_arrays({}) == named_arrays([[], ()]) == []


def test_what_a_tree_holds_is_what_is_named() -> None:
    """Parameters, and arrays of other libraries, come out as they are."""
    w, p = f4(2), Parameter(f4(3), name="other")
    (_, first), (_, second) = named_arrays({"w": w, "p": p})
    assert first is w
    assert second is p


def test_objects_with_parameters() -> None:
    """Buffers are left out; names that a model gives are continued."""
    layer = Layer()
    assert paths(layer) == ["0", "1"]
    assert paths({"a": layer, "b": [Layer()]}) == ["a.0", "a.1", "b.0.0", "b.0.1"]
    named = SimpleNamespace(parameters=list, named_parameters=lambda: [("block.w", layer.w), ("b", layer.b)])
    assert paths([named]) == ["0.block.w", "0.b"]


def test_integers_and_none_are_left_out() -> None:
    left_out = [None, 3, True, np.int64(3), np.arange(3), np.ones(2, bool), np.zeros(2, np.uint8), np.ones(2, ">i4")]
    assert paths({"x": left_out, "w": f4(2), "float0": np.zeros(3, [("float0", np.void, 0)])}) == ["w"]
    assert paths([np.ones(1, dtype) for dtype in ("float16", "float64", "complex64")]) == ["0", "1", "2"]


def test_bfloat16_is_no_integer() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    assert paths([np.ones(1, ml_dtypes.bfloat16), np.ones(1, ml_dtypes.int4)]) == ["0"]


def test_what_is_shared_comes_once_under_its_first_path() -> None:
    w, b = f4(2, 2), f4(2)
    assert paths({"in": {"w": w, "b": b}, "out": {"w": w, "b": f4(2)}}) == ["in.w", "in.b", "out.b"]
    assert paths([Parameter(w), w, Parameter(w)]) == ["0"]


def test_the_names_are_those_of_an_average() -> None:
    """The witness is ``swa_utils``, which walked trees before."""
    model = {"a": [f4(2), {"b": f4(3)}], "layer": Layer(), "n": np.arange(2)}
    averaged = AveragedModel(model).state_dict()
    floats = {key for key in averaged if key.startswith("module.")} - {"module.n", "module.layer.buffers.0"}
    assert {f"module.{path}" for path in paths(model)} == floats


def test_a_module_of_torch(torch: Any) -> None:
    model = {"net": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)), "n": torch.arange(3)}
    expected = [f"net.{name}" for name, _ in model["net"].named_parameters()]
    assert paths(model) == expected == ["net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"]
    assert named_arrays(model)[0][1] is model["net"][0].weight


LOOP: dict[str, Any] = {"a": {"w": f4(1)}}
LOOP["a"]["again"] = [LOOP["a"]]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (f4(2), TypeError, r"model must be an object with parameters\(\), or a dict, list or tuple .* got ndarray"),
        (3, TypeError, "got int"),
        ("w", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (scipy.sparse.dok_array((2, 2)), TypeError, "got dok_array"),
        ({"a": [f4(1), {"activation": "relu"}]}, TypeError, "a.1.activation of the model must be an array, got str"),
        ({"a": {"rate": 0.5}}, TypeError, "a.rate of the model must be an array, got float"),
        ({"a": [np.float32(2)]}, TypeError, "a.0 of the model must be an array, got the number 2.0"),
        ({"a": {f4: f4}}, TypeError, "must be an array, got function"),
        ({"a": {"b": f4(1)}, "a.b": f4(1)}, ValueError, "the paths of arrays must differ, but 'a.b' stands for two"),
        ({1: f4(1), "1": f4(1)}, ValueError, "but '1' stands for two"),
        (LOOP, ValueError, "a.again.0 of the tree contains itself"),
    ],
)
def test_what_is_no_tree_is_refused_by_its_path(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        named_arrays(model)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.array(["a"]), TypeError, "a.w: dtype <U1 is not supported"),
        (np.ones(2, object), TypeError, "a.w: dtype object is not supported"),
        (np.broadcast_to(f4(1), (3,)), ValueError, "a.w: optimizer can only optimize writable arrays"),
        (np.ma.ones(2), TypeError, "a.w: a masked array cannot be optimized"),
        (scipy.sparse.eye(3), TypeError, f"a.w: {ONE_OF} dia_"),
    ],
)
def test_an_array_that_cannot_be_optimized_is_refused_by_its_path(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        refoptim.Adam(named_arrays({"a": {"w": x}}))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda w: {"w": w}, TypeError, f"should be an iterable of arrays or dicts, but got dict: {HINT}"),
        (lambda w: {"params": [w]}, TypeError, "arrays or dicts, but got dict: groups come in a list"),
        (lambda w: SimpleNamespace(parameters=lambda: [w]), TypeError, f"but got SimpleNamespace: {HINT}"),
        (lambda w: [[w, w.copy()]], TypeError, f"{ONE_OF} list: {HINT}"),
        (lambda w: [w.copy(), [w]], TypeError, f"{ONE_OF} list: {HINT}"),
        (lambda w: [w.copy(), {"w": w}], TypeError, f"{ONE_OF} dict: {HINT}"),
        (lambda w: [("w", [w])], TypeError, f"w: {ONE_OF} list: {HINT}"),
        (lambda w: [Layer()], TypeError, f"{ONE_OF} Layer: {HINT}"),
        (lambda w: [{"w": w, "b": w.copy()}], ValueError, f"must have the key 'params', got ['w', 'b']: {HINT}"),
        (lambda w: [{"params": {"w": w}}], TypeError, f"must be arrays in a list, got dict: {HINT}"),
        (lambda w: [{"params": [[w]]}], TypeError, f"{ONE_OF} list: {HINT}"),
        (lambda w: [(w, w.copy()), (w[1:], w[:1])], TypeError, HINT),
    ],
)
def test_an_optimizer_that_is_given_a_tree_says_what_to_do(params: Any, error: type[Exception], message: str) -> None:
    w = f4(2, 3)
    refused([w], lambda: refoptim.Adam(params(w)), error, message)
