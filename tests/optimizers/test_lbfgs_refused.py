"""L-BFGS: arguments, parameters and states that are refused, and its defaults."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from helpers.lbfgs import Run, start
from refoptim import Parameter
from refoptim.optimizers.lbfgs import LBFGS

BAD_SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -0.1}, ValueError, r"Invalid learning rate: -0.1 \(lr must be in \[0, inf\)\)"),
    ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    ({"lr": np.ones(2)}, ValueError, "Tensor lr must be 1-element"),
    ({"lr": "1"}, TypeError, "lr must be a real number, got '1'"),
    ({"max_iter": 0}, ValueError, r"Invalid max_iter value: 0 \(max_iter must be in \[1, inf\)\)"),
    ({"max_iter": 2.0}, TypeError, "max_iter must be an integer, got 2.0"),
    ({"max_iter": True}, TypeError, "max_iter must be an integer, got True"),
    ({"max_iter": None}, TypeError, "max_iter must be an integer, got None"),
    ({"max_eval": 0}, ValueError, r"Invalid max_eval value: 0 \(max_eval must be in \[1, inf\) or None\)"),
    ({"max_eval": 2.5}, TypeError, "max_eval must be an integer, got 2.5"),
    (
        {"tolerance_grad": -1e-9},
        ValueError,
        r"Invalid tolerance_grad value: -1e-09 \(tolerance_grad must be in \[0, inf\)",
    ),
    ({"tolerance_grad": math.nan}, ValueError, "Invalid tolerance_grad value: nan"),
    ({"tolerance_change": -1e-9}, ValueError, "Invalid tolerance_change value: -1e-09"),
    ({"tolerance_change": math.inf}, ValueError, "Invalid tolerance_change value: inf"),
    ({"history_size": 0}, ValueError, r"Invalid history_size value: 0 \(history_size must be in \[1, inf\)\)"),
    ({"history_size": 1.0}, TypeError, "history_size must be an integer, got 1.0"),
    (
        {"line_search_fn": "armijo"},
        ValueError,
        "only 'strong_wolfe' is supported, got 'armijo' .line_search_fn must be",
    ),
    ({"line_search_fn": 1}, ValueError, "only 'strong_wolfe' is supported, got 1"),
    ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
]


@pytest.mark.parametrize(("setting", "error", "message"), BAD_SETTINGS)
def test_bad_settings(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LBFGS([start(2)], **setting)
    run = Run([start(2)], max_iter=2)
    before = run.everything()
    with pytest.raises(error, match=message):
        LBFGS([{"params": run.params, **setting}])
    run.optimizer.param_groups[0].update(setting)
    with pytest.raises(error, match=message):
        run.step()
    assert run.calls == 0
    run.optimizer.param_groups[0].update(LBFGS([start(2)], max_iter=2).defaults)
    assert run.everything() == before


BAD_STEPS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, r"LBFGS.step\(\) missing 1 required positional argument: 'closure'"),
    ((None,), {}, "missing 1 required positional argument: 'closure'"),
    ((1.5,), {}, "closure must be a function that returns the loss, got 1.5"),
    ((), {"grads": [np.ones(2)]}, "LBFGS takes no grads: a step evaluates its closure more than once"),
    ((lambda: 0.0,), {"grads": [np.ones(2)]}, "step takes a closure or grads, not both"),
]


@pytest.mark.parametrize(("args", "kwargs", "message"), BAD_STEPS)
def test_bad_steps(args: Any, kwargs: Any, message: str) -> None:
    run = Run([start(2)], max_iter=2)
    run.step()
    before = run.everything()
    with pytest.raises(TypeError, match=message):
        run.optimizer.step(*args, **kwargs)
    assert run.everything() == before


BAD_PARAMETERS: dict[str, tuple[Any, type[Exception], str]] = {
    "two groups": (
        [{"params": [start(2)]}, {"params": [start(3)]}],
        ValueError,
        r"LBFGS doesn't support per-parameter options \(parameter groups\)",
    ),
    "none": ([{"params": []}], ValueError, "LBFGS needs at least one parameter, got none"),
    "16 bits": (
        [start(2), start(2, "float16")],
        TypeError,
        "LBFGS does not support 16-bit parameters.*parameter 1 of group 0 must have dtype float32, .* got float16",
    ),
    "two dtypes": (
        [start(2), start(2, "float32")],
        TypeError,
        "all parameters of LBFGS must have one real dtype, got float32, float64",
    ),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters(name: str) -> None:
    params, error, message = BAD_PARAMETERS[name]
    with pytest.raises(error, match=message):
        LBFGS(params)


def test_float32_and_complex64_have_one_real_dtype() -> None:
    LBFGS([start(2, "float32"), start(2).astype("complex64")])


def test_a_second_group_is_refused_at_once() -> None:
    run = Run([start(2)])
    before = run.everything()
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        run.optimizer.add_param_group({"params": [start(3)]})
    assert run.everything() == before


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (start(5), ValueError, "the state of LBFGS must fit 5 elements of float64, got 3 elements of float64"),
        (start(3, "float32"), ValueError, "must fit 3 elements of float32, got 3 elements of float64"),
        (start(3, "float16"), TypeError, "LBFGS does not support 16-bit parameters"),
    ],
)
def test_parameters_that_changed_between_steps(data: Any, error: type[Exception], message: str) -> None:
    run = Run([start(3)], max_iter=2)
    run.step()
    before, array = run.everything(), run.params[0].data
    run.params[0].data = data
    with pytest.raises(error, match=message):
        run.step()
    run.params[0].data = array
    assert run.everything() == before


def test_a_read_only_parameter_is_refused_before_anything_moves() -> None:
    run = Run([start(3), start(2)], max_iter=2)
    before = run.everything()
    run.params[1].data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        run.step()
    assert run.calls == 0
    assert run.everything() == before


def test_defaults_are_those_of_torch(torch: Any) -> None:
    for given_settings in ({}, {"max_iter": 7}, {"max_eval": 11}):
        theirs = torch.optim.LBFGS([torch.zeros(2)], **given_settings)
        ours = LBFGS([start(2)], **given_settings)
        assert ours.defaults == theirs.defaults | {"maximize": False, "fused": None}
        group = ours.state_dict()["param_groups"][0]
        assert group == theirs.state_dict()["param_groups"][0] | {"maximize": False, "fused": None}


def test_max_eval_none_in_a_group_stands_for_five_quarters_of_max_iter() -> None:
    x = start(6)
    p = Parameter(x)
    optimizer = LBFGS([{"params": [p], "max_eval": None, "max_iter": 5}], lr=0.01, tolerance_change=0)

    def closure() -> float:
        p.grad = rosen_der(x)
        return float(rosen(x))

    optimizer.step(closure)
    assert optimizer.state[p]["func_evals"] == 5
    optimizer.param_groups[0].update(line_search_fn="strong_wolfe", max_iter=2)
    optimizer.step(closure)
    assert optimizer.state[p]["func_evals"] <= 5 + 2 + 1
