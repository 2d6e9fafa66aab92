"""Parameter: an array and its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from weakref import ref

import numpy as np

from ..numerics.arith import Array, DType, storage
from ..numerics.array_types import check_together, is_array, is_writable, place, plain
from ..numerics.libraries import ANY, library_of, telling, viewed
from .changes import Change
from .sparse import SparseGrad, as_sparse


class _Keepers(list[Any]):
    """Weak references that copies and pickles leave out: a copy of a Parameter is not its optimizers'."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Keepers, ()


class Parameter:
    """An array to be optimized in place, and its gradient.

    Args:
        data: a NumPy or CuPy array, a tensor of torch, or anything that hands over its memory by DLPack, of dtype
            float16, bfloat16, float32, float64, complex64 or complex128. It is kept, not copied, and an optimizer
            writes into it. What such a tensor holds as its ``grad`` is the gradient unless another one is set here.
        grad: the gradient of the loss with respect to ``data``, of the same shape and dtype, dense or sparse, and on
            the same device. A NumPy scalar counts as an array without axes. With a master copy it may be float32 too,
            and is taken as it is.
        name: a name for messages and state dicts.
        master: keep a float32 copy of 16-bit data in the state of the optimizer, under the name ``master``: the rule
            updates the copy, all its state is float32, and ``data`` is the copy rounded. What is written into ``data``
            by others than the optimizer is lost in the next step.

    Raises:
        TypeError: ``data`` is no array, or its dtype is not one of those above.
        ValueError: ``data`` is read-only, or elements of it share memory; ``master`` is True and ``data`` has not 16
            bits.
        TypeError, ValueError, RuntimeError: ``grad`` does not fit ``data``; one that is set later is checked in the
            next step.
    """

    __slots__ = ("__weakref__", "_optimizers", "data", "grad", "master", "name")

    def __new__(cls, data: Any = None, *args: Any, **kwargs: Any) -> Parameter:
        library = library_of(data) if cls is Parameter else None
        borrowed = library is not None and (library is not ANY or hasattr(data, "grad"))
        return object.__new__(Borrowed if borrowed else cls)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, array_again(value) if name in ("data", "grad") else value)

    def __init__(self, data: Array, grad: Any = None, name: str | None = None, *, master: bool = False) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, got {name!r}")
        library = library_of(data)
        if library is not None:
            library.check(data)
        self._hold(data)
        storage(self.data.dtype)
        check_writable(self.data)
        check_no_overlap("one of the params", self.data)
        if grad is not None:
            as_gradient(grad, self.data, master)
        if not isinstance(master, bool):
            raise TypeError(f"master must be True or False, got {master!r}")
        if master and self.data.dtype.itemsize != 2:
            raise ValueError(f"master=True keeps a float32 copy of 16-bit data, but the data has dtype {self.dtype}")
        self.grad = grad
        self.name = name
        self.master = master
        self._optimizers = _Keepers()

    def _hold(self, data: Any) -> None:
        self.data = as_array(data)

    def holding(self, data: Array) -> Change:
        """Return what gives this parameter an array."""
        return partial(object.__setattr__, self, "data", data)

    def forgetting(self) -> list[Change]:
        """Return what makes this parameter hold no gradient."""
        return [partial(object.__setattr__, self, "grad", None)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the array, as ``numpy.asarray(p)`` does: a copy where another dtype or a copy is asked for.

        Raises:
            ValueError: ``copy`` is False and ``dtype`` another one.
            TypeError: the array is CuPy's, which is not copied to the host unasked.
        """
        return np.array(self.data, dtype, copy=copy)

    def belonging_to(self, optimizer: Any) -> Change:
        """Return what remembers an optimizer, as long as it lives: it may keep the master copy."""
        living = (x for x in self._optimizers if x() not in (None, optimizer))
        return partial(object.__setattr__, self, "_optimizers", _Keepers([*living, ref(optimizer)]))

    def master_copy(self) -> Array | None:
        """Return the float32 copy that the newest optimizer keeps which has one of this parameter, None if none has."""
        optimizers = [optimizer for keeper in self._optimizers if (optimizer := keeper()) is not None]
        copies = [optimizer.state.get(self, {}).get("master") for optimizer in optimizers]
        x: Any = next((x for x in reversed(copies) if x is not None), None)
        fits = is_array(x) and place(x) == place(self.data) and (x.shape, x.dtype.name) == (self.shape, "float32")
        return x if fits else None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> DType:
        """The dtype of the array."""
        dtype: DType = self.data.dtype
        return dtype

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"Parameter(shape={self.shape}, dtype={self.dtype}{name})"


class Borrowed(Parameter):
    """A Parameter made of another library's array that has a gradient of its own, such as a tensor of torch.

    ``data`` looks at the memory that the array has at the moment; the array may be given other memory, as moving or
    loading a module does, but no other shape or dtype. ``grad`` is the gradient set here, else the one the array holds.

    Attributes:
        source: the array.
    """

    __slots__ = ("_grad", "_library", "_seen", "_view", "source")

    def _hold(self, data: Any) -> None:
        library: Any = library_of(data)
        self.source, self._library, self._grad = data, library, None
        self._view, self._seen = as_array(data), library.where(data)

    @property
    def data(self) -> Array:
        """The array of NumPy or CuPy that shares the memory of the other library's."""
        seen = self._library.where(self.source)
        if seen != self._seen:
            self._look_again(seen)
        return self._view

    @data.setter
    def data(self, value: Any) -> None:
        raise AttributeError(f"the data of this Parameter are those of a {type(self.source).__name__}: change that")

    def _look_again(self, seen: Any) -> None:
        x, before = as_array(self.source), self._view
        if (x.shape, x.dtype, place(x)) != (before.shape, before.dtype, place(before)):
            raise ValueError(
                f"a parameter must keep its shape, dtype and device, {before.shape} {before.dtype} {place(before)}, "
                f"but it has now {x.shape} {x.dtype} {place(x)}: make a new optimizer"
            )
        self._view, self._seen = x, seen

    @property
    def grad(self) -> Any:
        """The gradient."""
        return self._library.gradient(self.source) if self._grad is None else self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        self._grad = value

    def holding(self, data: Array) -> Change:
        """Return what lets this parameter look at the array again that it looked at."""
        return partial(object.__setattr__, self, "_view", data)

    def forgetting(self) -> list[Change]:
        """Return what makes neither this parameter nor the array hold a gradient."""
        return [partial(object.__setattr__, self, "_grad", None), *self._library.forgetting(self.source)]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Parameter, master=self.master), (self.source, self._grad, self.name)


def told(params: Iterable[Parameter]) -> list[Change]:
    """Return what tells other libraries that the arrays of parameters were written to."""
    return telling([p.source for p in params if isinstance(p, Borrowed)])


def borrowed(groups: Iterable[Any]) -> Iterator[Any]:
    """Yield the arrays of other libraries among the parameters of groups, as far as these are groups."""
    for group in groups:
        params = group.get("params") if isinstance(group, dict) else ()
        yield from (p.source for p in params if isinstance(p, Borrowed)) if isinstance(params, (list, tuple)) else ()


def array_again(x: Any) -> Any:
    """Return a NumPy scalar, which NumPy makes of arrays without axes, as such an array, and anything else as it is."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def as_array(x: Any) -> Array:
    """Return the NumPy or CuPy array that ``x`` is, or that shares the memory it hands over; or raise TypeError."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("a masked array cannot be optimized: pass its data and mask the gradient")
    if is_array(x):
        return x
    view = viewed(x)
    if view is not None:
        return view
    raise TypeError(f"optimizer can only optimize arrays, but one of the params is {type(x).__name__}")


def as_gradient(grad: Any, data: Array, master: bool = False) -> Any:
    """Return a gradient that fits ``data``: a plain array beside it, or a SparseGrad of such; raise if it does not.

    It may be float32 where there is a ``master`` copy in float32 of 16-bit data.
    """
    grad = _as_gradient(grad)
    if type(grad) is not np.ndarray or type(data) is not np.ndarray:
        values = grad.values if isinstance(grad, SparseGrad) else grad
        check_together("the gradient", values, "the parameter", data)
    if grad.shape != data.shape:
        raise ValueError(f"the gradient must have shape {data.shape}, got {grad.shape}")
    if grad.dtype != data.dtype and not (master and grad.dtype == np.float32):
        choice = f"{data.dtype} or float32" if master else str(data.dtype)
        raise TypeError(f"the gradient must have dtype {choice}, got {grad.dtype}")
    return grad


def _as_gradient(grad: Any) -> Any:
    """Return a gradient of any shape and dtype as a plain array or a SparseGrad."""
    if type(grad) is np.ndarray:
        return grad
    if isinstance(grad, np.ma.MaskedArray):
        raise TypeError("the gradient must not be a masked array: fill what is masked")
    grad = array_again(grad)
    if place(grad) is not None:
        return plain(grad)
    sparse = as_sparse(grad)
    if sparse is not None:
        return sparse
    view = viewed(grad)
    if view is None:
        raise TypeError(f"the gradient must be an array, got {type(grad).__name__}")
    return view


def is_one_array(x: Any) -> bool:
    """Tell whether ``x`` is an array, perhaps a sparse one, where a collection of arrays is expected."""
    return hasattr(x, "__array__") or hasattr(x, "tocoo")


def overlaps_itself(x: Array) -> bool:
    """Tell whether elements of ``x`` may share memory: along each axis the step must pass over all smaller steps."""
    reach = x.itemsize
    for step, n in sorted((abs(step), n) for step, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if x.size and step < reach:
            return True
        reach += step * (n - 1)
    return False


def check_no_overlap(name: str, x: Array) -> None:
    """Raise ValueError if elements of the array ``x`` share memory."""
    if not (x.flags.c_contiguous or x.flags.f_contiguous) and overlaps_itself(x):
        raise ValueError(
            f"optimizer can only optimize arrays whose elements do not share memory, but {name} has shape {x.shape} "
            f"and strides {x.strides}"
        )


def check_writable(x: Array) -> None:
    """Raise ValueError if the array ``x`` cannot be written to."""
    if not is_writable(x):
        raise ValueError("optimizer can only optimize writable arrays, but one of the params is read-only")


def as_parameter(x: Any) -> Parameter:
    """Wrap an array in a Parameter; return a Parameter as it is."""
    return x if isinstance(x, Parameter) else Parameter(x)
