"""The optimizers as methods of scipy.optimize.minimize."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import DENSE, SETTINGS, assert_equal_bits

optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")

from refoptim.interop.scipy import method  # noqa: E402

X0 = np.array([-1.2, 1.0])
SEARCHING = [("LBFGS", {"line_search_fn": "strong_wolfe"}), ("LBFGS", {}), ("ConjugateGradient", {})]
FIRST_ORDER = [name for name in DENSE if name != "Muon"]


def minimize(name: str, settings: dict[str, Any], x0: Any = X0, fun: Any = optimize.rosen, **given: Any) -> Any:
    if fun is optimize.rosen:
        given = {"jac": optimize.rosen_der, **given}
    return optimize.minimize(fun, x0, method=method(getattr(refoptim, name), **settings), **given)


def bowl(x: Any) -> float:
    return float(np.sum((x - 3) ** 2))


def slope(x: Any) -> Any:
    return 2 * (x - 3)


@pytest.mark.parametrize(("name", "settings"), SEARCHING)
@pytest.mark.parametrize("n", [2, 5])
def test_searches_find_the_minimum(name: str, settings: dict[str, Any], n: int) -> None:
    result = minimize(name, settings, np.resize(X0, n))
    assert result.success
    assert result.status == 0
    assert result.message == "No element of the gradient is larger than gtol."
    assert np.abs(optimize.rosen_der(result.x)).max() <= 1e-5
    assert_equal_bits(result.jac, optimize.rosen_der(result.x))
    assert result.fun == optimize.rosen(result.x)
    assert np.allclose(result.x, 1, atol=1e-4)


def test_adam_goes_down_the_valley() -> None:
    result = minimize("Adam", {"lr": 0.01})
    assert result.success
    assert np.allclose(result.x, 1, atol=1e-3)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_iterations_are_steps_of_the_optimizer(name: str) -> None:
    """The points are those that the optimizer goes through with the same gradients."""
    options = {"maxiter": 20, "return_all": True, "gtol": 0}
    result = minimize(name, SETTINGS[name], X0, bowl, jac=slope, options=options)
    x = X0.copy()
    optimizer = getattr(refoptim, name)([x], **SETTINGS[name])
    points = [x.copy()]
    for _ in range(20):
        optimizer.step(grads=[slope(x)])
        points.append(x.copy())
    assert_equal_bits(np.stack(result.allvecs), np.stack(points))
    assert (result.nit, result.status, result.success) == (20, 1, False)
    assert result.message == "The number of iterations has reached maxiter."
    assert_equal_bits(result.x, x)


@pytest.mark.parametrize(("name", "settings"), SEARCHING)
def test_moves_are_those_of_one_long_step(name: str, settings: dict[str, Any]) -> None:
    p = refoptim.Parameter(X0.copy())
    calls = []

    def closure() -> float:
        calls.append(p.data.copy())
        p.grad = optimize.rosen_der(p.data)
        return float(optimize.rosen(p.data))

    long = dict(max_iter=12, max_eval=10_000, tolerance_grad=0, tolerance_change=0)
    getattr(refoptim, name)([p], **settings, **long).step(closure)
    result = minimize(name, settings, options={"maxiter": 12})
    assert_equal_bits(result.x, p.data)
    assert result.nit == 12
    assert result.nfev == result.njev == len({x.tobytes() for x in [*calls, p.data]})


def test_every_evaluation_is_counted_and_none_made_twice() -> None:
    seen: list[bytes] = []
    slopes: list[bytes] = []

    def fun(x: Any, factor: float) -> float:
        seen.append(x.tobytes())
        return factor * bowl(x)

    def jac(x: Any, factor: float) -> Any:
        slopes.append(x.tobytes())
        return factor * slope(x)

    result = minimize("LBFGS", {"line_search_fn": "strong_wolfe"}, [1, 7, -2], fun, jac=jac, args=(2.0,))
    assert np.allclose(result.x, 3)
    assert (result.nfev, result.njev) == (len(seen), len(slopes)) == (len(set(seen)), len(set(slopes)))


def test_a_function_may_return_its_gradient_too() -> None:
    calls = []

    def both(x: Any) -> tuple[float, Any]:
        calls.append(x.copy())
        return bowl(x), slope(x)

    result = minimize("ConjugateGradient", {}, [1.0, 7.0], both, jac=True)
    assert np.allclose(result.x, 3)
    assert result.nfev == result.njev == len(calls)


@pytest.mark.parametrize(("name", "settings"), [*SEARCHING, ("Adam", {"lr": 0.1})])
def test_without_a_gradient_there_are_finite_differences(name: str, settings: dict[str, Any]) -> None:
    calls = []

    def fun(x: Any) -> float:
        calls.append(x.copy())
        return bowl(x)

    result = minimize(name, settings, [1.0, 4.0], fun, tol=1e-4)
    assert result.success
    assert np.allclose(result.x, 3, atol=1e-4)
    assert result.nfev == len(calls) == 3 * result.njev


def test_single_precision_stays_single() -> None:
    """Finite differences are taken in double precision: 2**-26 is lost beside a float32."""
    dtypes = set()

    def fun(x: Any) -> float:
        dtypes.add(x.dtype.name)
        return bowl(x)

    result = minimize("SGD", {"lr": 0.25}, np.zeros(2, np.float32), fun)
    assert result.x.dtype == result.jac.dtype == np.float32
    assert dtypes == {"float32", "float64"}
    assert result.nfev == 3 * result.njev
    assert result.success
    assert np.allclose(result.x, 3, atol=1e-5)


def test_integers_become_doubles_and_nothing_is_changed_in_place() -> None:
    kept: list[Any] = []
    x0 = np.array([0, 5])
    result = minimize("SGD", {"lr": 0.25}, x0, lambda x: kept.append(x) or bowl(x), jac=slope, options={"maxiter": 3})  # type: ignore[func-returns-value]
    assert x0.tolist() == [0, 5]
    assert [x.tolist() for x in kept] == [[0, 5], [1.5, 4], [2.25, 3.5], [2.625, 3.25]]
    assert result.x.tolist() == [2.625, 3.25]


# ----------------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("options", "status", "nit", "message"),
    [
        ({"maxiter": 0}, 1, 0, "iterations has reached maxiter"),
        ({"maxiter": 3}, 1, 3, "iterations has reached maxiter"),
        ({"maxfun": 3}, 2, 2, "evaluations has reached maxfun"),
        ({"gtol": 1.5}, 0, 2, "gradient is larger than gtol"),
        ({"gtol": 0, "xtol": 0.5}, 0, 3, "No element of x changed by as much as xtol"),
        ({"gtol": 0, "ftol": 0.5}, 0, 3, "The function changed by less than ftol"),
        ({"maxiter": None, "maxfun": None, "gtol": None}, 0, 20, "gradient is larger than gtol"),
    ],
)
def test_options_end_it(options: dict[str, Any], status: int, nit: int, message: str) -> None:
    """With lr = 1/4, x is 3 * (1 - 2**-k) after k steps, the gradient 6 / 2**k, the function 9 / 4**k."""
    result = minimize("SGD", {"lr": 0.25}, [0.0], bowl, jac=slope, options=options)
    assert (result.status, result.nit, result.nfev) == (status, nit, nit + 1)
    assert message in result.message
    assert result.success == (status == 0)


def test_the_start_may_be_the_end() -> None:
    result = minimize("LBFGS", {}, [3.0], bowl, jac=slope)
    assert (result.success, result.nit, result.nfev) == (True, 0, 1)


def test_tol_is_the_tolerance_of_the_gradient() -> None:
    result = minimize("SGD", {"lr": 0.25}, [0.0], bowl, jac=slope, tol=1.5)
    assert (result.nit, result.status) == (2, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_ends_it(value: float) -> None:
    result = minimize("SGD", {"lr": 0.25}, [0.0], lambda x: bowl(x) if x[0] < 2 else value, jac=slope)
    assert (result.status, result.nit, result.success) == (3, 2, False)
    assert "not finite" in result.message


def test_a_search_that_finds_nothing_better_ends_it() -> None:
    """The gradient points the wrong way, so no length is a good one."""
    result = minimize("LBFGS", {"line_search_fn": "strong_wolfe"}, [0.0], bowl, jac=lambda x: -slope(x))
    assert (result.status, result.success) == (4, False)
    assert result.x.tolist() == [0.0]


@pytest.mark.parametrize(("name", "settings"), [*SEARCHING, ("SGD", {"lr": 1e-3})])
def test_callbacks_are_called_after_each_iteration_in_either_way(name: str, settings: dict[str, Any]) -> None:
    points: list[Any] = []
    results: list[Any] = []

    def new(intermediate_result: Any) -> None:
        results.append(intermediate_result)

    for callback in (points.append, new):
        result = minimize(name, settings, options={"maxiter": 5, "return_all": True}, callback=callback)
    assert_equal_bits(np.stack(points), np.stack(result.allvecs[1:]))
    assert [r.x.tolist() for r in results] == [x.tolist() for x in points]
    assert [r.fun for r in results] == [optimize.rosen(x) for x in points]
    assert [r.nit for r in results] == [1, 2, 3, 4, 5]


def test_a_callback_may_stop_it() -> None:
    def callback(x: Any) -> None:
        if x[0] > 2:
            raise StopIteration

    result = minimize("SGD", {"lr": 0.25}, [0.0], bowl, jac=slope, callback=callback)
    assert (result.status, result.success, result.nit) == (99, False, 2)
    assert "StopIteration" in result.message


def test_what_the_function_raises_comes_out() -> None:
    def fun(x: Any) -> float:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        minimize("LBFGS", {}, [0.0], fun, jac=slope)


def test_disp_prints_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    minimize("SGD", {"lr": 0.25}, [0.0], bowl, jac=slope, options={"disp": True, "maxiter": 2})
    assert capsys.readouterr().out == (
        "The number of iterations has reached maxiter.\n    function value 0.5625, 2 iterations, 3 evaluations\n"
    )


def test_other_searches_of_scipy_use_it() -> None:
    inner = method(refoptim.LBFGS, line_search_fn="strong_wolfe")
    found = optimize.basinhopping(
        lambda x: float(np.cos(14.5 * x[0] - 0.3) + (x[0] + 0.2) * x[0]),
        [1.0],
        niter=20,
        minimizer_kwargs={"method": inner},
        **({"rng": 0} if "rng" in optimize.basinhopping.__doc__ else {"seed": 0}),
    )
    assert np.allclose(found.x, -0.195, atol=1e-3)


def test_a_method_may_be_pickled_and_used_again() -> None:
    inner = pickle.loads(pickle.dumps(method(refoptim.Adam, lr=0.1)))
    one, other = (optimize.minimize(bowl, [0.0], jac=slope, method=inner) for _ in range(2))
    assert one.x == other.x
    assert one.nit == other.nit


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("rule", "settings", "error", "message"),
    [
        (refoptim.Adam, {"lr": -1}, ValueError, "Invalid learning rate: -1"),
        (refoptim.Adam, {"momentum": 1}, TypeError, "unexpected keyword argument 'momentum'"),
        (
            refoptim.LBFGS,
            {"max_iter": 5},
            TypeError,
            "max_iter is no setting here: call minimize with options={'maxiter'",
        ),
        (refoptim.LBFGS, {"tolerance_grad": 5}, TypeError, "call minimize with options={'gtol'"),
        (refoptim.Muon, {}, ValueError, "Muon only supports 2D parameters"),
        (refoptim.SparseAdam, {}, RuntimeError, "SparseAdam does not support dense gradients"),
        (refoptim.Optimizer, {}, TypeError, "rule must be a class of optimizers"),
        ("Adam", {}, TypeError, "rule must be a class of optimizers such as refoptim.Adam, got 'Adam'"),
    ],
)
def test_wrong_rules_and_settings_are_refused_at_once(rule: Any, settings: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        method(rule, **settings)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"options": {"gtoll": 1}}, TypeError, "no option 'gtoll': its options are maxiter, maxfun, gtol"),
        ({"options": {"maxiter": 1.5}}, TypeError, "maxiter must be an integer, got 1.5"),
        ({"options": {"gtol": -1}}, ValueError, "Invalid gtol value: -1"),
        ({"options": {"eps": 0}}, ValueError, "Invalid eps value: 0"),
        ({"bounds": [(0, 1)]}, ValueError, "no bounds and no constraints"),
        ({"constraints": {"type": "eq", "fun": bowl}}, ValueError, "no bounds and no constraints"),
        ({"x0": [1j]}, TypeError, "x0 must hold real numbers, got dtype complex128"),
        ({"x0": ["a"]}, TypeError, "x0 must hold real numbers, got dtype <U1"),
        ({"fun": lambda x: x, "x0": [1.0, 2.0]}, ValueError, "the function must return one real number"),
        ({"fun": lambda x: "1"}, ValueError, "the function must return one real number"),
        ({"jac": lambda x: x[:0]}, ValueError, "jac must return 1 real numbers, got shape (0,)"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x0": [0.0], "fun": bowl, "jac": slope, **given}
    with pytest.raises(error, match=re.escape(message)):
        minimize("SGD", {"lr": 0.25}, **arguments)


@pytest.mark.parametrize("given", ["hess", "hessp"])
def test_hessians_are_not_used_and_that_is_said(given: str) -> None:
    with pytest.warns(RuntimeWarning, match="does not use a Hessian"):
        minimize("LBFGS", {}, [0.0], bowl, jac=slope, **{given: lambda *x: np.eye(1)})
