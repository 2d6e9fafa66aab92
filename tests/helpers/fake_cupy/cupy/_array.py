"""The array that stands for ``cupy.ndarray``, and the functions on it that this project uses."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _gpu
from ._gpu import begin_copy_to_host, begin_kernel, begin_upload, captured, world


class Flags:
    """What CuPy tells of the layout of an array; there is no ``writeable`` and no ``aligned``."""

    def __init__(self, x: Any, owndata: bool) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = x.flags.c_contiguous, x.flags.f_contiguous, owndata


class ndarray:
    """An array on a GPU that is the memory of this computer. It is no subclass of NumPy's array, on purpose."""

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        _gpu.check_device(world.current)
        world.counters.allocations += 1
        self._hold(np.zeros(shape, dtype), world.current, None)

    def _hold(self, x: Any, device: int, base: Any) -> None:
        self._x, self._device, self.base = x, device, base

    shape = property(lambda self: self._x.shape)
    dtype = property(lambda self: self._x.dtype)
    ndim = property(lambda self: self._x.ndim)
    size = property(lambda self: self._x.size)
    strides = property(lambda self: self._x.strides)
    nbytes = property(lambda self: self._x.nbytes)
    itemsize = property(lambda self: self._x.itemsize)
    flags = property(lambda self: Flags(self._x, self.base is None))
    data = property(lambda self: _gpu.MemoryPointer(self._x, self._device))
    device = property(lambda self: _gpu.Device(self._device))
    T = property(lambda self: self._view(self._x.T))
    real = property(lambda self: self._view(self._x.real))
    imag = property(lambda self: self._view(self._x.imag))

    def _view(self, x: Any) -> ndarray:
        return wrapped(x, self._device, self if self.base is None else self.base)

    def __len__(self) -> int:
        return len(self._x)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def view(self, dtype: Any = None) -> ndarray:
        return self._view(self._x.view(dtype) if dtype is not None else self._x.view())

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        x = self._x.reshape(*shape, order=order)
        if np.shares_memory(x, self._x) or not x.size:
            return self._view(x)
        return run("reshape", lambda: x, self)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._x.transpose(*axes))

    def __getitem__(self, key: Any) -> ndarray:
        key, fancy = unwrapped_key(key)
        if fancy is None:
            x = self._x[key]
            return self._view(x if isinstance(x, np.ndarray) else self._x[(*np.index_exp[key], ...)])
        if fancy == "bool":
            begin_copy_to_host()  # the host must know how many are True
        return run("take", lambda: self._x[key], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, _ = unwrapped_key(key)
        if key is ... and not isinstance(value, ndarray) and value == 0 and self._x.flags.c_contiguous:
            value = 0  # CuPy fills it with zero bytes: -0 is 0 then
        value = operand(value)
        check_current(self)

        def assign() -> None:
            with np.errstate(all="ignore"):
                self._x[key] = value

        if not captured(assign):
            begin_kernel("an assignment")
            assign()

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if not copy and self._x.dtype == dtype:
            return self
        with np.errstate(all="ignore"):
            return run("astype", lambda: self._x.astype(dtype, order=order), self)

    def copy(self, order: str = "C") -> ndarray:
        """Copy to the current GPU, from whichever."""
        begin_kernel("copy")
        return wrapped(self._x.copy(order), world.current, None)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        with _gpu.Device(self._device):
            begin_copy_to_host()
        return self._x.copy(order)

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def fill(self, value: Any) -> None:
        self[...] = value

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return run("max", lambda: np.asarray(self._x.max(axis, keepdims=keepdims)), self)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return run("min", lambda: np.asarray(self._x.min(axis, keepdims=keepdims)), self)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return run("any", lambda: np.asarray(self._x.any(axis, keepdims=keepdims)), self)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return run("all", lambda: np.asarray(self._x.all(axis, keepdims=keepdims)), self)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __array__(self, dtype: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        with _gpu.Device(self._device):
            return self.copy()

    def __reduce__(self) -> Any:
        return array, (self.get(order="A"),)

    def __dlpack__(self, **options: Any) -> Any:
        return self

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = globals().get({"true_divide": "divide", "invert": "invert"}.get(ufunc.__name__, ufunc.__name__))
        if function is None:
            return NotImplemented
        if "out" in options:
            (options["out"],) = options["out"]
        return (function if method == "__call__" else getattr(function, method))(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        mine = globals().get(function.__name__)
        if mine is None or not all(issubclass(x, (ndarray, np.ndarray)) for x in types):
            return NotImplemented
        return mine(*args, **options)

    __hash__ = None  # type: ignore[assignment]


def wrapped(x: Any, device: int, base: Any) -> ndarray:
    array = ndarray.__new__(ndarray)
    array._hold(np.asarray(x), device, base)
    return array


def check_current(x: ndarray) -> None:
    """Refuse an array of another GPU than the current one, as CuPy does where GPUs cannot see each other's memory."""
    if x._device != world.current:
        raise ValueError(
            f"The device where the array resides ({x._device}) is different from the current device ({world.current}). "
            "Peer access is unavailable between these devices."
        )


def operand(x: Any) -> Any:
    """Return what a kernel is given; NumPy's arrays do not get to a GPU by themselves."""
    if isinstance(x, ndarray):
        check_current(x)
        return x._x
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def unwrapped_key(key: Any) -> tuple[Any, str | None]:
    """Return an index of NumPy's, and what kind of arrays it holds, if any."""
    arrays = [x for x in (key if isinstance(key, tuple) else (key,)) if isinstance(x, (ndarray, list, np.ndarray))]
    for x in arrays:
        if isinstance(x, ndarray):
            check_current(x)
    kinds = {getattr(x, "dtype", np.dtype(int)).kind for x in arrays}
    parts = tuple(x._x if isinstance(x, ndarray) else x for x in (key if isinstance(key, tuple) else (key,)))
    return parts if isinstance(key, tuple) else parts[0], None if not arrays else "bool" if "b" in kinds else "int"


def run(name: str, compute: Callable[[], Any], *arrays: ndarray) -> ndarray:
    """Run a kernel that makes a new array."""
    for x in arrays:
        check_current(x)
    begin_kernel(name)
    world.counters.allocations += 1
    with np.errstate(all="ignore"):
        return wrapped(compute(), world.current, None)


class ufunc:
    """An elementwise function."""

    def __init__(self, function: np.ufunc) -> None:
        self.function = function

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None) -> Any:
        values = [operand(x) for x in args]
        result = run(self.function.__name__, lambda: np.asarray(self.function(*values, dtype=dtype)))
        if out is None:
            return result
        out[...] = result
        return out

    def at(self, x: ndarray, indices: Any, values: Any) -> None:
        """Work in any order: backwards."""
        begin_kernel("at")
        self.function.at(x._x, unwrapped_key(indices)[0][::-1], operand(values)[::-1])


NAMES = (
    *("add", "subtract", "multiply", "divide", "negative", "absolute", "sqrt", "sign", "maximum", "minimum"),
    *("greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "isnan", "isfinite"),
    *(
        "matmul",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "invert",
        "left_shift",
        "right_shift",
        "logical_and",
        "logical_not",
    ),
)
globals().update({name: ufunc(getattr(np, name)) for name in NAMES})

ARITHMETIC = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "and": "bitwise_and"} | {
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = dict(lt="less", le="less_equal", gt="greater", ge="greater_equal", eq="equal", ne="not_equal")
UNARY = dict(neg="negative", invert="invert", abs="absolute")


def _give_operators(name: str, function: Callable[..., Any]) -> None:
    setattr(ndarray, f"__{name}__", lambda x, y: function(x, y))
    if name in ARITHMETIC:
        setattr(ndarray, f"__r{name}__", lambda x, y: function(y, x))
        setattr(ndarray, f"__i{name}__", lambda x, y: function(x, y, out=x))


def _give_unary(name: str, function: Callable[..., Any]) -> None:
    setattr(ndarray, f"__{name}__", lambda x: function(x))


for _name, _function in {**ARITHMETIC, **COMPARISONS}.items():
    _give_operators(_name, globals()[_function])
for _name, _function in UNARY.items():
    _give_unary(_name, globals()[_function])


def _no_subok(subok: Any) -> None:
    if subok is not None:
        raise TypeError("subok is not supported yet")


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    begin_kernel("zeros")
    return ndarray(shape, dtype)


def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    _no_subok(subok)
    return run("zeros_like", lambda: np.zeros_like(a._x, dtype, order, shape=shape))


def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    _no_subok(subok)
    return run("ones_like", lambda: np.ones_like(a._x, dtype, order, shape=shape))


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    _no_subok(subok)
    return run("full_like", lambda: np.full_like(a._x, fill_value, dtype, order, shape=shape))


def array(obj: Any, dtype: Any = None, copy: Any = True, order: str = "K") -> ndarray:
    """Make an array on the current GPU, of one on another GPU too."""
    if isinstance(obj, ndarray):
        if copy is False and obj._device == world.current:
            return obj
        begin_kernel("array")
        return wrapped(np.array(obj._x, dtype, order=order), world.current, None)  # type: ignore[call-overload]
    begin_upload()
    x = np.array(obj, dtype, order=order)  # type: ignore[call-overload]
    if x.ndim == 0 and x == 0:
        x[...] = 0  # CuPy fills it with zero bytes: -0 is 0 then
    return wrapped(x, world.current, None)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, copy=False)


def asnumpy(a: Any) -> Any:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(x: Any) -> ndarray:
    kind, device = x.__dlpack_device__()
    if kind != 2:
        raise BufferError("CPU arrays cannot be directly imported to CuPy.")
    return wrapped(x.__dlpack__()._x, device, None)


def copy(a: ndarray, order: str = "K") -> ndarray:
    return a.copy(order)


def ndim(a: Any) -> int:
    return int(a.ndim)


def moveaxis(a: ndarray, source: Any, destination: Any) -> ndarray:
    return a._view(np.moveaxis(a._x, source, destination))


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    return array._view(np.broadcast_to(array._x, shape))


def concatenate(tup: Any, axis: int = 0) -> ndarray:
    return run("concatenate", lambda: np.concatenate([operand(x) for x in tup], axis))


def stack(tup: Any, axis: int = 0) -> ndarray:
    return run("stack", lambda: np.stack([operand(x) for x in tup], axis))


def where(condition: Any, x: Any, y: Any) -> ndarray:
    return run("where", lambda: np.where(*map(operand, (condition, x, y))))


def may_share_memory(a: ndarray, b: ndarray, max_work: None = None) -> bool:
    return bool(np.may_share_memory(a._x, b._x))


def shares_memory(a: ndarray, b: ndarray, max_work: None = None) -> bool:
    assert max_work is None, "Not supported for integer `max_work`."
    begin_copy_to_host()
    return bool(np.shares_memory(a._x, b._x))


def unique(
    ar: ndarray, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False
) -> tuple[ndarray, ...]:
    begin_copy_to_host()
    found = np.unique(operand(ar), return_index, return_inverse, return_counts)
    return tuple(wrapped(x, world.current, None) for x in found)


def take(a: ndarray, indices: ndarray, axis: int | None = None) -> ndarray:
    return run("take", lambda: np.take(operand(a), operand(indices), axis))


def amax(a: ndarray, axis: Any = None) -> ndarray:
    return run("amax", lambda: np.asarray(np.amax(operand(a), axis)))


globals()["max"] = amax


def eigh(a: ndarray, UPLO: str = "L") -> tuple[ndarray, ndarray]:
    values, vectors = np.linalg.eigh(operand(a), UPLO)  # type: ignore[arg-type]
    return run("eigh", lambda: values), run("eigh", lambda: vectors)


def qr(a: ndarray, mode: str = "reduced") -> tuple[ndarray, ndarray]:
    q, r = np.linalg.qr(operand(a), mode)  # type: ignore[call-overload]
    return run("qr", lambda: q), run("qr", lambda: r)


def argsort(a: ndarray, axis: int = -1, kind: str | None = None) -> ndarray:
    if kind not in (None, "stable"):
        raise ValueError("Only 'stable' is supported")
    return run("argsort", lambda: np.argsort(operand(a), axis, kind="stable"))


def bincount(x: ndarray, weights: None = None, minlength: int | None = None) -> ndarray:
    begin_copy_to_host()
    return run("bincount", lambda: np.bincount(operand(x)))


def cumsum(a: ndarray, axis: Any = None) -> ndarray:
    return run("cumsum", lambda: np.cumsum(operand(a), axis))


def count_nonzero(a: ndarray, axis: None = None) -> ndarray:
    return run("count_nonzero", lambda: np.asarray(np.count_nonzero(operand(a))))


def nonzero(a: ndarray) -> tuple[ndarray, ...]:
    begin_copy_to_host()
    return tuple(wrapped(x, world.current, None) for x in np.nonzero(operand(a)))


def ravel_multi_index(multi_index: Any, dims: Any, mode: str = "wrap", order: str = "C") -> ndarray:
    return run("ravel_multi_index", lambda: np.ravel_multi_index(tuple(map(operand, multi_index)), dims, mode="wrap"))


def unravel_index(indices: ndarray, dims: Any, order: str = "C") -> tuple[ndarray, ...]:
    begin_copy_to_host()
    return tuple(wrapped(x, world.current, None) for x in np.unravel_index(operand(indices), dims))


FUNCTIONS = {
    name: list(inspect.signature(x).parameters)
    for name, x in list(globals().items())
    if inspect.isfunction(x) and x.__module__ == __name__ and (not name.startswith("_") and hasattr(np, name))
}
"""The functions that CuPy has too, and the names of their parameters."""
