"""What the names in torch's pickles mean: which ones make data, and how to go on where one does not.

A name is the module and the name of a class or function with a space between them, as a pickle of protocol 2 holds it.
Nothing is imported.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..formats.raw import from_words
from ..formats.strict import MAX_RANK, WORD, Layout, shown
from ..numerics.arith import Array
from .errors import CheckpointError
from .pickled import Name, Unbuilt, checked_key
from .stored import require

STORAGES = {
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
    "torch ComplexFloatStorage": "complex64",
    "torch ComplexDoubleStorage": "complex128",
}
"""What a storage of each class holds."""

UNTYPED = "torch.storage UntypedStorage"
"""A storage of bytes, which stands with tensors whose dtype is newer than the classes of storages."""

DTYPES = {f"torch {name}": name for name in WORD}

NUMPY = {np.dtype(name).str[1:]: name for name in WORD if name != "bfloat16"}
"""What NumPy writes for a dtype."""

ANNEALING = {
    f"{module} {cls}.{name}"
    for module, cls, names in [
        ("torch.optim.lr_scheduler", "OneCycleLR", ("_annealing_cos", "_annealing_linear")),
        ("torch.optim.swa_utils", "SWALR", ("_cosine_anneal", "_linear_anneal")),
    ]
    for name in names
}
"""The functions that state dicts of schedulers held before they held the name of the strategy."""

VALUES = {
    *STORAGES,
    UNTYPED,
    "torch Tensor",
    "torch._tensor Tensor",
    "torch.nn.parameter Parameter",
    "numpy ndarray",
    *(name.rpartition(".")[0] for name in ANNEALING),
}
"""Names that stand among the arguments of a call."""

DANGEROUS = re.compile(
    r"(os|posix|nt|sys|subprocess|pty|runpy|shutil|socket|ctypes|importlib|code|_?pickle|webbrowser)(\.\S*)? .*"
    r"|(__builtin__|builtins) (eval|exec|compile|open|__import__|apply|execfile|input|breakpoint|setattr|delattr)"
    r"|_?io open\S*|torch\.storage _load_from_bytes|torch\.(jit|hub)(\.\S*)? .*"
)
"""Names that are in no file by accident."""

ADVICE: Sequence[tuple[str, str, str]] = (
    (r"torch (float8|float4|Float8)\S*", "float8 tensors", "cast them, x.to(torch.float32)"),
    (r"torch\._utils _rebuild_qtensor|torch (Q\w+Storage|per_\S+|q\w+)", "quantized tensors", "call x.dequantize()"),
    (r"torch\._utils _rebuild_sparse\S*|torch\.serialization _get_layout", "sparse tensors", "call x.to_dense()"),
    (r"torch\._utils _rebuild_nested\S*|torch\.nested\S* .*", "nested tensors", "take x.unbind()"),
    (r"torch\._utils _rebuild_meta\S*", "tensors on the device meta, which have no numbers", "fill them"),
    (r"torch\._utils _rebuild_(device|xla)\S*", "tensors of another device", "call x.cpu()"),
    (r"torch\.distributed\S* .*", "shards of tensors", "call x.full_tensor()"),
    (
        r"torch\.optim\.lr_scheduler (CyclicLR|LambdaLR)",
        "a scheduler whole, as state dicts of old releases do",
        "load it with torch, delete its function, such as state['scale_fn'],",
    ),
    (r"torch\.optim\S* .*", "an optimizer or scheduler whole", "take its state_dict()"),
    (r"torch\.nn\S* .*", "a module whole", "take model.state_dict()"),
    (r"argparse Namespace", "an argparse.Namespace", "take vars(args)"),
    (r"pathlib\S* .*", "a path", "take str(path)"),
    (r"collections defaultdict", "a defaultdict", "take dict(x)"),
    (r"numpy\S* .*", "an array of NumPy of a kind that is not read", "take torch.from_numpy(x)"),
)
"""What a file holds by the name that is met first, and what to do before it is saved again."""


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers that tensors share, as a vector that cannot be written to; of an untyped one the bytes."""

    data: Array
    is_typed: bool


Find = Callable[[str, str, int], Array]
"""Returns the storage with a key as a vector of a dtype and a length."""


def refuse(name: str) -> NoReturn:
    """Raise CheckpointError for a name that makes no data."""
    dotted = shown(_dotted(name))[1:-1]
    if DANGEROUS.fullmatch(name):
        never = "which no data need; nothing of it was run, and nothing should be: do not load it with pickle either"
        raise CheckpointError(f"would run {dotted}, {never}")
    for pattern, what, advice in ADVICE:
        if re.fullmatch(pattern, name):
            raise CheckpointError(f"holds {what} ({dotted}): {advice} and save that with torch.save")
    data = "only tensors and plain data are read: if you trust the file, load it with torch, and save its state_dict()"
    raise CheckpointError(f"holds an object of {dotted}, and {data}, numbers and texts")


class Torch:
    """What torch's pickles mean.

    Args:
        find: finds storages by their keys.
        most: how many bytes and items may be copied, so that nothing grows by being met again and again; in a pickle
            that someone has written it is each byte once.
        reach: how many bytes tensors may hold in all, what they share counted each time.
    """

    def __init__(self, find: Find, most: int, reach: int) -> None:
        self.find, self.left, self.reach = find, most, reach

    def named(self, name: str) -> Any:
        """Return the name, of a dtype and of a function for annealing as a text; refuse what makes no data."""
        if name in DTYPES or name in ANNEALING:
            return _dotted(name)
        if name not in CALLS and name not in VALUES:
            refuse(name)
        return Name(name)

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return what a call of one of ``CALLS`` gives."""
        require(isinstance(function, Name), "has a pickle that calls what is no function")
        if function.text not in CALLS:
            refuse(function.text)
        kinds, least, call = CALLS[function.text]
        fits = least <= len(arguments) <= len(kinds) and all(map(_is, arguments, kinds))
        if not fits:
            raise CheckpointError(f"calls {_dotted(function.text)} with other arguments than torch and NumPy do")
        return call(self, *arguments)

    def stored(self, what: Any) -> Storage:
        """Return the storage that ``("storage", class, key, device, number of elements)`` stands for."""
        kinds = (str, Name, str, str, int)
        known = isinstance(what, tuple) and len(what) == 5 and all(map(_is, what, kinds)) and what[0] == "storage"
        require(known and what[4] >= 0, "keeps something outside of its pickle that is no storage")
        _, kind, key, _, count = what
        if kind.text not in STORAGES and kind.text != UNTYPED:
            raise CheckpointError(f"has a storage of {_dotted(kind.text)}")
        return Storage(self.find(key, STORAGES.get(kind.text, "uint8"), count), kind.text in STORAGES)

    def built(self, x: Any, state: Any) -> Any:
        """Return ``x``; the state is dropped, but for that of an array of NumPy."""
        if isinstance(x, Unbuilt):
            return _filled(state)
        if isinstance(x, np.dtype):
            order = state[1] if isinstance(state, tuple) and len(state) >= 2 else None
            native = isinstance(order, str) and order in ("<", "|", "=")
            require(native, "has big-endian or structured numbers of NumPy: save them as tensors")
        else:
            require(isinstance(x, OrderedDict), f"gives a state to what has none, a {type(x).__name__}")
        return x

    def spend(self, amount: int) -> None:
        """Count what is copied."""
        self.left -= amount
        require(self.left >= 0, "holds too many things: the same ones copied again and again")

    def view(self, data: Array, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Array:
        """Return the tensor that looks at a storage; one that looks at an element twice would hold more than that."""
        shape = _shape(size, data.itemsize)
        steps = all(type(n) is int and n >= 0 for n in stride) and len(stride) == len(shape)
        require(steps and offset >= 0, "has a tensor with strides or an offset that are none")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        require(last < data.size or not count, "was altered: a tensor reaches beyond its storage")
        self.reach -= count * data.itemsize
        repeats = "has tensors that repeat their elements: call x.contiguous() first, and save again with torch.save"
        require(count <= data.size and self.reach >= 0, repeats)
        strides = [step * data.itemsize if n > 1 else data.itemsize for n, step in zip(shape, stride, strict=True)]
        begin = data[offset:] if count else data[:0]
        return as_strided(begin, shape, strides if count else None, writeable=False)


def aligned(x: Array) -> Array:
    """Return a vector that cannot be written to and begins where processors like it; a copy if it does not."""
    found = x if x.flags.aligned else x.copy()
    found.flags.writeable = False
    return found


def check_bools(x: Array) -> Array:
    """Return an array; raise CheckpointError if one of bools holds other bytes than 0 and 1."""
    fits = x.dtype != np.bool_ or x.view(np.uint8).max(initial=0) <= 1
    require(bool(fits), "was altered: it has a bool that is neither true nor false")
    return x


def _dotted(name: str) -> str:
    return name.replace(" ", ".")


def _is(x: Any, kind: Any) -> bool:
    return type(x) is int if kind is int else isinstance(x, kind)


def _shape(size: tuple[Any, ...], itemsize: int) -> tuple[int, ...]:
    counts = all(type(n) is int and n >= 0 for n in size) and len(size) <= MAX_RANK
    fits = counts and math.prod(max(n, 1) for n in size) * itemsize < 1 << 62
    if not fits:
        flat = all(isinstance(n, (int, np.ndarray)) for n in size)  # a few tuples in one another are an endless text
        shape = shown(size[: MAX_RANK + 1]) if flat else "that is none"
        raise CheckpointError(f"has a tensor of the shape {' '.join(shape.split())}")  # an array has lines
    return size


def _tensor(
    torch: Torch, storage: Storage, offset: int, size: Any, stride: Any, grad: bool, hooks: Any, marks: Any = None
) -> Array:
    """Stand for ``torch._utils._rebuild_tensor_v2``."""
    require(storage.is_typed, "has a tensor without a dtype")
    _check_marks(marks)
    return torch.view(storage.data, offset, size, stride)


def _untyped_tensor(
    torch: Torch,
    storage: Storage,
    offset: int,
    size: Any,
    stride: Any,
    grad: bool,
    hooks: Any,
    dtype: str,
    marks: Any = None,
) -> Array:
    """Stand for ``torch._utils._rebuild_tensor_v3``, which torch uses for dtypes that have no class of storage."""
    require(not storage.is_typed and dtype in NEWER, f"has an untyped tensor of {shown(dtype)}")
    kind = np.dtype(NEWER[dtype])
    require(storage.data.size % kind.itemsize == 0, "was altered: a storage has half a number")
    _check_marks(marks)
    return torch.view(aligned(storage.data.view(kind)), offset, size, stride)


def _check_marks(marks: Any) -> None:
    if not marks:
        return
    names = [str(name) for name, x in marks.items() if x is not False]
    advice = "call x.resolve_conj().resolve_neg() first, and save again with torch.save"
    require(not names, f"has a tensor whose numbers are others than those in the file ({shown(names)[1:-1]}): {advice}")


def _parameter(torch: Torch, data: Array, *rest: Any) -> Array:
    return data


def _with_attributes(torch: Torch, function: Name, kind: Name, arguments: tuple[Any, ...], state: Any) -> Any:
    """Stand for ``torch._tensor._rebuild_from_type_v2``: a tensor to which someone has given attributes."""
    require("Tensor" in kind.text or "Parameter" in kind.text, "has a tensor of an unknown class")
    require(function.text.startswith("torch._utils "), "has a tensor made by what makes none")
    return torch.called(function, arguments)


def _counter(torch: Torch, counts: dict[Any, Any]) -> Counter[Any]:
    torch.spend(len(counts))
    return Counter(counts)


def _set(torch: Torch, items: list[Any]) -> set[Any]:
    torch.spend(len(items))
    return set(map(checked_key, items))


def _size(torch: Torch, size: tuple[Any, ...]) -> tuple[int, ...]:
    require(all(type(n) is int for n in size), "has a torch.Size that is none")
    return size


def _device(torch: Torch, kind: str, index: int | None = None) -> str:
    return kind if index is None else f"{kind}:{index}"


def _encoded(torch: Torch, text: str, encoding: str) -> bytes:
    torch.spend(len(text))
    fits = encoding == "latin1" and (text.isascii() or max(text) <= "\xff")
    require(fits, "has bytes that are none")
    return text.encode("latin-1")


def _attribute(torch: Torch, kind: Name, name: str) -> str:
    require(f"{kind.text}.{name}" in ANNEALING, f"would run {shown(_dotted(kind.text))}.{shown(name)[1:-1]}")
    return _dotted(f"{kind.text}.{name}")


def _numpy_dtype(torch: Torch, code: str, *rest: bool) -> Any:
    require(code.lstrip("<|=") in NUMPY, f"has an array of NumPy of the dtype {shown(code)}: save a tensor")
    return np.dtype(NUMPY[code.lstrip("<|=")])


def _scalar(torch: Torch, dtype: np.dtype[Any], data: bytes) -> Any:
    require(len(data) == dtype.itemsize, "has a number of NumPy of another size than its dtype")
    return check_bools(from_words(data, Layout(dtype.name, (1,))))[0]


def _unfilled(torch: Torch, kind: Name, shape: tuple[Any, ...], code: bytes) -> Unbuilt:
    require(kind.text == "numpy ndarray", f"has an array of the class {shown(_dotted(kind.text))}")
    return Unbuilt("numpy ndarray")


def _filled(state: Any) -> Array:
    """Return the array of NumPy with a state: version, shape, dtype, whether it is in Fortran's order, its bytes."""
    kinds = (int, tuple, np.dtype, bool, bytes)
    require(isinstance(state, tuple) and len(state) == 5 and all(map(_is, state, kinds)), "has an odd array of NumPy")
    _, size, dtype, fortran, data = state
    shape = _shape(size, dtype.itemsize)
    require(math.prod(shape) * dtype.itemsize == len(data), "has an array of NumPy of another size than its shape")
    found = check_bools(from_words(data, Layout(dtype.name, (math.prod(shape),))))
    return found.reshape(shape, order="F" if fortran else "C")


NEWER = {f"torch.{name}": name for name in ("uint16", "uint32", "uint64")}
"""Dtypes that have no class of storage."""

_MARKS = (dict, type(None))

_VIEW = (Storage, int, tuple, tuple, bool, dict)

Call = tuple[tuple[Any, ...], int, Callable[..., Any]]
"""The types of the arguments, how many there are at least, and what the call gives."""

_MULTIARRAY: dict[str, Call] = {
    "scalar": ((np.dtype, bytes), 2, _scalar),
    "_reconstruct": ((Name, tuple, bytes), 3, _unfilled),
}

_BUILTINS: dict[str, Call] = {
    "set": ((list,), 1, _set),
    "complex": ((float, float), 2, lambda torch, real, imaginary: complex(real, imaginary)),
    "bytes": ((), 0, lambda torch: b""),
    "getattr": ((Name, str), 2, _attribute),
}

CALLS: dict[str, Call] = {
    "torch._utils _rebuild_tensor_v2": ((*_VIEW, _MARKS), 6, _tensor),
    "torch._utils _rebuild_tensor_v3": ((*_VIEW, str, _MARKS), 7, _untyped_tensor),
    "torch._utils _rebuild_parameter": ((np.ndarray, bool, dict), 3, _parameter),
    "torch._utils _rebuild_parameter_with_state": ((np.ndarray, bool, dict, object), 4, _parameter),
    "torch._tensor _rebuild_from_type_v2": ((Name, Name, tuple, object), 4, _with_attributes),
    "torch Size": ((tuple,), 1, _size),
    "torch device": ((str, int), 1, _device),
    "collections OrderedDict": ((), 0, lambda torch: OrderedDict()),
    "collections Counter": ((dict,), 1, _counter),
    "_codecs encode": ((str, str), 2, _encoded),
    "numpy dtype": ((str, bool, bool), 1, _numpy_dtype),
    **{f"numpy.{core}.multiarray {name}": x for core in ("core", "_core") for name, x in _MULTIARRAY.items()},
    **{f"{module} {name}": x for module in ("__builtin__", "builtins") for name, x in _BUILTINS.items()},
}
"""What can be called."""
