"""Numbers whose powers are correctly rounded, wherever somebody else's code computes with them.

A witness that computes ``beta ** step`` or ``math.cos`` uses the C library of its machine. Given a ``Real`` for
``beta``, and ``MATH`` for ``math``, the same code computes what the numerical contract defines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from refoptim.numerics.power import cos, exp, log, power


def _log(x: float, base: float | None = None) -> float:
    return log(x) if base is None else log(x) / log(base)


MATH = SimpleNamespace(**{**vars(math), "cos": cos, "exp": exp, "log": _log, "pow": power})
"""The module ``math`` with functions that round correctly."""


class Real(float):
    """A double; it and all that is computed from it have correctly rounded powers."""

    def __pow__(self, other: Any, modulo: None = None) -> Any:
        """Return self**other, of a tensor in the type of its elements."""
        if hasattr(other, "new_tensor"):
            base = float(other.new_tensor(float(self)))
            return other.new_tensor(power(base, float(other)))
        return Real(power(float(self), float(other)))

    def __rpow__(self, other: Any, modulo: None = None) -> Any:
        """Return other**self."""
        return Real(power(float(other), float(self)))


class Whole(int):
    """An integer with correctly rounded real powers."""

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        """Return self**other."""
        return Real(power(int(self), other)) if isinstance(other, float) else int.__pow__(self, other, modulo)


def _real(operation: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Real, *other: Any) -> Any:
        result = operation(self, *other)
        return result if result is NotImplemented else Real(result)

    return method


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "abs"):
    setattr(Real, f"__{_name}__", _real(getattr(float, f"__{_name}__")))


def real(x: Any) -> Any:
    """Return floats as Reals, those in tuples, lists and dicts too, and anything else as it is."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(real, x))
    if isinstance(x, dict):
        return {key: real(value) for key, value in x.items()}
    return Real(x) if type(x) is float else x
