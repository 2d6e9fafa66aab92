"""Measures steps on a GPU against its copy bandwidth, torch's steps, and kernels as users of CuPy write them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from math import ceil
from typing import Any

import numpy as np

import refoptim

from ..engines import cuda
from ..numerics.arith import Array
from .measure import (
    OPTIMIZERS,
    Case,
    Result,
    Step,
    bytes_moved,
    differs,
    drawn,
    expected,
    in_turn,
    outcome,
    size_of,
    state_arrays,
    torch_step,
)

LARGE = 1 << 28
"""Elements of the large tensor."""

CACHES = 8
"""How many times larger than the second-level cache the arrays are through which steps rotate."""

ALLOCATION = 512
"""CuPy's pool hands out memory in multiples of so many bytes."""

SHARE, RATIO = 0.9, 1.0
"""What is aimed at in float32: a share of the copy bandwidth by one large tensor, torch's time by any."""

ELEMENTWISE: dict[str, tuple[str, str, str, int, tuple[float, ...]]] = {
    "SGD": ("T g, T lr, T momentum", "T p, T b", "b = momentum * b + g; p -= lr * b", 1, (1e-3, 0.9)),
    "Adagrad": ("T g, T lr, T eps", "T p, T s", "s += g * g; p -= lr * g / (sqrt(s) + eps)", 1, (1e-2, 1e-10)),
    "Adam": (
        "T g, T lr, T beta1, T beta2, T eps",
        "T p, T m, T v",
        "m += (1 - beta1) * (g - m); v += (1 - beta2) * (g * g - v); p -= lr * m / (sqrt(v) + eps)",
        2,
        (1e-3, 0.9, 0.999, 1e-8),
    ),
}
"""Kernels as users of CuPy write them, for comparison: inputs, outputs, code, state arrays, settings."""

Sets = Sequence[Sequence[Any]]
"""Gradients of several sets of parameters, or those parameters."""


def check() -> None:
    """Raise RuntimeError if kernels cannot run on a GPU."""
    if missing := cuda.missing():
        raise RuntimeError(f"steps on a GPU cannot be measured: {missing}")


def torch_is_missing() -> str:
    """Say why torch cannot be compared with; nothing if it can."""
    if not find_spec("torch"):
        return "torch is not installed"
    return "" if import_module("torch").cuda.is_available() else "this torch has no CUDA, or no GPU"


def copies(size: int, repeats: int) -> list[Result]:
    """Measure copies of a large float32 array: the driver's, and a kernel that adds 1."""
    cupy = import_module("cupy")
    source = cupy.asarray(drawn(0, size, "float32"))
    target = source.copy()
    steps: dict[str, Step] = {
        "copy, driver": partial(cupy.copyto, target, source),
        "copy, kernel": partial(cupy.add, source, np.float32(1), out=target),
    }
    seconds = in_turn(steps, seconds_of, repeats)
    return [
        Result(Case(name, "float32", 1, size), {"refoptim": x}, 2 * source.nbytes, {}) for name, x in seconds.items()
    ]


def seconds_of(step: Step, n: int) -> float:
    """Take a step so many times and return the seconds that pass on the GPU; one more keeps it busy before."""
    events = import_module("cupy").cuda
    start, end = events.Event(), events.Event()
    step()
    start.record()
    for _ in range(n):
        step()
    end.record()
    end.synchronize()
    return float(events.get_elapsed_time(start, end)) / 1000


def run(case: Case, repeats: int, *, with_torch: bool) -> Result:
    """Measure a case; nothing is known of it if the GPU has not memory enough."""
    try:
        return _run(case, repeats, with_torch)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's and CuPy's have this name in common
            raise
        return Result(case, {}, 0, {})
    finally:
        _free()


def _run(case: Case, repeats: int, with_torch: bool) -> Result:
    start, grad = (_placed(drawn(i, case.size, case.dtype)) for i in (0, 1))
    _check(case, start, grad)
    moved, extra = _ours(case, start, [[grad] * case.tensors])[1:]
    sets = ceil(CACHES * _cache() / moved)
    grads = [[grad.copy() for _ in range(case.tensors)] for _ in range(sets)]
    steps = {"refoptim": _ours(case, start, grads)[0]}
    if with_torch and case.torch_path:
        with suppress(NotImplementedError):  # not every torch has every fused step for a GPU
            steps["torch"] = _torch(case, start, grads)
    if case.optimizer in ELEMENTWISE and case.dtype in ("float32", "float64"):
        steps["CuPy"] = _elementwise(case, start, grads)
    return Result(case, in_turn(steps, seconds_of, repeats, sets), moved, {"refoptim": extra})


def _placed(x: Array) -> Array:
    """Copy an array to the GPU as bits, for CuPy does not know every dtype."""
    placed: Array = import_module("cupy").asarray(_bits(x)).view(x.dtype)
    return placed


def _check(case: Case, start: Array, grad: Array) -> None:
    """Take two steps, and raise RuntimeError unless parameters and state are then as the reference has them."""
    parameters = [start.copy() for _ in range(case.tensors)]
    optimizer = getattr(refoptim, case.optimizer)(parameters, **case.settings)
    for _ in range(2):
        optimizer.step(grads=[grad] * case.tensors)
    wanted = [_bits(_placed(x)) for x in expected(case, [(0, 1)])] * case.tensors
    pairs = zip(map(_bits, outcome(optimizer)), wanted, strict=True)
    pieces = [(x[i : i + len(y)], y) for x, y in pairs for i in range(0, len(x), len(y))]
    if import_module("cupy").stack([(x != y[: len(x)]).any() for x, y in pieces]).any():
        raise differs(case)


def _bits(x: Array) -> Array:
    bits: Array = x.view(f"u{x.itemsize}")
    return bits


def _cache() -> int:
    """Return the bytes that the second-level cache holds."""
    return int(import_module("cupy").cuda.runtime.getDeviceProperties(0)["l2CacheSize"])


def _ours(case: Case, start: Array, grads: Sets) -> tuple[Step, int, int]:
    """Return our step, the bytes that it must move, and those that it takes beyond parameters, gradients and state."""
    cls, sets = getattr(refoptim, case.optimizer), _parameters(case, start, grads)
    pool = import_module("cupy").get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    optimizers: list[refoptim.Optimizer] = [cls(parameters, **case.settings) for parameters in sets]
    step = _rotating([partial(x.step, grads=grad) for x, grad in zip(optimizers, grads, strict=True)])
    seconds_of(step, 2 * len(grads))
    state = [state_arrays(optimizer, p) for optimizer in optimizers for p in optimizer.state]
    extra = pool.total_bytes() - before - sum(size_of(x, ALLOCATION) for x in state)
    return step, bytes_moved(optimizers[0]), extra


def _torch(case: Case, start: Array, grads: Sets) -> Step:
    """Return torch's step, on its fastest path; it has been taken once."""
    pairs = zip(_parameters(case, start, grads), grads, strict=True)
    tensors = [[[_tensor(x) for x in column] for column in pair] for pair in pairs]
    step = _rotating([torch_step(case, parameters, grads, case.torch_path) for parameters, grads in tensors])
    step()
    return step


def _tensor(x: Array) -> Any:
    """Return a tensor of torch's in the memory of an array."""
    torch: Any = import_module("torch")
    if x.dtype.name == "bfloat16":
        return torch.from_dlpack(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(x)


def _elementwise(case: Case, start: Array, grads: Sets) -> Step:
    """Return a step by a kernel as users of CuPy write it, launched for one parameter after the other."""
    cupy = import_module("cupy")
    inputs, outputs, code, count, settings = ELEMENTWISE[case.optimizer]
    kernel = cupy.ElementwiseKernel(inputs, outputs, code, f"{case.optimizer.lower()}_step")
    tensors = [
        [(g, *settings, p, *(cupy.zeros_like(p) for _ in range(count))) for p, g in zip(parameters, grad, strict=True)]
        for parameters, grad in zip(_parameters(case, start, grads), grads, strict=True)
    ]

    def step(tensors: list[tuple[Any, ...]]) -> None:
        for arguments in tensors:
            kernel(*arguments)

    return _rotating([partial(step, each) for each in tensors])


def _parameters(case: Case, start: Array, grads: Sets) -> Sets:
    return [[start.copy() for _ in each] for each in grads]


def _rotating(steps: Sequence[Step]) -> Step:
    """Return a step that is each of several in turn."""
    turns: Iterator[Step] = cycle(steps)
    return lambda: next(turns)()


def _free() -> None:
    """Give back the memory that nothing uses."""
    gc.collect()
    import_module("cupy").get_default_memory_pool().free_all_blocks()
    if not torch_is_missing():
        import_module("torch").cuda.empty_cache()


def row(result: Result, copy: float) -> dict[str, Any]:
    """Return what was measured as a row of a table, None for what was not; ``copy`` is in bytes per second."""
    case, times, elements = result.case, result.seconds, result.case.tensors * result.case.size
    share, ratio = result.share("refoptim", copy), result.ratio("refoptim", "torch")
    return {
        "rule": case.optimizer,
        "dtype": case.dtype,
        "tensors": case.tensors,
        "elements": case.size,
        "bytes per element": result.bytes // elements or None,
        "ms": _figures(times.get("refoptim"), 1e3),
        "GB/s": _figures(result.share("refoptim", 1), 1e-9),
        "share of copy": _figures(share),
        "torch": case.torch_path if "torch" in times else None,
        "torch ms": _figures(times.get("torch"), 1e3),
        "ratio to torch": _figures(ratio),
        "CuPy ms": _figures(times.get("CuPy"), 1e3),
        "ratio to CuPy": _figures(result.ratio("refoptim", "CuPy")),
        "extra bytes": result.extra.get("refoptim"),
        **targets(case, share, ratio),
    }


def targets(case: Case, share: float | None, ratio: float | None) -> dict[str, bool | None]:
    """Tell which targets hold: those for float32, the share of the bandwidth for one large tensor alone."""
    judged = case.optimizer in OPTIMIZERS and case.dtype == "float32"
    return {
        f"share >= {SHARE}": share >= SHARE if judged and case.tensors == 1 and share is not None else None,
        f"ratio <= {RATIO}": ratio <= RATIO if judged and ratio is not None else None,
    }


def _figures(x: float | None, unit: float = 1) -> float | None:
    return None if x is None else float(f"{x * unit:.4g}")
