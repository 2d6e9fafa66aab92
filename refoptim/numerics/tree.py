"""The one order of summation, for every rule that needs a sum over elements.

``sum_along`` cuts the axis into runs of ``WIDTH`` consecutive elements, the last one filled up with +0, and folds each
run in halves: element ``i`` with element ``i + WIDTH/2``, then ``i`` with ``i + WIDTH/4``, down to one. The sums of the
runs are summed in the same way until one is left, and +0 is added to it, so a sum is never -0. The order depends on the
number of elements alone, never on a device, a chunk or a thread. ``kernels/harness/tree.cuh`` is the twin of this file.

``matmul`` adds the products of an entry in the order of the inner index, beginning at +0.

Sums stream over their operands in blocks: nothing as large as an operand is made, if that is larger than a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from typing import Any

import numpy as np

from .arith import Array, DType, arithmetic, mul, sqrt, widen

WIDTH = 1024
"""Elements that are folded together; part of the definition of a sum."""

CHUNK = 1 << 15
"""Elements of a block held at once; no result depends on it."""

Block = tuple[slice, ...]


def _steps(shape: tuple[int, ...], axis: int | None) -> list[int]:
    """Choose the extent of a block along each axis, whole runs of WIDTH along ``axis``."""
    steps, room = [1] * len(shape), CHUNK
    if axis is not None:
        steps[axis] = max(1, min(shape[axis], WIDTH))
        room //= steps[axis]
    for i in reversed(range(len(shape))):
        if i != axis:
            steps[i] = max(1, min(shape[i], room))
            room //= steps[i]
    if axis is not None and steps[axis] == WIDTH:
        steps[axis] *= max(1, room)
    return steps


def blocks(shape: tuple[int, ...], axis: int | None = None) -> Iterator[Block]:
    """Cover an array of ``shape`` with blocks of about CHUNK elements, in order."""
    steps = _steps(shape, axis)
    starts = (range(0, n, step) for n, step in zip(shape, steps, strict=True))
    for corner in product(*starts):
        yield tuple(slice(i, i + step) for i, step in zip(corner, steps, strict=True))


def take(x: Array, block: Block) -> Array:
    """Cut ``block`` out of an array that broadcasts to the blocked shape; a scalar stays whole."""
    if np.ndim(x) == 0:
        return x
    return x[tuple(slice(None) if n == 1 else cut for n, cut in zip(x.shape, block, strict=True))]


def _fold(x: Array, axis: int) -> Array:
    """Sum each run of WIDTH along ``axis`` by halving; the axis keeps one sum per run."""
    n = x.shape[axis]
    width = _width(n)
    runs = -(-n // width)
    x = _filled(x, axis, runs * width)
    x = x.reshape(*x.shape[:axis], runs, width, *x.shape[axis + 1 :])
    x = np.moveaxis(x, axis + 1, 0) if x.ndim > 2 else x.T
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


def _width(n: int) -> int:
    """Return how many of n elements are folded together: to fill a shorter run up adds +0 alone."""
    return min(WIDTH, 1 << max(0, n - 1).bit_length())


def _filled(x: Array, axis: int, n: int) -> Array:
    """Fill ``x`` up with +0 along ``axis`` to length ``n``."""
    missing = n - x.shape[axis]
    if not missing:
        return x
    shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
    return np.concatenate([x, np.zeros_like(x, shape=shape)], axis)


def sum_along(f: Callable[..., Array], *arrays: Array, axis: int) -> Array:
    """Sum ``f(*arrays)`` along ``axis`` (kept, with length 1); ``f`` is elementwise and is applied block by block."""
    shape = _shape(arrays)
    axis %= len(shape)
    runs = (*shape[:axis], -(-shape[axis] // WIDTH), *shape[axis + 1 :])
    sums = np.zeros_like(arrays[0], shape=runs, dtype=arithmetic(arrays[0].dtype))
    for block in blocks(shape, axis):
        runs_of_block = slice(block[axis].start // WIDTH, -(-block[axis].stop // WIDTH))
        into = (*block[:axis], runs_of_block, *block[axis + 1 :])
        sums[into] = _fold(f(*(widen(take(x, block)) for x in arrays)), axis)
    return _finish(sums, axis)


def total(f: Callable[..., Array], *arrays: Array) -> Any:
    """Sum ``f(*arrays)`` over all elements in C order; ``f`` is elementwise and is applied block by block."""
    shape = _shape(arrays) or (1,)
    if math.prod(shape) <= CHUNK and is_whole():
        values = f(*map(widen, arrays)).reshape(-1)
        return _finish(_fold(values, 0), 0)[0]
    return finished(run_sums(f, *arrays))


def run_sums(f: Callable[..., Array], *arrays: Array) -> Array:
    """Return the sum of each run of WIDTH elements of ``f(*arrays)``, in C order: what ``total`` sums further."""
    runs = _Runs(arrays[0])
    for block in blocks(_shape(arrays) or (1,)):
        runs.add(f(*(widen(take(x, block)) for x in arrays)))
    return runs.all()


def totals(f: Callable[..., Sequence[Array]], *arrays: Array) -> list[Any]:
    """Sum each of the arrays that ``f(*arrays)`` returns as ``total`` does, in one go over the operands."""
    shape, every = _shape(arrays) or (1,), list[_Runs]()
    for block in list(blocks(shape)) or [(slice(None),) * len(shape)]:
        values = f(*(widen(take(x, block)) for x in arrays))
        every = every or [_Runs(arrays[0]) for _ in values]
        for runs, x in zip(every, values, strict=True):
            runs.add(x)
    return [finished(runs.all()) for runs in every]


class _Runs:
    """The sums of the runs of an array that comes block by block, which is laid out like ``like``."""

    def __init__(self, like: Array) -> None:
        self.rest = np.zeros_like(like, shape=0, dtype=arithmetic(like.dtype))
        self.sums = [self.rest]

    def add(self, values: Array) -> None:
        """Take the next elements, in C order."""
        rest = np.concatenate([self.rest, values.reshape(-1)])
        whole = len(rest) // WIDTH * WIDTH
        self.sums.append(_fold(rest[:whole], 0) if whole else rest[:0])
        self.rest = rest[whole:]

    def all(self) -> Array:
        """Return the sums of all runs."""
        return np.concatenate([*self.sums, _fold(self.rest, 0) if len(self.rest) else self.rest])


def finished(sums: Array) -> Any:
    """Return the sum of all elements from the sums of their runs, those of other parts among them."""
    return _finish(joined(sums), 0)[0]


def joined(x: Array) -> Array:
    """Return what all have who hold parts of an array (see ``parts``), one behind the other; else ``x`` itself."""
    join = _join.get()
    return x if join is None else join(x)


_join: ContextVar[Callable[[Array], Array] | None] = ContextVar("join", default=None)


def is_whole() -> bool:
    """Tell whether vectors are whole here: not inside ``parts``."""
    return _join.get() is None


@contextmanager
def parts(join: Callable[[Array], Array] | None) -> Iterator[None]:
    """Let ``total`` see parts of vectors, which begin at multiples of WIDTH, where others have the rest of them.

    ``join`` is given what one has, the sums of its runs, or one row of numbers, and returns what all have, in order;
    None lets arrays be whole again.
    """
    token = _join.set(join)
    try:
        yield
    finally:
        _join.reset(token)


def _shape(arrays: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape to which arrays broadcast."""
    shape: tuple[int, ...] = arrays[0].shape
    return shape if all(x.shape == shape for x in arrays) else np.broadcast_shapes(*(x.shape for x in arrays))


def _finish(sums: Array, axis: int) -> Array:
    """Fold the sums of runs until one is left; the sum of nothing is +0."""
    while sums.shape[axis] > 1:
        sums = _fold(sums, axis)
    return sums + 0.0 if sums.shape[axis] else _filled(sums, axis, 1)


class Dots:
    """Dot products of vectors of ``n`` elements, CHUNK at most, in memory that is made once.

    Called with two of NumPy's own vectors of this length and dtype it returns what ``dot`` does.
    """

    def __init__(self, n: int, dtype: DType) -> None:
        width = _width(n)
        values = np.zeros((max(1, -(-n // width)), width), dtype)  # what lies beyond n stays +0
        self._products, self._folds = values.reshape(-1)[:n], [*_folds(values)]
        self._sum = self._folds[-1][-1] if self._folds else values

    def __call__(self, x: Array, y: Array) -> Any:
        np.multiply(x, y, self._products)
        for fold in self._folds:
            np.add(*fold)
        return self._sum[0, 0] + 0.0


def _folds(values: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield what is added to what, and where to, until runs of values, one in each row, are one sum."""
    while values.size > 1:
        runs, width = values.shape
        sums, left = np.zeros((1, _width(runs)), values.dtype), np.empty((runs, width // 2), values.dtype)
        for half in (width >> i for i in range(1, width.bit_length())):
            into = left[:, :half] if half > 1 else sums[0, :runs, None]
            yield values[:, :half], values[:, half : 2 * half], into
            values = left
        values = sums


def square(x: Array) -> Array:
    """X * x"""
    return mul(x, x)


def dot(x: Array, y: Array) -> Any:
    """The sum of x * y over all elements."""
    return total(mul, x, y)


def norm(x: Array) -> Any:
    """The square root of the sum of squares over all elements."""
    return sqrt(total(square, x))


def matmul(a: Array, b: Array) -> Array:
    """The matrix product: entry (i, j) adds a[i, k] * b[k, j] for k = 0, 1, 2 … in order."""
    out = np.zeros_like(a, shape=(a.shape[0], b.shape[1]))
    for rows, columns in blocks(out.shape):
        entries = out[rows, columns]
        for k in range(a.shape[1]):
            entries += a[rows, k, None] * b[k, columns]
    return out


def operands(expression: Any) -> list[int]:
    """Return the numbers of the operands of a sum that is written as nested pairs, in order."""
    return [expression] if not isinstance(expression, tuple) else [i for x in expression for i in operands(x)]
