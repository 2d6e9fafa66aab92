"""Parameters without axes: NumPy's arithmetic makes scalars of such arrays, and these count as the arrays they were.

The witness is the same run with gradients that were made arrays again by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.pictures import picture
from helpers.refusals import refused
from helpers.rooms import DENSE, MEASURED, assert_equal_bits, assert_equal_runs, make
from refoptim import Parameter, clip_grad, functional
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

DTYPES = ["float16", "float32", "float64", "complex64"]
RULES = [name for name in DENSE if name != "Muon"]


def single(dtype: str) -> Any:
    return np.array(1.5, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize("name", RULES)
def test_steps(name: str, fused: bool | None, dtype: str) -> None:
    if name in MEASURED and dtype == "complex64":
        pytest.skip(f"{name} takes no complex parameters")
    x, y = single(dtype), single(dtype)
    one, other = make(name, [x], fused=fused), make(name, [y], fused=fused)
    p = one.param_groups[0]["params"][0]
    for k in range(4):
        grad = 2 * x
        assert isinstance(grad, np.generic)
        if k % 2:
            p.grad = grad
            one.step()
        else:
            one.step(grads=[grad])
        other.step(grads=[np.array(2 * y)])
        assert_equal_runs(one, other, k)


@pytest.mark.parametrize("name", ["sgd", "adam", "rprop", "adafactor"])
def test_pure_steps(name: str) -> None:
    """Parameters, gradients and state may all be scalars."""
    pure = getattr(functional, name)
    x, state = [single("float32")], None
    y, other = [single("float32")], None
    for t in range(1, 4):
        x, state = pure([x[0][()]], [2 * x[0]], state and [{key: v[()] for key, v in state[0].items()}], t)
        y, other = pure(y, [np.array(2 * y[0])], other, t)
        assert picture_of([x, state]) == picture_of([y, other])


def picture_of(x: Any) -> Any:
    """Return the bytes of what a pure step returned, whatever it is kept in."""
    (array,), (state,) = x
    return [array.tobytes(), {key: (np.asarray(v).dtype, np.asarray(v).tobytes()) for key, v in state.items()}]


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_closures(name: str) -> None:
    results = []
    for again in (lambda x: x, np.array):
        p = Parameter(single("float64"))
        optimizer = getattr(refoptim, name)([p], lr=0.1)

        def closure(p: Any = p, again: Any = again) -> Any:
            p.grad = again(4 * p.data)
            return 2 * p.data * p.data

        for _ in range(3):
            optimizer.step(closure)
        results.append(p.data.tobytes())
    assert results[0] == results[1]
    assert results[0] != single("float64").tobytes()


def test_norms() -> None:
    """Of 3 and 4: 5; clipped to 1, times 1 / (5 + 1e-6) in float32."""
    ps = [Parameter(single("float32"), grad=np.float32(x)) for x in (3, 4)]
    assert clip_grad.get_total_norm([np.float32(3), np.float32(4)]) == 5
    assert clip_grad.clip_grad_norm_(ps, 1.0) == 5
    share = np.float32(1) / (np.float32(5) + np.float32(1e-6)) * np.float32(1)
    assert [p.grad.item() for p in ps] == [np.float32(3) * share, np.float32(4) * share]


def test_a_parameter_that_is_assigned_anew() -> None:
    p = Parameter(single("float64"))
    p.data = p.data - 0.5
    p.grad = p.data * 2
    refoptim.SGD([p], lr=0.25).step()
    assert p.data.shape == ()
    assert p.data == 0.5
    optimizer = refoptim.SGD([p], lr=0.25)
    optimizer.zero_grad(set_to_none=False)
    assert_equal_bits(p.grad, np.array(0.0))


REFUSED = {
    "another dtype": (np.float64(1), TypeError, "the gradient must have dtype float32, got float64"),
    "an integer": (np.int64(1), TypeError, "the gradient must have dtype float32, got int64"),
    "text": (np.str_("1"), TypeError, "the gradient must have dtype float32, got <U1"),
    "Python's number": (1.0, TypeError, "the gradient must be an array, got float"),
}


@pytest.mark.parametrize(("grad", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(grad: Any, error: type[Exception], message: str) -> None:
    x = single("float32")
    optimizer = refoptim.Adam([x])
    refused([optimizer, x], lambda: optimizer.step(grads=[grad]), error, message)


AVERAGES: dict[str, dict[str, Any]] = {
    "SWA": {},
    "a function": {"avg_fn": lambda averaged, current, n: averaged + (current - averaged) / (n + 1)},
    "EMA": {"avg_fn": get_ema_avg_fn(0.5)},
    "multi EMA": {"multi_avg_fn": get_ema_multi_avg_fn(0.5)},
}


@pytest.mark.parametrize("more", AVERAGES.values(), ids=AVERAGES)
def test_averages(more: dict[str, Any]) -> None:
    """A buffer that is counted up, and a weight, both assigned anew: (1.5 + 2.5) / 2 = 2, (1 + 2) / 2 = 1.5."""
    model = {"w": single("float32"), "count": np.array(1.0)}
    average = AveragedModel(model, **more)
    average.update_parameters(model)
    average.update_parameters({name: x + 1 for name, x in model.items()})
    assert (average.module["w"], average.module["count"]) == (2, 1.5)
    assert average.module["w"].dtype == np.float32


def test_averages_are_written_into_arrays() -> None:
    """A scalar holds no average; nor does one that a model has put in the place of an array of the average."""
    with pytest.raises(TypeError, match="w must be an array, for its average to be written into, got a NumPy scalar"):
        AveragedModel({"w": np.float32(1)})
    average = AveragedModel({"w": single("float32"), "c": single("float32")})
    average.module["c"] = average.module["c"] + 1
    model, saved = {"w": single("float32"), "c": single("float32")}, average.state_dict()
    before = picture(average.module)
    with pytest.raises(TypeError, match="c must be an array"):
        average.update_parameters(model)
    with pytest.raises(RuntimeError, match="c must be an array"):
        average.load_state_dict(saved)
    assert picture(average.module) == before
