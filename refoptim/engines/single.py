"""Takes parameters a step further, on arrays of any library: checked, brought in, computed, handed back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array, DType, arithmetic, as_reals, from_reals, storage
from ..numerics.followed import Followed, lifted, rounded
from ..numerics.namespaces import Foreign, Namespace, dtype_of, namespace_of
from ..step.limits import check_constants, check_number, fitting
from ..step.parameter import array_again
from ..step.plan import Kept, Layout, begun, layout
from ..step.rule import Hypers, Record, Registers, Rule, added, computed, has_sums_over_all, is_measured, renewed, told
from ..step.sparse import as_sparse
from . import pure

State = dict[str, Any]
Scalars = dict[str, Any]
Counted = Callable[[Mapping[str, Any]], tuple[Scalars, Registers]]
"""Given the state of a parameter, the scalars of its step and the registers after it."""


class Ready(NamedTuple):
    """A parameter of a step: its arrays, checked and brought in, its record, and its registers after the step."""

    p: Array
    g: Any
    arrays: State
    estimate: Any
    s: Record
    after: Registers


class Step(NamedTuple):
    """A step of a rule on arrays of one library; ``home`` is None for NumPy and what understands its functions."""

    rule: type[Rule]
    h: Hypers
    counted: Counted
    rounding: str
    home: Namespace | None

    def ready(self, p: Any, grad: Any, state: Mapping[str, Any], estimate: Any, counted: Mapping[str, Any]) -> Ready:
        """Look at a parameter, or raise if something does not fit; the state ``counted`` holds its registers."""
        self.rule.check_step(self.h)
        p, sparse = operand("a parameter", p, self.home), as_sparse(grad)
        if self.home is not None:
            self._check_foreign(sparse is not None)
        g = self.rule.accept(self.h, operand("the gradient", grad, self.home) if sparse is None else sparse)
        check_fit("the gradient", g, p.shape, p.dtype)
        estimate = self._estimate(estimate, p)
        storage(p.dtype)
        self.rule.check_parameter("the parameter", p.shape, p.dtype)
        scalars, after = self.counted(counted)
        arrays = self._arrays(layout(self.rule, self.h, p.shape), p, state, {"step", *after})
        given = {"sparse": sparse is not None, "estimated": estimate is not None}
        s = self._record({**scalars, **given}, p.dtype)
        check_constants(self.rule, self.h, s, p.shape, p.dtype)
        return Ready(p, g, arrays, estimate, s, after)

    @np.errstate(all="ignore")
    def measured(self, ready: Sequence[Ready]) -> list[Ready]:
        """Let parameters have what sums over all of them say."""
        part = ready if self.rule.takes_part(self.h) else []
        found = [pure.totals(self.rule, x.s, x.p, x.g, x.arrays) for x in part]
        return [self._told(x, added(found)) for x in ready] if found else [*ready]

    def _told(self, x: Ready, sums: Sequence[float]) -> Ready:
        new, after = told(self.rule, self.h, x.after, sums)
        return x._replace(s=renewed(x.s, new, computed(self.rule, x.p.dtype)), after=after)

    def taken(self, x: Ready) -> tuple[Any, State]:
        """Return a parameter and its state after the step."""
        new_p, new_arrays = pure.run(self.rule, x.s, x.p, x.g, x.arrays, self.rounding, estimate=x.estimate)
        new_state = {**x.after, **new_arrays}
        if self.home is None:
            return new_p, new_state
        return handed_back(new_p), {name: handed_back(x) for name, x in new_state.items()}

    def _estimate(self, x: Any, p: Array) -> Any:
        """Return an estimate as an array like the parameter, None for none."""
        if x is None:
            return None
        if not self.rule.takes_estimates:
            raise TypeError(f"{self.rule.__name__} takes no estimates")
        x = operand("the estimate", x, self.home)
        check_fit("the estimate", x, p.shape, p.dtype)
        return x

    def _check_foreign(self, sparse: bool) -> None:
        """Raise TypeError for what is defined on arrays of NumPy and CuPy alone."""
        whose = "arrays of NumPy and CuPy alone"
        if sparse:
            raise TypeError(f"sparse gradients go with {whose}: make the gradient dense")
        if is_measured(self.rule) or has_sums_over_all(self.rule):
            does = "counts elements, which is" if self.rule.is_cautious else "sums over elements, in an order that is"
            raise TypeError(f"{self.rule.__name__} {does} defined for {whose}")
        if self.rule.in_single:
            raise TypeError(f"{self.rule.__name__} keeps state in 8 bits, which is defined for {whose}")

    def _arrays(self, arrays: Layout, p: Array, state: Mapping[str, Any], others: set[str]) -> State:
        """Return the state arrays, those that are missing at their first values, or None if the rule makes them."""
        for name in state:
            if name not in others.union(arrays):
                raise ValueError(f"the state has {name!r}, it must be one of {sorted(others.union(arrays))}")
        kept = {}
        for name, like in arrays.items():
            if state.get(name) is None:
                kept[name] = None if like.first is None else _begun(name, like, p)
            else:
                kept[name] = operand(f"the state {name}", state[name], self.home)
                check_fit(f"the state {name}", kept[name], like.shape, like.dtype or p.dtype)
        return kept

    def _record(self, scalars: Scalars, dtype: DType) -> Record:
        """Return the record of the step; what is only traced counts as small enough for its type."""
        if self.home is None:
            return fitting(self.rule, self.h, scalars, dtype)
        followed = {name: x for name, x in scalars.items() if isinstance(x, Followed)}
        values = {name: 1.0 if x.value is None else x.value for name, x in followed.items()}
        s = fitting(self.rule, self.h, {**scalars, **values}, dtype)
        s.__dict__.update((name, rounded(x, arithmetic(dtype))) for name, x in followed.items())
        return s


def operand(name: str, x: Any, home: Namespace | None) -> Array:
    """Return an array of a library that rules can take; raise TypeError otherwise."""
    if type(x) is np.ndarray and home is None:
        return x
    x = array_again(x)
    if not _is_dense(x) or (home is None and library(x) is not None):
        raise TypeError(
            f"{name} must be an array that understands NumPy's functions, or one of torch, JAX, autograd or the "
            f"array API, got {type(x).__name__}"
        )
    if home is None:
        return np.asarray(x) if isinstance(x, np.ndarray) else x
    if not home.has(x):
        raise TypeError(f"{name} must belong to {home.name}, as other arrays do, got {type(x).__name__}")
    return Foreign(home.asarray(x), home)


def check_fit(name: str, x: Array, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise TypeError or ValueError unless an array has a shape and a dtype."""
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
    if x.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {x.dtype}")


def _begun(name: str, like: Kept, p: Array) -> Array:
    """Make a state array of a parameter."""
    if not isinstance(p, Foreign):
        return begun(name, like, p)
    fill = like.first
    check_number(f"the first {name}", fill, storage(p.dtype))
    zeros = as_reals(p).zeros()
    return from_reals(zeros + rounded(fill, zeros.dtype) if fill else zeros, p.dtype)


def handed_back(x: Any) -> Any:
    """Return an array, or a number that is followed, as an array of its library."""
    return x.array if isinstance(x, (Foreign, Followed)) else x


def home_of(params: Iterable[Any], others: Iterable[Any]) -> Namespace | None:
    """Return the library of the first parameter that has one.

    NumPy's parameters beside other arrays and settings that JAX or autograd follow count as theirs.
    """
    for x in params:
        own = None if type(x) is np.ndarray else library(x)
        if own is not None:
            return own
    for x in others:
        own = None if type(x) in PLAIN else library(x)
        if own is not None and own.has(BESIDE) and own.follows(x):
            return own
    return None


PLAIN = (np.ndarray, float, int, bool, np.float32)
"""Types that belong to no library."""

BESIDE = np.empty(0)
"""An array of NumPy, to be asked whether it can stand beside those of a library."""


def _is_dense(x: Any) -> bool:
    """Tell whether ``x`` is an array of some library, and not a masked one."""
    known = library(x) is not None or hasattr(type(x), "__array_ufunc__")
    return known and not isinstance(x, np.ma.MaskedArray)


def library(x: Any) -> Namespace | None:
    """Return the library of an array, None for NumPy's and for what is no array."""
    if not hasattr(x, "shape"):
        return None
    try:
        return namespace_of(x)
    except TypeError:
        return None


def followed(name: str, x: Any, home: Namespace | None) -> Any:
    """Return a number, or a tuple of some, that a library follows as such, and anything else as it is.

    Raises:
        TypeError: the number is differentiated or traced by another library than that of the arrays, ``home``.
    """
    if type(x) in PLAIN:
        return x
    if isinstance(x, (tuple, list)):
        return tuple(followed(f"{name}[{i}]", each, home) for i, each in enumerate(x))
    own = library(x)
    if own is not None and own is home:
        return lifted(name, x, own)
    if own is not None and own.differentiates(x):
        whose = "NumPy" if home is None else home.name
        raise TypeError(f"{name} belongs to {own.name} and cannot be followed through arrays of {whose}")
    return x


def followed_register(name: str, x: Any, home: Namespace | None) -> Any:
    """Return a number of a state or a record that a library follows as such, in its own type."""
    number = followed(name, x, home)
    return number.astype(dtype_of(x.dtype)) if isinstance(number, Followed) else number
