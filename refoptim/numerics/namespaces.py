"""Arrays of other libraries in the words: what each library calls the functions that the words are made of.

A library is found by the types of what is loaded; nothing is imported. Two functions are not what their names say, and
are put right here, so that a word is one IEEE-754 operation there too: torch's root on a CPU is not correctly rounded,
and JAX, like torch elsewhere than on a CPU, divides by a scalar by multiplying by its reciprocal.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from .arith import FLOATS, Array, DType
from .libraries import bfloat16


class Namespace:
    """A library by the functions of the array API standard, which has no derivatives."""

    def __init__(self, xp: Any, name: str) -> None:
        self.xp, self.name = xp, name

    def has(self, x: Any) -> bool:
        """Tell whether an array belongs to the library, or can stand beside its arrays."""
        return namespace_of(x) is self

    def asarray(self, x: Any) -> Array:
        """Return an array that can stand beside those of the library as one of them."""
        return x

    def astype(self, x: Array, dtype: DType) -> Array:
        """Return an array in the type of the same name."""
        return self.xp.astype(x, getattr(self.xp, dtype.name))

    def copy(self, x: Array) -> Array:
        """Return an array that shares no memory with ``x``."""
        return self.xp.asarray(x, copy=True)

    def divide(self, x: Any, y: Any) -> Array:
        """Return x / y, rounded once."""
        return x / y

    def sqrt(self, x: Array) -> Array:
        """Return the correctly rounded root."""
        return self.xp.sqrt(x)

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        """Choose between arrays, of which one may be a number."""
        like = y if hasattr(y, "dtype") else x
        return self.xp.where(condition, *(z if hasattr(z, "dtype") else self.xp.full_like(like, z) for z in (x, y)))

    def complex(self, real: Array, imag: Array) -> Array:
        """Put a complex array together of its parts."""
        raise TypeError(f"complex arrays of {self.name} are not supported: give their real and imaginary parts")

    def follows(self, x: Any) -> bool:
        """Tell whether the library follows a number: to differentiate by it, or to trace what is computed of it."""
        return False

    def differentiates(self, x: Any) -> bool:
        """Tell whether something would be lost if a number were taken for its value."""
        return self.follows(x)

    def scalar(self, x: Any) -> Array:
        """Return a number that the library follows without axes, in the widest type."""
        return x

    def constant(self, x: Array) -> Array:
        """Return an array whose derivative is zero."""
        return x

    def value(self, x: Array) -> float | None:
        """Return the number that an array holds, None while it is only traced."""
        return float(x)


class Torch(Namespace):
    """torch."""

    def astype(self, x: Array, dtype: DType) -> Array:
        return x.to(getattr(self.xp, dtype.name))

    def copy(self, x: Array) -> Array:
        return x.clone()

    def divide(self, x: Any, y: Any) -> Array:
        exact = not hasattr(x, "device") or x.device.type == "cpu" or getattr(y, "ndim", 0)
        return x / y if exact else x / self.xp.zeros_like(x).add(y)

    def sqrt(self, x: Array) -> Array:
        """Narrower types take the root of a double, whose last bit does not matter; a double takes NumPy's."""
        root = x.sqrt()
        if x.device.type != "cpu":
            return root
        if x.dtype is not self.xp.float64:
            return x.double().sqrt().to(x.dtype)
        try:
            exact = self.xp.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))
        except RuntimeError:  # vmap and its like have no memory to look at
            return root
        return self.xp.where(root == exact, root, root + (exact - root.detach()))

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        return self.xp.where(condition, x, y)

    def complex(self, real: Array, imag: Array) -> Array:
        return self.xp.complex(real, imag)

    def follows(self, x: Any) -> bool:
        return bool(x.is_floating_point())

    def differentiates(self, x: Any) -> bool:
        return bool(x.requires_grad)

    def scalar(self, x: Any) -> Array:
        return x.reshape(()).double()

    def constant(self, x: Array) -> Array:
        return x.detach()

    def value(self, x: Array) -> float | None:
        try:
            return float(x.item())
        except RuntimeError:
            return None


class Jax(Namespace):
    """JAX."""

    def has(self, x: Any) -> bool:
        return isinstance(x, np.ndarray) or super().has(x)

    def asarray(self, x: Any) -> Array:
        return self.xp.asarray(x)

    def astype(self, x: Array, dtype: DType) -> Array:
        return x.astype(sys.modules["jax"].dtypes.canonicalize_dtype(dtype))  # without 64 bits the widest there is

    def copy(self, x: Array) -> Array:
        return x  # nothing can change it

    def divide(self, x: Any, y: Any) -> Array:
        return x / (self.xp.full_like(x, y) if hasattr(x, "dtype") and not np.ndim(y) else y)

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        return self.xp.where(condition, x, y)

    def complex(self, real: Array, imag: Array) -> Array:
        return sys.modules["jax"].lax.complex(real, imag)

    def follows(self, x: Any) -> bool:
        return isinstance(x, sys.modules["jax"].core.Tracer)

    def scalar(self, x: Any) -> Array:
        return self.xp.asarray(x, float).reshape(())

    def constant(self, x: Array) -> Array:
        return sys.modules["jax"].lax.stop_gradient(x)

    def value(self, x: Array) -> float | None:
        """What is differentiated eagerly holds its value; what is compiled or vectorized has none."""
        while self.follows(x):
            x = getattr(x, "primal", None)
        return None if x is None else float(x)


class Autograd(Namespace):
    """autograd, whose boxes stand among NumPy's arrays."""

    def has(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic)) or super().has(x)

    def astype(self, x: Array, dtype: DType) -> Array:
        return x.astype(dtype)

    def copy(self, x: Array) -> Array:
        return x + self.xp.zeros_like(x) if self.follows(x) else x.copy()

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        return self.xp.where(condition, x, y)

    def follows(self, x: Any) -> bool:
        return not isinstance(x, (np.ndarray, np.generic))

    def scalar(self, x: Any) -> Array:
        return self.xp.reshape(x, ()) * 1.0

    def constant(self, x: Array) -> Array:
        return sys.modules["autograd.tracer"].getval(x)

    def value(self, x: Array) -> float | None:
        return float(self.constant(x))


LIBRARIES: dict[str, tuple[str, str, type[Namespace]]] = {
    "torch": ("torch", "Tensor", Torch),
    "jax.numpy": ("jax", "Array", Jax),
    "autograd.numpy": ("autograd.numpy.numpy_boxes", "ArrayBox", Autograd),
}
"""By the module with a library's functions: the module and the name of the type of its arrays, and what is made."""


@cache
def _namespace(module: str) -> Namespace:
    return LIBRARIES[module][2](import_module(module), module.partition(".")[0])


@cache
def _standard(module: Any) -> Namespace:
    return Namespace(module, module.__name__)


def namespace_of(x: Any) -> Namespace | None:
    """Return the library of an array, None if NumPy's functions take it; raise TypeError if it is no array."""
    if isinstance(x, (np.ndarray, np.generic)):
        return None
    for name, (module, kind, _) in LIBRARIES.items():
        known = getattr(sys.modules.get(module), kind, None)
        if known is not None and isinstance(x, known):
            return _namespace(name)
    if getattr(type(x), "__array_ufunc__", None) is not None:
        return None
    if hasattr(x, "__array_namespace__"):
        return _standard(x.__array_namespace__())
    raise TypeError(f"got {type(x).__name__}")


def dtype_of(dtype: Any) -> DType:
    """Return NumPy's type of the same name as a library's; raise TypeError if it has none."""
    return dtype if isinstance(dtype, np.dtype) else _dtype(dtype)


@cache
def _dtype(dtype: Any) -> DType:
    name = str(dtype).rpartition(".")[2]
    try:
        return bfloat16() if name == "bfloat16" else np.dtype(name)
    except TypeError:
        if name == "bfloat16":
            raise
        raise TypeError(f"dtype {dtype} is not supported: choose one of {', '.join(FLOATS)}") from None


class Foreign(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another library, which understands NumPy's functions as far as the words use them."""

    __slots__ = ("array", "namespace")

    def __init__(self, array: Array, namespace: Namespace) -> None:
        self.array, self.namespace = array, namespace

    @property
    def dtype(self) -> DType:
        """NumPy's type of the same name."""
        return dtype_of(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.array.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def _new(self, array: Array) -> Foreign:
        return Foreign(array, self.namespace)

    def reshape(self, shape: Any) -> Foreign:
        """Return the elements in another shape."""
        return self._new(self.namespace.xp.reshape(self.array, shape if isinstance(shape, tuple) else (shape,)))

    def astype(self, dtype: Any) -> Foreign:
        """Return the elements rounded to another type."""
        return self._new(self.namespace.astype(self.array, np.dtype(dtype)))

    def copy(self) -> Foreign:
        """Return an array that shares no memory with this one."""
        return self._new(self.namespace.copy(self.array))

    def view(self, dtype: DType) -> Foreign:
        """Return complex numbers as pairs of reals, or such pairs as complex numbers, along the last axis."""
        xp, x = self.namespace.xp, self.array
        if dtype.kind == "c":
            return self._new(self.namespace.complex(x[..., 0::2], x[..., 1::2]))
        pairs = xp.stack([xp.real(x), xp.imag(x)], axis=-1)
        return self._new(xp.reshape(pairs, (*self.shape[:-1], 2 * self.shape[-1])))

    def zeros(self) -> Foreign:
        """Return an array like this one, of zeros."""
        return self._new(self.namespace.xp.zeros_like(self.array))

    def __getitem__(self, key: Any) -> Foreign:
        return self._new(self.array[key])

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Foreign:
        if method != "__call__" or "out" in options:
            raise TypeError(f"{ufunc.__name__} cannot write into arrays of {self.namespace.name}")
        operands = [_operand(x) for x in inputs]
        function = FUNCTIONS.get(ufunc)
        if ufunc is np.subtract and "dtype" in options:  # of truth values
            operands = [self.namespace.astype(x, options["dtype"]) for x in operands]
        if function is None:
            function = getattr(self.namespace, ufunc.__name__, None) or getattr(self.namespace.xp, ufunc.__name__)
        return self._new(function(*operands))

    def __array_function__(self, function: Any, types: Any, inputs: Sequence[Any], options: Any) -> Foreign:
        if function is not np.where:
            raise TypeError(f"a rule may use NumPy's elementwise functions and where, not {function.__name__}")
        return self._new(self.namespace.where(*map(_operand, inputs)))


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.negative: operator.neg,
    np.absolute: operator.abs,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.bitwise_or: operator.or_,
    np.bitwise_and: operator.and_,
    np.invert: operator.invert,
}
"""NumPy's functions that are operators of Python, which all libraries have."""


def _operand(x: Any) -> Any:
    """Return an operand as a library takes it: an array of its own, or a number of Python with the same value."""
    if isinstance(x, np.generic):
        return x.item()
    return getattr(x, "array", x)
