"""Other libraries' arrays: how the memory of each is viewed, where its gradient is, and whom a write is told.

A library is found by the types of what is loaded; nothing is imported. A new one is a row in ``LIBRARIES``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .arith import Array
from .array_types import handed_over, is_array, loaded_cupy, np_dtype

Telling = Callable[[Sequence[Any]], "partial[Any] | None"]


class Library(NamedTuple):
    """What refoptim knows of a library.

    Attributes:
        package: the name it is imported by.
        kind: the name of its type of array there.
        view: returns the array of NumPy or CuPy that shares the memory of one of its arrays, or raises TypeError.
        check: raises TypeError or ValueError for an array that cannot be a parameter.
        gradient: returns the gradient that an array holds, None without one.
        forgetting: returns what makes an array hold none.
        where: returns what stays equal as long as an array has the same memory, seen in the same way.
        telling: returns the call, of a function written in C, that tells the library which arrays were written to.
        stream: returns the stream of CuPy's, a context manager, on which the library works at an array at the moment,
            None for an array in the memory of the computer.
        lying: returns of many arrays at once what ``where`` returns of each, in columns; None where it has no such way.
        in_line: returns the shapes, dtypes and devices of many arrays in columns, and their addresses; None unless each
            is one piece of memory in C order. It may raise what ``view`` may.
    """

    package: str
    kind: str
    view: Callable[[Any], Array]
    check: Callable[[Any], None]
    gradient: Callable[[Any], Any]
    forgetting: Callable[[Any], list[partial[Any]]]
    where: Callable[[Any], Any]
    telling: Telling
    stream: Callable[[Any], AbstractContextManager[Any] | None]
    lying: Callable[[Sequence[Any]], list[Any]] | None = None
    in_line: Callable[[Sequence[Any]], tuple[list[Any], list[int]] | None] | None = None


def library_of(x: Any) -> Library | None:
    """Return the library of an array, ANY for what hands its memory over by DLPack; None for anything else.

    NumPy's and CuPy's arrays, which refoptim itself works on, belong to none.
    """
    if is_array(x) or isinstance(x, np.generic):
        return None
    for library in LIBRARIES:
        kind = getattr(sys.modules.get(library.package), library.kind, None)
        if kind is not None and isinstance(x, kind):
            return library
    return ANY if hasattr(x, "__dlpack__") else None


def viewed(x: Any) -> Array | None:
    """Return the array of NumPy or CuPy that shares memory with that of another library; None for what is none."""
    library = library_of(x)
    return None if library is None else library.view(x)


def telling(objects: Iterable[Any]) -> list[partial[Any]]:
    """Return the calls that tell the libraries of arrays that these were written to."""
    written: dict[Library, list[Any]] = {}
    for x in objects:
        library = library_of(x)
        if library is not None:
            written.setdefault(library, []).append(x)
    calls = (library.telling(arrays) for library, arrays in written.items())
    return [call for call in calls if call is not None]


def on_their_streams(objects: Iterable[Any]) -> AbstractContextManager[Any]:
    """Let CuPy work, inside a ``with`` block, on the streams on which the libraries of arrays work.

    What the libraries have begun there comes before, and what they begin afterwards waits; nothing else does, since an
    array is viewed once for many steps.
    """
    stack = ExitStack()
    if loaded_cupy() is not None:
        found: Iterable[Any] = (library.stream(x) for x in objects if (library := library_of(x)) is not None)
        streams = {(stream.device_id, stream.ptr): stream for stream in found if stream is not None}
        for stream in streams.values():
            stack.enter_context(stream)
    return stack


def _nothing(*arrays: Any) -> None:
    """Stand for what a library has no need of."""


def _none(x: Any) -> list[partial[Any]]:
    return []


# torch

_MARKS = (("is_neg", "negative", "resolve_neg"), ("is_conj", "conjugate", "resolve_conj"))


def _view_torch(x: Any) -> Array:
    torch: Any = sys.modules["torch"]
    for mark, name, cure in _MARKS:
        if getattr(x, mark)():
            raise TypeError(f"a tensor with the {name} bit set has other numbers in its memory: call {cure}() first")
    if x.layout is not torch.strided:
        raise TypeError(f"a tensor must have the layout torch.strided, got {x.layout}: call to_dense() first")
    if x.device.type not in ("cpu", "cuda"):
        raise TypeError(f"a tensor must lie on the CPU or on a CUDA device, got one on {x.device}")
    bits = x.detach()
    try:
        _check_storage(bits)
        if x.dtype is torch.bfloat16:
            return _view_bits(bits.view(torch.int16)).view(bfloat16())
        return _view_bits(bits)
    except (RuntimeError, BufferError, ValueError) as error:
        raise TypeError(f"{type(x).__name__} does not hand its memory over: {error}") from error


def _check_storage(x: Any) -> None:
    """Raise TypeError for a tensor whose storage was made smaller, as to free it: NumPy would read beyond it."""
    last = x.storage_offset() + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    if x.numel() and (last + 1) * x.element_size() > x.untyped_storage().nbytes():
        raise TypeError("a tensor must have its memory, but its storage was made smaller than its elements need")


def _view_bits(x: Any) -> Array:
    if x.device.type != "cpu":
        return handed_over(x)
    try:
        return x.numpy()
    except TypeError as error:
        if "ScalarType" not in str(error):
            raise
        raise TypeError(f"NumPy has no dtype for a tensor of {x.dtype}: {_cure(x)}") from None


def _cure(x: Any) -> str:
    """Say what makes a tensor that NumPy can view of one whose dtype it lacks."""
    if x.is_quantized:
        return "call dequantize() first"
    if x.is_complex() or x.is_floating_point():
        return f"cast it first, x.to(torch.{'complex64' if x.is_complex() else 'float32'})"
    return "view its bytes first, x.view(torch.uint8)"


def bfloat16() -> np.dtype[Any]:
    """Return the dtype that the package ml_dtypes, which is imported for it, gives NumPy; or raise TypeError."""
    try:
        return np_dtype("bfloat16")
    except ImportError:
        raise TypeError("NumPy needs ml_dtypes to know bfloat16: pip install ml_dtypes") from None


def _check_torch(x: Any) -> None:
    if not (x.is_leaf or x.retains_grad):
        raise ValueError("can't optimize a non-leaf Tensor")
    if x.is_inference() and x.requires_grad:
        raise ValueError("can't optimize a tensor made in inference mode")


def _forgetting_torch(x: Any) -> list[partial[Any]]:
    return [partial(setattr, x, "grad", None)]


def _where_torch(x: Any) -> Any:
    return x.data_ptr(), x.shape, x.stride(), x.dtype, x.is_neg(), x.is_conj()


def _lying_torch(tensors: Sequence[Any]) -> list[Any]:
    kind: Any = sys.modules["torch"].Tensor
    asked = (kind.data_ptr, attrgetter("shape"), kind.stride, attrgetter("dtype"), kind.is_neg)
    found = [list(map(ask, tensors)) for ask in asked]
    return [*found, list(map(kind.is_conj, tensors))] if _has_complex(found[3]) else found


def _in_line_torch(tensors: Sequence[Any]) -> tuple[list[Any], list[int]] | None:
    torch: Any = sys.modules["torch"]
    kind = torch.Tensor
    if not {*map(type, tensors)} <= {kind, torch.nn.Parameter} or not all(map(kind.is_contiguous, tensors)):
        return None
    found = [list(map(attrgetter(name), tensors)) for name in ("shape", "dtype", "device")]
    marked = any(map(kind.is_neg, tensors)) or (_has_complex(found[1]) and any(map(kind.is_conj, tensors)))
    addresses = list(map(kind.data_ptr, tensors))
    freed = 0 in addresses and any(x.numel() for x, address in zip(tensors, addresses, strict=True) if not address)
    return None if marked or freed else (found, addresses)


def _has_complex(dtypes: Iterable[Any]) -> bool:
    return any(dtype.is_complex for dtype in {*dtypes})


def _telling_torch(tensors: Sequence[Any]) -> partial[Any]:
    """Return what tells autograd, so that it refuses to go back through a graph that saved the values before.

    ``torch.autograd.graph.increment_version`` is a function written in Python around this one.
    """
    torch: Any = sys.modules["torch"]
    return partial(torch._C._increment_version, tensors)


def _stream_torch(x: Any) -> AbstractContextManager[Any] | None:
    if x.device.type != "cuda":
        return None
    stream = sys.modules["torch"].cuda.current_stream(x.device)
    context: AbstractContextManager[Any] = loaded_cupy().cuda.ExternalStream(stream.cuda_stream, stream.device_index)
    return context


# JAX


def _view_jax(x: Any) -> Array:
    """Return a read-only array; bfloat16, which JAX does not hand over by DLPack, NumPy takes where it can reach it."""
    try:
        return handed_over(x)
    except (TypeError, AttributeError):
        if any(device.platform != "cpu" for device in x.devices()):
            raise
        return np.asarray(x)


def _refuse_jax(x: Any) -> None:
    raise TypeError(
        "a JAX array cannot be changed in place: use refoptim.interop.jax, whose optimizers return new arrays, "
        "or refoptim.functional"
    )


def _gradient_any(x: Any) -> Any:
    return getattr(x, "grad", None)


def _forgetting_any(x: Any) -> list[partial[Any]]:
    return [partial(setattr, x, "grad", None)] if _gradient_any(x) is not None else []


ANY = Library("", "", handed_over, _nothing, _gradient_any, _forgetting_any, _nothing, _nothing, _nothing)
"""What stands for the libraries that are not in the table: their arrays hand their memory over by DLPack."""

LIBRARIES = (
    Library(
        "torch",
        "Tensor",
        _view_torch,
        _check_torch,
        attrgetter("grad"),
        _forgetting_torch,
        _where_torch,
        _telling_torch,
        _stream_torch,
        _lying_torch,
        _in_line_torch,
    ),
    Library("jax", "Array", _view_jax, _refuse_jax, _nothing, _none, _nothing, _nothing, _nothing),
)
"""The libraries whose arrays need more than DLPack."""
