"""Running averages of weights: update rules whose parameter is the average and whose gradient is the current weight.

``k`` is the number of models that have been averaged so far, 1, 2 …; the first model is copied, not averaged. A rule is
also the function that averages: an instance holds its hyperparameters and takes ``(averaged, current, num_averaged)``.
The single forms return a new array, the multi forms, which interpolate, write into a list of arrays. Like an optimizer
they run kernels if ``fused`` is True, and on CuPy arrays unless it is False.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import Annotated, Any, NamedTuple

import numpy as np

from .. import engines
from ..engines import pure, reference
from ..engines.workspace import Workspace
from ..numerics.arith import Array, DType, add, div, is_narrow, lerp, mul, storage, sub
from ..numerics.array_types import at, check_together, copied, is_writable, on_gpu, place
from ..step import hyper as hp
from ..step.changes import Change, there
from ..step.parameter import Parameter, as_array
from ..step.plan import Bucket, Memory, Task
from ..step.rule import Hypers, Record, Registers, Rule, get_default_dtype, record, resolve, step_scalars
from ..step.scaling import Scaling


class Pair(NamedTuple):
    """An average and what is averaged into it; ``rounded`` is the 16-bit array, if any, beside a float32 average."""

    average: Array
    current: Array
    rounded: Array | None = None

    def task(self) -> Task:
        """Return what an engine is to do: where the weight has 16 bits, the average is like a master copy."""
        if self.rounded is not None and is_narrow(self.current):
            return Task(Parameter(self.rounded), self.current, {}, self.average)
        return Task(Parameter(self.average), self.current, {})

    def put(self, value: Array) -> list[Change]:
        """Return what writes a new average, or the one that there is beside itself."""
        arrays = [x for x in (self.average, self.rounded) if x is not None and x is not value]
        return there(place(self.average), [partial(setitem, x, ..., value) for x in arrays])


Decay = Annotated[
    float,
    hp.Real(
        "the share of the old average that stays",
        stem="Invalid decay value {value} provided. Please provide a value in [0,1] range.",
        interval=hp.Interval("[0, 1]"),
    ),
]

COUNT = hp.Count("the number of models averaged so far", interval=hp.Interval("[0, inf)"))


class Average(Rule):
    """A rule that averages one array at a time.

    Args:
        averaged: the average so far.
        current: the weight to take in, of the same shape and dtype.
        num_averaged: the number of models averaged so far.

    Returns:
        The new average, a new array of the same shape and dtype.

    Raises:
        TypeError, ValueError: an argument is no array or no count, or shapes or dtypes differ.
        RuntimeError: there are no kernels, and ``fused`` asks for them.
    """

    counts_steps = False

    def __init__(self, **settings: Any) -> None:
        self.h = resolve(type(self), settings)

    def __call__(self, averaged: Array, current: Array, num_averaged: int) -> Array:
        x, y, _ = checked("averaged", averaged, "current", current)
        k = count(num_averaged)
        if not (self.h.fused or (self.h.fused is None and on_gpu(x))):
            return self._average(x, y, k)
        x = copied(x)
        self.write([Pair(x, y)], k)
        return x

    def write(self, pairs: Sequence[Pair], k: int) -> None:
        """Average the second array of each pair into the first; the pairs have been checked."""
        workspace = Workspace()
        workspace.make(self.changes(pairs, k, workspace))

    def changes(self, pairs: Sequence[Pair], k: int, workspace: Workspace) -> list[Change]:
        """Return what averages the second array of each pair into the first."""
        pairs = _apart(pairs)
        buckets: dict[Any, Bucket] = {}
        tasks = [(pair, pair.task()) for pair in pairs if place(pair.average)]
        for pair, task in tasks:
            key = place(pair.average), task.parameter.dtype, task.grad.dtype
            if key not in buckets:
                buckets[key] = self._bucket(pair.average, k)
            buckets[key].tasks.append(task)
        works = [engines.prepare(bucket, workspace) for bucket in buckets.values()]
        others = [(pair, self._new(pair, k)) for pair in pairs if not place(pair.average)]
        others += [(pair, pair.average) for pair, task in tasks if task.master is None]
        return [*(x for work in works for x in work.changes), *(x for pair, new in others for x in pair.put(new))]

    def _new(self, pair: Pair, k: int) -> Array:
        return self._average(pair.average, pair.current.astype(pair.average.dtype), k)

    def _bucket(self, x: Array, k: int) -> Bucket:
        """Return what is to be averaged where ``x`` is, in its dtype: nothing yet."""
        where: Any = place(x)
        group, s = {"fused": self.h.fused}, self._scalars(k, x.dtype)
        return Bucket(
            type(self), group, self.h, s, k, {}, unmade=frozenset(), sparse=False, place=where, scaling=Scaling()
        )

    def _average(self, averaged: Array, current: Array, k: int) -> Array:
        s = self._scalars(k, averaged.dtype)
        with at(place(averaged)):
            return pure.run(type(self), s, averaged, current, {}, reference.get_rounding())[0]

    def _scalars(self, k: int, dtype: DType) -> Record:
        return record(step_scalars(type(self), self.h, k, {}) | {"complex": dtype.kind == "c"}, dtype)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self.h).items() if value is not None)
        return f"{type(self).__name__}({settings})"


class MultiAverage(Average):
    """A rule that averages a list of arrays in place.

    Args:
        averaged: the averages so far, which are written to.
        current: the weights to take in, of the same shapes and dtypes.
        num_averaged: the number of models averaged so far.

    Raises:
        TypeError, ValueError: an argument is no list of writable arrays or no count, or lengths, shapes or dtypes
            differ. Nothing has changed then.
    """

    def __call__(self, averaged: Sequence[Array], current: Sequence[Array], num_averaged: int) -> None:
        k = count(num_averaged)
        if len(averaged) != len(current):
            raise ValueError(f"averaged and current must be equally long, got {len(averaged)} and {len(current)}")
        pairs = [
            checked(f"averaged[{i}]", x, f"current[{i}]", y, write=True)
            for i, (x, y) in enumerate(zip(averaged, current, strict=True))
        ]
        self.write(pairs, k)


class EMA(Average):
    """An exponential moving average.

    .. code-block:: text

        average = decay * average + (1 - decay) * current
    """

    def __init__(self, decay: Decay = 0.999, *, fused: hp.Fused = None) -> None:
        super().__init__(decay=decay, fused=fused)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(decay=h.decay, one_minus_decay=1 - h.decay)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (add(mul(p, s.decay), mul(g, s.one_minus_decay)),)


class SWA(Average):
    """The mean of all weights, each with the same share.

    .. code-block:: text

        average = average + (current - average) / (k + 1)

    Complex numbers are multiplied by 1 / (k + 1), as in a complex division.
    """

    def __init__(self, *, fused: hp.Fused = None) -> None:
        super().__init__(fused=fused)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(count=k + 1, share=1 / (k + 1))

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        gap = sub(g, p)
        return (add(p, mul(gap, s.share) if s.complex else div(gap, s.count)),)


class LerpEMA(MultiAverage):
    """An exponential moving average, by interpolation.

    .. code-block:: text

        average = lerp(average, current, 1 - decay)
    """

    def __init__(self, decay: Decay = 0.999, *, fused: hp.Fused = None) -> None:
        super().__init__(decay=decay, fused=fused)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(share=1 - h.decay)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (lerp(p, g, s.share),)


class LerpSWA(MultiAverage):
    """The mean of all weights, by interpolation.

    .. code-block:: text

        average = lerp(average, current, 1 / (k + 1))

    The share 1 / (k + 1) is a number in the default dtype, float32 unless ``set_default_dtype`` changes it.
    """

    def __init__(self, *, fused: hp.Fused = None) -> None:
        super().__init__(fused=fused)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        number = get_default_dtype().type
        return dict(share=number(1) / number(k + 1))

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return (lerp(p, g, s.share),)


def checked(name: str, x: Any, other: str, y: Any, write: bool = False) -> Pair:
    """Return two arrays that can be averaged, ``x`` writable if ``write``; raise TypeError or ValueError."""
    x, y = array(name, x), array(other, y)
    storage(x.dtype)
    same_kind(name, x, other, y)
    if write:
        check_writable(name, x)
    return Pair(x, y)


def array(name: str, x: Any) -> Array:
    """Return the array that ``x`` is or hands over by DLPack; raise TypeError otherwise.

    An array of another library stays what it is if it understands NumPy's functions.
    """
    if hasattr(x, "__array_function__") and not isinstance(x, (np.ndarray, np.generic)):
        return x
    try:
        return as_array(x)
    except (TypeError, BufferError) as error:
        raise TypeError(f"{name} must be an array: {error}") from error


def same_kind(name: str, x: Array, other: str, y: Array) -> None:
    """Raise if two arrays differ in shape, dtype, library or device."""
    if y.shape != x.shape:
        raise ValueError(f"{other} must have the shape of {name}, {x.shape}, got {y.shape}")
    if y.dtype != x.dtype:
        raise TypeError(f"{other} must have the dtype of {name}, {x.dtype}, got {y.dtype}")
    check_together(other, y, name, x)


def check_writable(name: str, x: Array) -> None:
    """Raise ValueError if ``x`` cannot be written to."""
    if not is_writable(x):
        raise ValueError(f"{name} must be writable, but it is read-only")


def count(num_averaged: Any) -> int:
    """Return a number of models, given as an integer or as an array of one, as a Python integer."""
    if np.ndim(num_averaged) == 0 and np.asarray(num_averaged).dtype.kind in "iu":
        num_averaged = int(num_averaged)
    return int(COUNT.resolve("num_averaged", num_averaged))


def _apart(pairs: Sequence[Pair]) -> list[Pair]:
    """Copy the second arrays that writing to a first one would change."""
    memory = Memory([x for pair in pairs for x in (pair.average, pair.rounded) if x is not None])
    return [pair._replace(current=copied(y)) if place(y := pair.current) and y in memory else pair for pair in pairs]


def get_ema_avg_fn(decay: float = 0.999, *, fused: bool | None = None) -> EMA:
    """Return the function ``decay * averaged + (1 - decay) * current``; ``decay`` must be in [0, 1]."""
    return EMA(decay, fused=fused)


def get_swa_avg_fn(*, fused: bool | None = None) -> SWA:
    """Return the function ``averaged + (current - averaged) / (num_averaged + 1)``."""
    return SWA(fused=fused)


def get_ema_multi_avg_fn(decay: float = 0.999, *, fused: bool | None = None) -> LerpEMA:
    """Return the function that writes ``lerp(averaged, current, 1 - decay)``; ``decay`` must be in [0, 1]."""
    return LerpEMA(decay, fused=fused)


def get_swa_multi_avg_fn(*, fused: bool | None = None) -> LerpSWA:
    """Return the function that writes ``lerp(averaged, current, 1 / (num_averaged + 1))``."""
    return LerpSWA(fused=fused)
