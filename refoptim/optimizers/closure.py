"""What the optimizers that call a closure have in common.

They see all parameters as one flat vector of reals, evaluate the closure several times in a step, and keep their state
with the first parameter. A step is all or nothing: if an evaluation fails, everything is as it was before the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from operator import setitem
from reprlib import repr as short
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from .. import engines
from ..engines.twins import kernels_on
from ..engines.workspace import UNFINISHED
from ..numerics.arith import Array, DType, arithmetic, as_reals, storage
from ..numerics.array_types import at, check_together, copied, place, plain
from ..numerics.libraries import on_their_streams
from ..step import hyper as hp
from ..step import state_dict as states
from ..step.changes import Change, make, there
from ..step.given import in_order, loss_and_gradients
from ..step.groups import Group, check_once
from ..step.limits import check_number
from ..step.parameter import Parameter, borrowed, check_writable, told
from ..step.plan import checked_gradient, gradients, label
from ..step.rule import Hypers, resolve
from ..step.scaling import Scaling
from ..step.sparse import SparseGrad
from ..step.state_dict import StateDict
from .base import Closure, Optimizer
from .line_search import Point, strong_wolfe
from .vector import Number, gathered, largest, move, negated, sum_absolute

MaxIter = Annotated[int, hp.Count("the largest number of iterations in a step", interval=hp.Interval("[1, inf)"))]
ToleranceGrad = Annotated[hp.Scalar, hp.Real("a gradient with no larger element ends the step")]
ToleranceChange = Annotated[hp.Scalar, hp.Real("a smaller change of the loss, or of every parameter, ends the step")]
LineSearch = Annotated[
    str | None,
    hp.Choice(
        "how the length of a move is found; None takes lr",
        optional=True,
        options=("strong_wolfe",),
        stem="only 'strong_wolfe' is supported, got {value!r}",
    ),
]


class Extent(NamedTuple):
    """The number of reals of all parameters, their dtype, and one array that lies where they do."""

    n: int
    dtype: DType
    beside: Array


Reader: TypeAlias = Callable[[Any, Extent, str], Any]
"""Checks and copies one entry of a saved state for parameters of an extent; the text names it in messages."""


def count(value: Any, extent: Extent, where: str) -> int:
    """Read a count."""
    return states.step_count(value, where)


def vector(value: Any, extent: Extent, where: str) -> Array:
    """Read a vector of all elements."""
    return states.array_like(value, (extent.n,), extent.dtype, where, extent.beside)


def real(value: Any, extent: Extent, where: str) -> Number:
    """Read a number: a NumPy scalar if it comes in the dtype of the parameters, else a Python number."""
    x = np.asarray(states.of_numpy(value, where))
    if x.ndim or x.dtype.kind not in "fiu":
        raise ValueError(f"{where} must be a real number, got {value!r}")
    return x.dtype.type(x) if hasattr(value, "dtype") and x.dtype == extent.dtype else x.item()


def several(reader: Reader) -> Reader:
    """Return what reads a list of entries, or an array that stacks them."""

    def read(value: Any, extent: Extent, where: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) and not getattr(value, "shape", None):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return [reader(x, extent, f"{where} item {i},") for i, x in enumerate(states.of_numpy(value, where))]

    return read


@dataclass
class Progress:
    """The state of an optimizer between two steps; None is a value that does not exist yet."""

    func_evals: int = 0
    n_iter: int = 0
    d: Array | None = None
    t: Number | None = None
    prev_flat_grad: Array | None = None
    prev_loss: float | None = None

    def kept(self) -> dict[str, Any]:
        """Return what an optimizer keeps: before the first iteration the two counts, then all that exists."""
        names = vars(self) if self.n_iter else ("func_evals", "n_iter")
        return {name: x for name in names if (x := getattr(self, name)) is not None}


class Objective:
    """The loss as a function of the parameters, all of them seen as one flat vector of reals (complex are pairs).

    Args:
        group: the group of the parameters.
        closure: computes the loss and sets the gradients, or returns both.
        maximize: turns the loss and its gradient round.

    Attributes:
        evals: how often the closure has been called.
        first: the loss that it returned the first time.
    """

    def __init__(self, group: Group, closure: Closure, maximize: bool) -> None:
        self.group, self.closure, self.maximize = group, closure, maximize
        self.params: list[Parameter] = list(group["params"])
        self.evals = 0
        self.first: Any = None
        self._start = [change for p in self.params for change in _returning(p)]
        self._errors = np.geterr()

    def evaluate(self) -> tuple[float, Array]:
        """Call the closure; return the loss and the gradient where the parameters are.

        Raises:
            TypeError, ValueError: the closure did not return one real number, or a gradient does not fit.
        """
        with np.errstate(**self._errors), kernels_on(None):
            value, grads = loss_and_gradients(self.closure())
        self.first = value if not self.evals else self.first
        self.evals += 1
        loss, g = real_loss(value), self._gradient(grads)
        return (-loss, negated(g)) if self.maximize else (loss, g)

    def _gradient(self, grads: Any) -> Array:
        """Join the gradients of all parameters: those given, or those that they hold."""
        parts = gradients([self.group], in_order([self.group], grads))[0]
        pairs = zip(self.params, parts, strict=True)
        return gathered([_reals(self._part(j, *pair)) for j, pair in enumerate(pairs)])

    def _part(self, j: int, p: Parameter, grad: Any) -> Array:
        """Return the gradient of one parameter as an array; one that is missing is zero."""
        if grad is None:
            return np.zeros_like(p.data)
        try:
            grad = checked_gradient(p, grad, set())
        except (TypeError, ValueError) as error:
            raise type(error)(f"{label(0, j, p)}: {error}") from None
        return grad.to_dense() if isinstance(grad, SparseGrad) else grad

    def position(self) -> Array:
        """Return the parameters, copied into one vector."""
        return gathered([_reals(p.data) for p in self.params])

    def move(self, d: Array, t: Number, origin: Array | None = None) -> None:
        """Put the parameters ``t`` times ``d`` away from ``origin``, or from where they are."""
        move([_reals(p.data) for p in self.params], d, t, origin)

    def restoring(self) -> list[Change]:
        """Return what puts the parameters back to where they were in the beginning."""
        return there(place(self.params[0].data), self._start)


def _returning(p: Parameter) -> list[Change]:
    """Return what gives a parameter its array and the array its values of now."""
    return [partial(setitem, plain(p.data), ..., copied(p.data)), p.holding(p.data)]


def _reals(x: Array) -> Array:
    """View an array, of a subclass of NumPy's perhaps, as a plain one of reals."""
    return x if type(x) is np.ndarray and x.dtype.kind == "f" else as_reals(plain(x))


def real_loss(value: Any) -> float:
    """Return what a closure returned, one real number or an array that holds one, as a float."""
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) != 1:
        raise ValueError(f"the closure must return the loss, one real number, got an array of shape {tuple(shape)}")
    x = value if shape is None else value.item()
    if not hp.is_number(x, Real):
        raise TypeError(f"the closure must return the loss, one real number, got {value!r}")
    return float(x)


def first_length(g: Array, lr: float) -> Number:
    """The length of the very first move: lr, shortened so that no more than lr is moved in all."""
    return min(1.0, 1.0 / sum_absolute(g)) * lr


def travel(f: Objective, start: Point, d: Array, t: Number, **search: Any) -> Point:
    """Move the parameters along ``d`` by a step that a strong Wolfe search finds, and return the point reached."""
    origin = f.position()

    def along(t: Number) -> tuple[float, Array]:
        f.move(d, t, origin)
        return f.evaluate()

    end = strong_wolfe(along, d, start, t, **search)
    f.move(d, end.t, origin)
    return end


def jump(f: Objective, start: Point, d: Array, t: Number, last: bool) -> Point:
    """Move the parameters by ``t`` times ``d``; what is found there is evaluated unless this move is the last."""
    f.move(d, t)
    return Point(t, start.f, start.g, start.slope) if last else Point(t, *f.evaluate(), start.slope)


def arrived(h: Hypers, d: Array, start: Point, end: Point) -> bool:
    """Tell whether the gradient is small enough, or the last move was."""
    steepest, longest = largest(end.g, d)
    return bool(
        steepest <= h.tolerance_grad
        or longest * abs(end.t) <= h.tolerance_change
        or abs(end.f - start.f) < h.tolerance_change
    )


class ClosureOptimizer(Optimizer):
    """Base of the optimizers that call a closure; a room says how it chooses a direction and what its state is.

    All parameters stand in one group and have one real dtype, float32 or float64; complex64 and complex128 count as
    pairs of these. A missing gradient counts as zero, a sparse one as dense.
    """

    progress: ClassVar[type[Progress]] = Progress
    """The state between two steps."""

    readers: ClassVar[dict[str, Reader]] = {
        "func_evals": count,
        "n_iter": count,
        "d": vector,
        "t": real,
        "prev_flat_grad": vector,
        "prev_loss": real,
    }
    """How each entry of a saved state is checked and copied."""

    spare: ClassVar[frozenset[str]] = frozenset()
    """Entries that a saved state may lack."""

    @classmethod
    def limit(cls, h: Hypers) -> float:
        """Return the number of evaluations that ends a step."""
        raise NotImplementedError

    @classmethod
    def search(cls, h: Hypers, left: float) -> dict[str, Any]:
        """Return the settings of a line search that should make no more than ``left`` evaluations."""
        raise NotImplementedError

    @classmethod
    def aim(cls, h: Hypers, s: Any, loss: float, g: Array) -> Point:
        """Set the direction ``s.d`` and the first length ``s.t`` of a move; return the point where it starts."""
        raise NotImplementedError

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if storage(dtype).itemsize == 2:
            raise TypeError(
                f"{cls.__name__} does not support 16-bit parameters, in which its dot products lose the curvature: "
                f"{where} must have dtype float32, float64, complex64 or complex128, got {dtype}"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the one group that there can be.

        Raises:
            TypeError, ValueError: there is a group already, or this one is wrong. Nothing is added then.
        """
        if self.param_groups:
            name = type(self).__name__
            raise ValueError(f"{name} doesn't support per-parameter options (parameter groups): pass one group only")
        super().add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        self._parameters(group)

    def _parameters(self, group: Group) -> list[Parameter]:
        """Return the parameters of a group, or raise if they cannot be one vector that is written to."""
        name, params = type(self).__name__, group["params"]
        if any(other is not group for other in self.param_groups):
            raise ValueError(f"{name} doesn't support per-parameter options (parameter groups): leave one group only")
        check_once([group])
        if not params:
            raise ValueError(f"{name} needs at least one parameter, got none")
        for j, p in enumerate(params):
            self.check_parameter(label(0, j, p), p.shape, p.dtype)
            check_writable(p.data)
            check_together(label(0, j, p), p.data, label(0, 0, params[0]), params[0].data)
        dtypes = {arithmetic(p.dtype).name for p in params}
        if len(dtypes) > 1:
            raise TypeError(f"all parameters of {name} must have one real dtype, got {', '.join(sorted(dtypes))}")
        return list(params)

    def _advance(
        self,
        closure: Closure | None,
        grads: Iterable[Any] | None,
        scaling: Scaling,
        estimates: Iterable[Any] | None = None,
    ) -> Any:
        closure = self._checked(closure, grads, scaling)
        with self._alone(), on_their_streams(borrowed(self.param_groups)):
            return self._iterate(closure)

    def _iterate(self, closure: Closure) -> Any:
        """Minimize and keep the state; put everything back if something is raised meanwhile."""
        params = self._parameters(self.param_groups[0])
        h, s = resolve(type(self), self.param_groups[0]), self._recall(params)
        check_number("lr", h.lr, arithmetic(params[0].dtype), h)
        where = place(params[0].data)
        machine = engines.machine(type(self), self.param_groups[0], where)
        f = Objective(self.param_groups[0], closure, h.maximize)
        whole = partial(setattr, self, "_torn", [])
        try:
            self._torn = [UNFINISHED]
            with at(where), kernels_on(machine), np.errstate(all="ignore"):
                self._minimize(h, s, f)
            s.func_evals += f.evals
            make([*told(params), partial(setitem, self.state, params[0], s.kept()), *self._also, whole])
        except BaseException:
            if self._torn:
                make([*f.restoring(), whole])
            raise
        return f.first

    def _minimize(self, h: Hypers, s: Any, f: Objective) -> None:
        """Iterate: choose a direction, move along it, look whether the step is over."""
        loss, g = f.evaluate()
        if largest(g)[0] <= h.tolerance_grad:
            return
        for k in range(1, h.max_iter + 1):
            start = self.aim(h, s, loss, g)
            if start.slope > -h.tolerance_change:
                break
            if h.line_search_fn:
                end = travel(f, start, s.d, s.t, **self.search(h, self.limit(h) - f.evals))
            else:
                end = jump(f, start, s.d, s.t, last=k == h.max_iter)
            loss, g, s.t = end.f, end.g, end.t
            if f.evals >= self.limit(h) or arrived(h, s.d, start, end):
                break

    def _checked(self, closure: Closure | None, grads: Iterable[Any] | None, scaling: Scaling) -> Closure:
        name = type(self).__name__
        if scaling.grad_scale is not None or scaling.found_inf is not None:
            raise TypeError(f"{name} takes no grad_scale and no found_inf: its closure returns the loss as it is")
        if grads is not None:
            raise TypeError(f"{name} takes no grads: a step evaluates its closure more than once")
        if closure is None:
            raise TypeError(f"{name}.step() missing 1 required positional argument: 'closure'")
        return closure

    def _recall(self, params: Sequence[Parameter]) -> Any:
        """Return the state before a step, or raise if it is not one of these parameters."""
        s = self.progress(**self.state.get(params[0], {}))
        n, dtype, _ = _extent(params)
        if s.d is not None and (s.d.shape != (n,) or s.d.dtype != dtype):
            raise ValueError(
                f"the state of {type(self).__name__} must fit {n} elements of {dtype}, "
                f"got {s.d.size} elements of {s.d.dtype}"
            )
        return s

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a copy of a saved state; where both sides have names, they must be in the same order.

        Raises:
            ValueError: the state is not one of this optimizer or of these parameters. Nothing has changed then.
        """
        with self.register_load_state_dict_pre_hook(_check_order):
            super().load_state_dict(state_dict)

    def _read_state(self, group: Group, p: Parameter, values: dict[str, Any], where: str) -> dict[str, Any]:
        stem = f"loaded state dict is not one of {type(self).__name__}: {where}"
        given = {name: x for name, x in values.items() if x is not None}
        for name in given:
            if name not in self.readers or p is not group["params"][0]:
                raise ValueError(f"{stem} has {name!r}")
        read = {name: self.readers[name](x, _extent(group["params"]), f"{where}, {name},") for name, x in given.items()}
        needed = set(self.readers) - self.spare if read.get("n_iter") else {"func_evals", "n_iter"}
        missing = sorted(needed - set(read))
        if read and missing:
            raise ValueError(f"{stem} lacks {missing[0]!r}")
        return read


def _extent(params: Sequence[Parameter]) -> Extent:
    """Return what the vectors of all parameters have in common."""
    return Extent(sum(as_reals(p.data).size for p in params), arithmetic(params[0].dtype), params[0].data)


def _check_order(optimizer: Optimizer, loaded: StateDict) -> None:
    """Raise ValueError if a state dict names the parameters in another order: its vectors cannot be permuted."""
    saved = loaded.get("param_groups") if isinstance(loaded, Mapping) else None
    names = optimizer.param_groups[0].get("param_names")
    if names and isinstance(saved, (list, tuple)) and saved and isinstance(saved[0], Mapping):
        other = saved[0].get("param_names", names)
        listed = isinstance(other, (list, tuple)) and all(isinstance(x, str) for x in other)
        if listed and list(other) != names:  # what are no names is refused where it is read
            raise ValueError(
                f"loaded state dict names other parameters, or in another order: {short(other)}, expected {names}"
            )
