"""Dialects: what goes by the name of an optimizer elsewhere, as small named changes of refoptim's.

An *axis* is one way in which implementations differ, under a flag that ``conformance/cases/flags.json`` lists:
``EpsUnscaled``, ``DecoupledDecay``. ``dialect("Adam", "EpsUnscaled", "DecoupledDecay")`` is the Adam that has both, an
optimizer like any other, run by the reference on every kind of array. The modules of this package are named after
libraries and hold their optimizers: ``refoptim.dialects.keras.Adam``.
"""

from __future__ import annotations

from collections.abc import Iterable

import refoptim

from ..optimizers.base import Optimizer
from ..step.rule import is_measured
from . import (  # noqa: F401 (they declare)
    cautious,
    correction,
    decay,
    eight_bits,
    epsilon,
    matrices,
    momentum,
    over_all,
    rotated,
    rounding,
    running,
    squares,
    summed,
    wider,
)
from .change import AXES, Axis, Change, MeasuredChange
from .flags import FLAGS

__all__ = ["AXES", "FLAGS", "Axis", "axes_of", "axis_of", "dialect", "fit", "made_of"]

OUTERMOST = (
    *(running.GAPS, running.CHANGING, running.RESUMING, running.SPARSE, "whose step count", "registers"),
    *(rounding.RANGE, "signs of zero", "dtype of moments", "dtype of scalars", "decay size", "sign", "NaN"),
    "decayed parameter",
    *("decay place", correction.COUNT),
)
"""What is changed around other changes, from the outside in; what is not listed stands within."""


def axes_of(optimizer: str) -> list[Axis]:
    """Return the axes of an optimizer, by flag."""
    return [axis for (name, _), found in sorted(AXES.items()) if name == optimizer for axis in found]


def fit(axes: Iterable[Axis]) -> bool:
    """Tell whether axes can stand together: none touches what another does, and what each needs is there."""
    chosen = list(axes)
    touched = [thing for axis in chosen for thing in axis.touches]
    flags = {axis.flag for axis in chosen}
    return len(set(touched)) == len(touched) and all(not axis.needs or flags & set(axis.needs) for axis in chosen)


def dialect(optimizer: type[Optimizer] | str, *axes: str | Axis) -> type[Optimizer]:
    """Return an optimizer that differs from one of refoptim's by what some flags name.

    Args:
        optimizer: one of refoptim's optimizers, or its name.
        axes: its axes in any order, or their flags; of several axes under one flag the first is meant.

    Raises:
        ValueError: the optimizer has no such axis, or some do not stand together.
    """
    rule = _named(optimizer) if isinstance(optimizer, str) else optimizer
    return made_of(rule, *(axis if isinstance(axis, Axis) else axis_of(rule.__name__, axis) for axis in axes))


def axis_of(optimizer: str, flag: str) -> Axis:
    """Return the axis of an optimizer under a flag, of several the first; raise ValueError if there is none."""
    if (optimizer, flag) not in AXES:
        known = ", ".join(sorted({axis.flag for axis in axes_of(optimizer)}))
        raise ValueError(f"{optimizer} has no axis {flag!r}: choose of {known}")
    return AXES[optimizer, flag][0]


def _named(optimizer: str) -> type[Optimizer]:
    rule: type[Optimizer] | None = getattr(refoptim, optimizer, None)
    if rule is None:
        raise ValueError(f"there is no optimizer {optimizer!r}")
    return rule


def made_of(rule: type[Optimizer], *axes: Axis) -> type[Optimizer]:
    """Return an optimizer that differs from ``rule`` along some axes, or raise ValueError if they do not fit."""
    if not fit(axes):
        raise ValueError(f"these do not stand together: {', '.join(axis.flag for axis in axes)}")
    return _made(rule, tuple(sorted(axes, key=_place)))


_MADE: dict[tuple[type[Optimizer], tuple[Axis, ...]], type[Optimizer]] = {}


def _made(rule: type[Optimizer], axes: tuple[Axis, ...]) -> type[Optimizer]:
    if (rule, axes) not in _MADE:
        roots = (MeasuredChange, Change) if is_measured(rule) else (Change,)
        bases = (*dict.fromkeys(axis.change for axis in axes), *roots, rule)
        varying = rule.varying.union(*(axis.change.moving for axis in axes))
        about = {"__doc__": rule.__doc__, "__module__": __name__, "varying": varying, "axes": axes}
        _MADE[rule, axes] = type(rule.__name__, bases, about)
    return _MADE[rule, axes]


def _place(axis: Axis) -> int:
    return min((OUTERMOST.index(thing) for thing in axis.touches if thing in OUTERMOST), default=len(OUTERMOST))
