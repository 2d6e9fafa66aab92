"""The optimizers as methods of ``scipy.optimize.minimize``.

::

    from scipy.optimize import minimize
    from refoptim.interop.scipy import method

    result = minimize(fun, x0, jac=grad, method=method(refoptim.LBFGS, line_search_fn="strong_wolfe"))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any
from warnings import warn

import numpy as np
import scipy.optimize

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..optimizers.closure import ClosureOptimizer
from ..step.hyper import Count, Flag, Hyper, Interval, Real
from ..step.parameter import Parameter

OPTIONS: dict[str, tuple[Hyper, Any]] = {
    "maxiter": (Count("the number of iterations that ends the search"), 10_000),
    "maxfun": (Real("the number of evaluations that ends it, looked at between iterations"), math.inf),
    "gtol": (Real("a gradient with no larger element ends it"), 1e-5),
    "xtol": (Real("so does a change of x with no element as large"), 0.0),
    "ftol": (Real("and a change of the function that is smaller"), 0.0),
    "eps": (Real("the step of forward differences", interval=Interval("(0, inf)")), 2.0**-26),
    "disp": (Flag("print how it ended"), False),
    "return_all": (Flag("keep every x in ``allvecs`` of the result"), False),
}
"""The options of a method, and their defaults."""

OWN = {
    "max_iter": "options={'maxiter': ...}",
    "max_eval": "options={'maxfun': ...}",
    "tolerance_grad": "options={'gtol': ...}",
    "tolerance_change": "options={'xtol': ..., 'ftol': ...}",
}
"""Settings of the optimizers that call a closure, and the options that stand in their place."""

ONE_MOVE = {"max_iter": 1, "max_eval": 26, "tolerance_grad": 0, "tolerance_change": 0}
"""Settings with which those make one move in a step: a search tries 25 lengths after the first, and nothing else ends
it."""

STOPPED = 99
"""The status of a search that the callback ended, as SciPy has it."""


def method(rule: type[Optimizer], **settings: Any) -> Callable[..., Any]:
    """Return what ``scipy.optimize.minimize`` takes as its ``method``.

    Args:
        rule: the optimizer, such as ``refoptim.Adam``, ``refoptim.LBFGS`` or ``refoptim.ConjugateGradient``.
        settings: its hyperparameters, but for those of ``LBFGS`` and ``ConjugateGradient`` that limit a step.

    ``minimize`` is given ``jac``, else gradients are forward differences, and perhaps ``callback(x)`` or
    ``callback(intermediate_result)``, which may raise StopIteration. ``options``: ``maxiter`` (default 10,000),
    ``maxfun`` (not limited), ``gtol`` (1e-5; ``tol`` sets it too), ``xtol`` and ``ftol`` (0, which no change is smaller
    than), ``eps`` of forward differences (2**-26), ``disp``, ``return_all``.

    An iteration is a step of the optimizer, and of ``LBFGS`` and ``ConjugateGradient`` a move with its search. The
    result holds ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``status``, ``success`` and ``message``. The
    search has the dtype of ``x0``, which is not changed, if that is a float, else float64.

    Raises:
        TypeError, ValueError, RuntimeError: the rule or a setting is wrong, or the optimizer does not take vectors with
            dense gradients. ``minimize`` raises ValueError for bounds and constraints, TypeError for unknown options.
    """
    if not (isinstance(rule, type) and issubclass(rule, Optimizer)) or rule is Optimizer:
        raise TypeError(f"rule must be a class of optimizers such as refoptim.Adam, got {rule!r}")
    calls = issubclass(rule, ClosureOptimizer)
    for name in OWN:
        if calls and name in settings:
            raise TypeError(f"{name} is no setting here: call minimize with {OWN[name]}")
    make: Callable[..., Optimizer] = partial(rule, **{**settings, **(ONE_MOVE if calls else {})})
    trial = Parameter(np.zeros(1), np.zeros(1))
    make([trial]).step(lambda: 0.0)
    return partial(_minimize, make, calls)


def _minimize(
    make: Callable[..., Optimizer],
    calls: bool,
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    jac: Callable[..., Any] | None = None,
    callback: Callable[..., Any] | None = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    **options: Any,
) -> Any:
    """Minimize a function as ``method`` says; ``minimize`` calls this."""
    if bounds is not None or np.any(constraints):
        raise ValueError("this method takes no bounds and no constraints")
    if hess is not None or hessp is not None:
        warn("this method does not use a Hessian (hess, hessp)", RuntimeWarning, stacklevel=3)
    chosen = _resolved(options)
    p = Parameter(_vector(x0))
    search = _Search(make([p]), p, _Objective(fun, jac, args, chosen["eps"]), chosen, stalls=calls)
    status, message = search.run(_calling(callback))
    result = search.result(status, message)
    if chosen["disp"]:
        print(f"{message}\n    function value {result.fun:.6g}, {result.nit} iterations, {result.nfev} evaluations")
    return result


def _resolved(options: dict[str, Any]) -> dict[str, Any]:
    """Check options and return all of them; None stands for a default."""
    given = {key: x for key, x in options.items() if x is not None}
    if "tol" in given:
        given.setdefault("gtol", given.pop("tol"))
    given.pop("tol", None)
    for key in given:
        if key not in OPTIONS:
            raise TypeError(f"this method has no option {key!r}: its options are {', '.join(OPTIONS)}")
    return {key: x.resolve(key, given[key]) if key in given else default for key, (x, default) in OPTIONS.items()}


def _vector(x0: Any) -> Array:
    """Return a copy of the point to begin with as a vector of floats."""
    x = np.array(x0)
    if x.dtype.kind not in "biuf":
        raise TypeError(f"x0 must hold real numbers, got dtype {x.dtype}")
    if x.ndim != 1:
        raise ValueError(f"x0 must have one axis, got shape {x.shape}")
    return x if x.dtype.kind == "f" else x.astype(float)


class _Objective:
    """A function and its gradient, which counts how often each is evaluated and remembers points."""

    def __init__(self, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...], eps: float) -> None:
        self.fun, self.jac, self.args, self.eps = fun, jac, args, eps
        self.nfev = self.njev = 0
        self._known: dict[bytes, tuple[float, Array]] = {}

    def at(self, x: Array) -> tuple[float, Array]:
        """Return the value and the gradient at a point."""
        key = x.tobytes()
        if key not in self._known:
            value = self._value(x.copy())
            self._known[key] = value, self._gradient(x.copy(), value)
        return self._known[key]

    def forget_all_but(self, x: Array) -> None:
        """Forget what is known but for one point."""
        key = x.tobytes()
        self._known = {key: self._known[key]} if key in self._known else {}

    def _value(self, x: Array) -> float:
        self.nfev += 1
        value = np.asarray(self.fun(x, *self.args))
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise ValueError(f"the function must return one real number, got {value!r}")
        return float(value.item())

    def _gradient(self, x: Array, value: float) -> Array:
        self.njev += 1
        if self.jac is None:
            return self._differences(x.astype(float), value).astype(x.dtype)
        g = np.asarray(self.jac(x, *self.args))
        if g.size != x.size or g.dtype.kind not in "biuf":
            raise ValueError(f"jac must return {x.size} real numbers, got shape {g.shape} and dtype {g.dtype}")
        return g.reshape(x.shape).astype(x.dtype)

    def _differences(self, x: Array, value: float) -> Array:
        """Return forward differences, by SciPy, which asks for the value at ``x`` too."""
        at_x = x.tobytes()

        def f(y: Array) -> float:
            return value if y.tobytes() == at_x else self._value(y)

        return np.asarray(scipy.optimize.approx_fprime(x, f, self.eps))


class _Search:
    """A minimization: an optimizer, its only parameter, what it minimizes and when it ends.

    ``stalls``: the optimizer has no more to try when two steps have changed nothing.
    """

    def __init__(
        self, optimizer: Optimizer, p: Parameter, objective: _Objective, limits: dict[str, Any], *, stalls: bool
    ) -> None:
        self.optimizer, self.p, self.objective, self.limits, self.stalls = optimizer, p, objective, limits, stalls
        self.nit = self.idle = 0
        self.visited = [p.data.copy()]

    def run(self, callback: Callable[[Any], None]) -> tuple[int, str]:
        """Iterate until something ends it; return the status and the message."""
        end = self._converged() or self._exhausted()
        while end is None:
            before, x = self.objective.at(self.p.data)[0], self.p.data.copy()
            self.optimizer.step(self._closure)
            self.nit += 1
            end = self._changed(x, before) or self._converged() or self._exhausted()
            self.objective.forget_all_but(self.p.data)
            try:
                callback(self._intermediate())
            except StopIteration:
                end = STOPPED, "The callback raised StopIteration."
        return end

    def result(self, status: int, message: str) -> Any:
        """Return what ``minimize`` returns."""
        value, g = self.objective.at(self.p.data)
        counts = {"nit": self.nit, "nfev": self.objective.nfev, "njev": self.objective.njev}
        found = {"x": self.p.data.copy(), "fun": value, "jac": g.copy()}
        more = {"allvecs": self.visited} if self.limits["return_all"] else {}
        ending = {"status": status, "success": status == 0, "message": message}
        return scipy.optimize.OptimizeResult(**found, **counts, **ending, **more)

    def _closure(self) -> float:
        value, g = self.objective.at(self.p.data)
        self.p.grad = g
        return value

    def _intermediate(self) -> Any:
        if self.limits["return_all"]:
            self.visited.append(self.p.data.copy())
        value, _ = self.objective.at(self.p.data)
        return scipy.optimize.OptimizeResult(x=self.p.data.copy(), fun=value, nit=self.nit)

    def _converged(self) -> tuple[int, str] | None:
        value, g = self.objective.at(self.p.data)
        steepest = np.max(np.abs(g), initial=0)
        if math.isnan(steepest) or not math.isfinite(value):
            return 3, "The function or its gradient is not finite."
        if steepest <= self.limits["gtol"]:
            return 0, "No element of the gradient is larger than gtol."
        return None

    def _changed(self, x: Array, value: float) -> tuple[int, str] | None:
        """Return the end if little has changed since a point."""
        moved = np.max(np.abs(self.p.data - x), initial=0)
        self.idle = 0 if moved else self.idle + 1
        if moved < self.limits["xtol"]:
            return 0, "No element of x changed by as much as xtol."
        if abs(self.objective.at(self.p.data)[0] - value) < self.limits["ftol"]:
            return 0, "The function changed by less than ftol."
        return None

    def _exhausted(self) -> tuple[int, str] | None:
        if self.stalls and self.idle >= 2:
            return 4, "The search finds no better point, and the gradient is not small enough."
        if self.nit >= self.limits["maxiter"]:
            return 1, "The number of iterations has reached maxiter."
        if self.objective.nfev >= self.limits["maxfun"]:
            return 2, "The number of evaluations has reached maxfun."
        return None


def _calling(callback: Callable[..., Any] | None) -> Callable[[Any], None]:
    """Return a function of an intermediate result that calls what the user gave, in either of SciPy's ways."""
    if callback is None:
        return lambda result: None
    try:
        names = set(signature(callback).parameters)
    except ValueError:  # what is written in C may have no signature
        names = set()
    if names == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)
