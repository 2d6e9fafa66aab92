"""Steps of the pure rules as functions of numbers and arrays, and their derivatives by central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers import wider
from refoptim import functional

STEPS = 8

SMOOTH: dict[str, dict[str, Any]] = {
    "sgd": dict(lr=0.07, momentum=0.8, dampening=0.3, weight_decay=0.1, maximize=True),
    "adam": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2, amsgrad=True, maximize=True),
    "adamw": dict(lr=0.05, betas=(0.4, 0.8), eps=1e-3, weight_decay=0.2),
    "nadam": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2, momentum_decay=0.1),
    "radam": dict(lr=0.05, betas=(0.6, 0.9), eps=1e-3, weight_decay=0.2, decoupled_weight_decay=True),
    "adamax": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
    "adadelta": dict(lr=0.8, rho=0.7, eps=1e-2, weight_decay=0.2),
    "adagrad": dict(lr=0.05, lr_decay=0.2, initial_accumulator_value=0.3, eps=1e-3, weight_decay=0.2),
    "rmsprop": dict(lr=0.05, alpha=0.6, eps=1e-2, momentum=0.7, centered=True, weight_decay=0.2),
    "rprop": dict(lr=0.05, etas=(0.4, 1.3), step_sizes=(0.01, 0.07)),
    "asgd": dict(lr=0.05, lambd=0.1, alpha=0.7, t0=2.5, weight_decay=0.2),
    **{wider.STEMS[name]: wider.WIDER[name] for name in wider.ELEMENTWISE},
}
"""Settings of the elementwise rules at which no step of ``path`` is near a kink."""


def names(rule: str) -> list[str]:
    """Return the settings of a rule that are numbers, those of a tuple with their places."""
    found = []
    for name, x in SMOOTH[rule].items():
        if isinstance(x, tuple):
            found += [f"{name}.{i}" for i in range(len(x))]
        elif not isinstance(x, bool):
            found.append(name)
    return found


def numbers(rule: str) -> list[float]:
    """Return the values of ``names``."""
    return [float(pick(SMOOTH[rule], name)) for name in names(rule)]


def pick(settings: dict[str, Any], name: str) -> Any:
    """Return a setting, or one of several."""
    first, _, place = name.partition(".")
    return settings[first][int(place)] if place else settings[first]


def settings_with(rule: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings of a rule with others for its numbers."""
    given = dict(zip(names(rule), values, strict=True))
    settings = dict(SMOOTH[rule])
    for name, x in SMOOTH[rule].items():
        if isinstance(x, tuple):
            settings[name] = tuple(given[f"{name}.{i}"] for i in range(len(x)))
        elif not isinstance(x, bool):
            settings[name] = given[name]
    return settings


def path(dtype: str = "float64") -> list[Any]:
    """Draw a parameter, the gradients of some steps, and weights of what comes out."""
    rng = np.random.default_rng(8)
    return [rng.standard_normal((3, 5)).astype(dtype) for _ in range(STEPS + 2)]


def trajectory(rule: str, values: Sequence[Any], p: Any, grads: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """Return a parameter and its state after some steps."""
    params, state = [p], None
    for t, g in enumerate(grads, 1):
        params, state = getattr(functional, rule)(params, [g], state, t, **settings_with(rule, values))
    return params[0], state[0]


def loss(rule: str, values: Sequence[Any], arrays: Sequence[Any]) -> Any:
    """Weigh and sum a parameter after some steps and the arrays of its state; ``arrays`` as ``path`` draws them."""
    p, *grads, weights = arrays
    new, state = trajectory(rule, values, p, grads)
    total = (weights * new).sum()
    for i, name in enumerate(sorted(state)):
        total = total + (i + 2) * (weights * weights * state[name]).sum() if len(state[name].shape) else total
    return total


def slope(f: Callable[[float], Any], x: float) -> float:
    """Return a derivative by central differences of order four."""
    h = 2.0**-12 * abs(x)
    far, near = (float(f(x + k * h)) - float(f(x - k * h)) for k in (2, 1))
    return (8 * near - far) / (12 * h)


def slope_by_number(rule: str, i: int) -> float:
    """Return the derivative of ``loss`` by one of the numbers, with NumPy."""
    values, arrays = numbers(rule), path()
    return slope(lambda x: loss(rule, [*values[:i], x, *values[i + 1 :]], arrays), values[i])


def slopes_by_array(rule: str, i: int) -> Any:
    """Return the derivatives of ``loss`` by the elements of one of the arrays, with NumPy."""
    values, arrays, found = numbers(rule), path(), np.empty((3, 5))
    for at in np.ndindex(3, 5):

        def moved(x: float, at: tuple[int, ...] = at) -> Any:
            changed = [y.copy() for y in arrays]
            changed[i][at] = x
            return loss(rule, values, changed)

        found[at] = slope(moved, arrays[i][at])
    return found
