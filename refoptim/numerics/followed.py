"""Numbers that a library follows: settings that are tensors of torch or traced by JAX, and what is computed of them.

A ``Followed`` number is computed twice. On the host in doubles, as any number is, which gives its value; and in the
library, which gives its derivatives. What stands in a step has the value of the host and the derivatives of the
library, so a setting that is followed changes no bit. Where the library only traces, there is no value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from .arith import Array, DType, Undecided
from .namespaces import FUNCTIONS, Foreign, Namespace, dtype_of


class Followed(np.lib.mixins.NDArrayOperatorsMixin):
    """A number: its value on the host, None while it is only traced, and what the library computes.

    Args:
        value: a Python number, or a NumPy scalar that is computed with in its own type.
        traced: an array without axes.
        namespace: the library.
        names: the settings that it comes of.
    """

    def __init__(self, value: Any, traced: Array, namespace: Namespace, names: frozenset[str]) -> None:
        self.value, self.traced, self.namespace, self.names = value, traced, namespace, names

    @cached_property
    def array(self) -> Array:
        """The value with the derivatives."""
        if not self.value:  # unknown, or a zero, whose sign is right already
            return self.traced
        return self.traced - self.namespace.constant(self.traced) + float(self.value)

    @property
    def foreign(self) -> Foreign:
        """The number as an array."""
        return Foreign(self.array, self.namespace)

    @property
    def dtype(self) -> DType:
        """The type in which it is computed with."""
        return np.dtype(type(self.value)) if isinstance(self.value, np.generic) else dtype_of(self.traced.dtype)

    def astype(self, dtype: Any) -> Followed:
        """Return the number rounded to a type."""
        dtype = np.dtype(dtype)
        value = None if self.value is None else dtype.type(self.value)
        return Followed(value, self.namespace.astype(self.traced, dtype), self.namespace, self.names)

    def known(self) -> Any:
        """Return the value; raise Undecided if there is none."""
        if self.value is None:
            raise Undecided(
                f"the step depends on the value of {' and '.join(sorted(self.names))}, which has none while it is "
                "traced by jit or vmap: give a number"
            )
        return self.value

    def __float__(self) -> float:
        return float(self.known())

    def __repr__(self) -> str:
        return repr(self.traced if self.value is None else self.value)

    def __bool__(self) -> bool:
        """Count as a number that is not zero: at zero, too, there is a derivative."""
        return True

    __hash__ = object.__hash__

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Foreign) for x in inputs):
            return ufunc(*(x.foreign if isinstance(x, Followed) else x for x in inputs))
        function = OPERATORS[ufunc]
        if ufunc in (np.equal, np.not_equal):  # what has no value differs from what has one
            return bool(function(*map(_value, inputs)))
        if ufunc in COMPARISONS:
            return bool(function(*map(_known, inputs)))
        return follow(function, function, *inputs)


OPERATORS = {**FUNCTIONS, np.divide: operator.truediv}

COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal)


def follow(on_host: Callable[..., Any], in_library: Callable[..., Any], *numbers: Any) -> Followed:
    """Compute with numbers, at least one of which is followed, on the host and in the library."""
    values = [_value(x) for x in numbers]
    followed = [x for x in numbers if isinstance(x, Followed)]
    value = None if any(x is None for x in values) else on_host(*values)
    traced = in_library(*map(_traced, numbers))
    return Followed(value, traced, followed[0].namespace, frozenset().union(*(x.names for x in followed)))


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Followed) else x


def _known(x: Any) -> Any:
    return x.known() if isinstance(x, Followed) else x


def _traced(x: Any) -> Any:
    if isinstance(x, Followed):
        return x.traced
    return x.item() if isinstance(x, np.generic) else x


def double(x: Any) -> Any:
    """Return a number as a double."""
    if not isinstance(x, Followed):
        return float(x)
    value = None if x.value is None else float(x.value)
    return Followed(value, x.namespace.scalar(x.traced), x.namespace, x.names)


def rounded(x: Any, dtype: DType) -> Any:
    """Return a number rounded to a type."""
    return x.astype(dtype) if isinstance(x, Followed) else dtype.type(x)


def lifted(name: str, x: Any, namespace: Namespace) -> Any:
    """Return a number that a library follows as such, and anything else as it is."""
    if math.prod(x.shape) != 1 or not namespace.follows(x):
        return x
    return Followed(namespace.value(x), namespace.scalar(x), namespace, frozenset({name}))


def larger(x: Any, y: Any) -> Any:
    """Return the larger of two numbers."""
    home = _namespace(x, y)
    return max(x, y) if home is None else follow(larger, lambda a, b: home.where(a > b, a, b), x, y)


def divisor(x: Any) -> Any:
    """Return a number, 1 in place of 0."""
    home = _namespace(x)
    return (x or 1.0) if home is None else follow(divisor, lambda a: home.where(a != 0, a, 1.0), x)


def _namespace(*numbers: Any) -> Namespace | None:
    """Return the library that follows one of some numbers, None if none does."""
    return next((x.namespace for x in numbers if isinstance(x, Followed)), None)
