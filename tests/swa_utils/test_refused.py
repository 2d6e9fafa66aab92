"""Averages: what is refused, and that nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.averages import FORMS, two
from helpers.oracle import assert_same_bits
from refoptim import swa_utils
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_avg_fn, get_swa_multi_avg_fn


def test_only_one_function_is_taken() -> None:
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
        AveragedModel([np.ones(2)], avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"avg_fn": 0.9}, TypeError, "avg_fn must be callable, got 0.9"),
        ({"multi_avg_fn": "ema"}, TypeError, "multi_avg_fn must be callable, got 'ema'"),
        ({"avg_fn": get_ema_multi_avg_fn(0.9)}, TypeError, r"avg_fn must not be LerpEMA\(decay=0.9\)"),
        ({"multi_avg_fn": get_swa_avg_fn()}, TypeError, r"multi_avg_fn must not be SWA\(\), which is one for avg_fn"),
        ({"use_buffers": 1}, TypeError, "use_buffers must be True or False, got 1"),
        ({"device": "cuda"}, ValueError, "device must be None or that of 0, got 'cuda'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AveragedModel([np.ones(2)], **settings)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (np.ones(3), TypeError, r"model must be an object with parameters\(\), or a dict, list or tuple"),
        (None, TypeError, "got NoneType"),
        ({"w": 1.5}, TypeError, "w must be an array"),
        ({"a": {"w": [np.ones(2), None]}}, TypeError, "a.w.1 must be an array"),
        ({"w": np.array(["a"])}, TypeError, "w must hold numbers, got dtype <U1"),
        ({"w": np.ones(2, ">f4")}, TypeError, "w cannot be averaged: dtype >f4 is not supported"),
        ({"w": np.ma.ones(2)}, TypeError, "w must be an array: a masked array"),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, ValueError, "names of parameters and buffers must differ"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AveragedModel(model)


@pytest.mark.parametrize("make", [get_ema_avg_fn, get_ema_multi_avg_fn])
def test_a_decay_outside_its_interval_is_refused(make: Callable[..., Any]) -> None:
    assert (make(0).h.decay, make(1).h.decay) == (0, 1)
    for decay in (-0.001, 1.001, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=rf"Invalid decay value {decay} provided\. Please provide a value in \[0,1\]"
        ):
            make(decay)
    for decay in ("0.9", None, True, 0.5j):
        with pytest.raises(TypeError, match="decay must be a real number"):
            make(decay)


CHANGED: dict[str, tuple[Any, type[Exception], str]] = {
    "a shape": (
        {**two(3.0), "v": np.ones(5, np.float32)},
        ValueError,
        r"v must have the shape of the average of v, \(4,\)",
    ),
    "a dtype": (
        {**two(3.0), "v": np.ones(4)},
        TypeError,
        "v must have the dtype of the average of v, float32, got float64",
    ),
    "one more": ({**two(3.0), "u": np.ones(4)}, ValueError, r"it lacks \[\] and has \['u'\] besides"),
    "one less": ({"w": two(3.0)["w"], "n": two(3.0)["n"]}, ValueError, r"it lacks \['v'\]"),
    "a kind": (list(two(3.0).values()), ValueError, r"it lacks \['w', 'v', 'n'\] and has \['0', '1', '2'\] besides"),
    "no model": (7, TypeError, "model must be an object"),
}


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("case", CHANGED)
def test_a_model_that_has_changed_is_refused_and_nothing_changes(case: str, updates: int) -> None:
    model, error, message = CHANGED[case]
    average = AveragedModel(two(2.0))
    for _ in range(updates):
        average.update_parameters(two(2.0))
    with pytest.raises(error, match=message):
        average.update_parameters(model)
    assert average.n_averaged == updates
    assert {name: x.tolist() for name, x in average.module.items()} == {
        name: x.tolist() for name, x in two(2.0).items()
    }


@pytest.mark.parametrize("form", ["default", "swa multi"])
def test_a_read_only_average_is_refused_and_nothing_changes(form: str) -> None:
    average = AveragedModel(two(2.0), **FORMS[form](swa_utils))
    average.update_parameters(two(2.0))
    average.module["n"].flags.writeable = False
    with pytest.raises(ValueError, match="the average of n must be writable, but it is read-only"):
        average.update_parameters(two(3.0))
    with pytest.raises(RuntimeError, match=r"module.n must be writable, but it is read-only"):
        average.load_state_dict(AveragedModel(two(9.0)).state_dict())
    assert average.n_averaged == 1
    assert average.module["w"].tolist() == two(2.0)["w"].tolist()


def test_read_only_weights_can_be_averaged() -> None:
    w = np.full(2, 4.0)
    w.flags.writeable = False
    average = AveragedModel([w])
    for _ in range(2):
        average.update_parameters([w])
    assert average.module[0].tolist() == [4.0, 4.0]


MULTI_REFUSALS: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "lengths": ([np.ones(2)], [], 1, ValueError, "averaged and current must be equally long, got 1 and 0"),
    "a shape": ([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)], 1, ValueError, r"current\[1\] must have the shape"),
    "a dtype": ([np.ones(2)], [np.ones(2, "f4")], 1, TypeError, r"current\[0\] must have the dtype of averaged\[0\]"),
    "a negative": ([np.ones(2)], [np.ones(2)], -1, ValueError, "Invalid num_averaged value: -1"),
    "a fraction": ([np.ones(2)], [np.ones(2)], 1.5, TypeError, "num_averaged must be an integer, got 1.5"),
    "a flag": ([np.ones(2)], [np.ones(2)], True, TypeError, "num_averaged must be an integer, got True"),
    "integers": ([np.ones(2, int)], [np.ones(2, int)], 1, TypeError, "dtype int64 is not supported"),
    "a number": ([1.0], [np.ones(())], 1, TypeError, r"averaged\[0\] must be an array"),
}


@pytest.mark.parametrize("case", MULTI_REFUSALS)
def test_wrong_arguments_of_a_function_are_refused(case: str) -> None:
    averaged, current, n, error, message = MULTI_REFUSALS[case]
    with pytest.raises(error, match=message):
        get_swa_multi_avg_fn()(averaged, current, n)
    if len(averaged) == len(current) == 1:
        with pytest.raises(error, match=message.replace(r"\[0\]", "")):
            get_swa_avg_fn()(averaged[0], current[0], n)
    assert all(np.all(np.equal(x, 1)) for x in averaged)


def test_a_read_only_array_cannot_be_averaged_in_place() -> None:
    first, second = np.ones(2), np.ones(2)
    second.flags.writeable = False
    with pytest.raises(ValueError, match=r"averaged\[1\] must be writable"):
        get_swa_multi_avg_fn()([first, second], [np.zeros(2), np.zeros(2)], 1)
    assert first.tolist() == [1.0, 1.0]


def test_weights_in_the_memory_of_averages_are_read_before_they_are_overwritten() -> None:
    memory = np.arange(50_000, dtype=np.float64)
    expected = get_swa_avg_fn()(memory[1:].copy(), memory[:-1].copy(), 1)
    get_swa_multi_avg_fn()([memory[1:]], [memory[:-1]], 1)
    assert_same_bits(memory[1:], expected, "overlapping")
