"""Gradients, and parameters to begin with, that any language can reproduce exactly.

Everything is made of one stream of 64-bit integers, splitmix64. Draw ``n`` = 0, 1, 2 … of ``seed`` is ``u``, where, all
arithmetic modulo 2**64::

    z = seed + (n + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    u = z ^ (z >> 31)

One draw makes one real number, an integer times a power of two that the storage type holds exactly::

    value = (u >> (64 - bits)) * 2**(exponent - ((u >> 1) & spread) - bits),  negative if u is odd (also -0)

``FORMATS`` gives ``bits``, ``exponent`` and ``spread`` for each kind of number and each storage type. ``zeros`` and
``special`` replace some normal numbers, ``nil`` makes all of them zeros; ``mixed`` and ``extreme`` choose the kind by
the position of the element. Elements are numbered in C order, and a complex one is two reals; in C this is in
``docs/contract/goldens.md``.

The gradients of ``rosenbrock``, ``logistic`` and ``mlp`` are computed in float64 by sums, differences, products and
quotients alone, each rounded by itself, every sum from its first term to its last, and are rounded once to storage.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from refoptim import SparseGrad
from refoptim.formats.raw import np_dtype as np_dtype
from refoptim.numerics.arith import Array, as_reals, from_reals, name_of, round_to, storage, widen

from . import digits

Shape = tuple[int, ...]

FORMATS: dict[str, dict[str, tuple[int, int, int]]] = {
    "normal": {"float16": (11, 1, 7), "bfloat16": (8, 1, 7), "float32": (24, 1, 7), "float64": (53, 1, 7)},
    "tiny": {"float16": (4, -20, 0), "bfloat16": (8, -26, 3), "float32": (24, -26, 3), "float64": (53, -26, 3)},
    "subnormal": {
        "float16": (10, -14, 0),
        "bfloat16": (7, -126, 0),
        "float32": (23, -126, 0),
        "float64": (52, -1022, 0),
    },
    "huge": {"float16": (11, 10, 7), "bfloat16": (8, 66, 7), "float32": (24, 66, 7), "float64": (53, 514, 7)},
}
"""Bits, exponent and spread of a kind of number in each storage type; squares of ``huge`` ones nearly overflow."""

CYCLES = {
    "mixed": ("normal", "tiny", "zeros", "subnormal"),
    "extreme": ("normal", "huge", "tiny", "huge", "zeros", "subnormal"),
}
"""Kinds that change from element to element: that of element ``i`` is entry ``i`` of the cycle, repeated."""

KINDS = (*FORMATS, "zeros", "nil", "special", *CYCLES)


def draws(seed: int, first: int, count: int) -> Array:
    """Return the draws ``first`` … ``first + count - 1`` of a seed as unsigned 64-bit integers."""
    n = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z = np.uint64(seed) + n * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def values(u: Array, kind: str, name: str) -> Array:
    """Turn draws into numbers of a kind, exact in the storage type ``name``, returned as float64."""
    if kind in CYCLES:
        cycle = CYCLES[kind]
        out = np.empty(u.shape)
        for i, member in enumerate(cycle):
            out[i :: len(cycle)] = values(u[i :: len(cycle)], member, name)
        return out
    x = _scaled(u, *FORMATS[kind if kind in FORMATS else "normal"][name])
    choice = u >> np.uint64(4) & np.uint64(7)
    if kind == "zeros":
        x = np.where(choice % 4 == 0, x, 0.0)
    if kind == "nil":
        x = np.zeros(u.shape)
    if kind == "special":
        x = np.where(choice == 0, np.inf, np.where(choice == 1, np.nan, x))
    return np.where(u & np.uint64(1), -x, x)


def _scaled(u: Array, bits: int, exponent: int, spread: int) -> Array:
    """Return the magnitudes ``(u >> (64 - bits)) * 2**(exponent - ((u >> 1) & spread) - bits)``."""
    shift = (u >> np.uint64(1) & np.uint64(spread)).astype(np.int64)
    return np.ldexp((u >> np.uint64(64 - bits)).astype(np.float64), exponent - bits - shift)


class Source:
    """Parameters to begin with and the gradients of each step, for parameters of given shapes and one dtype.

    The first draws make the parameters, one after the other; what follows them is said by each source.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    """What describes the source besides its name, the seed and ``start``."""

    def __init__(self, spec: Mapping[str, Any], shapes: Sequence[Shape], dtype: str) -> None:
        self.spec = spec
        self.shapes = shapes
        self.dtype = np_dtype(dtype)
        self.storage = storage(self.dtype)
        self.pair = 2 if self.dtype.kind == "c" else 1

    def parameters(self) -> list[Array]:
        """Return the parameters before the first step."""
        return self._arrays(0, self.shapes, self.spec.get("start", "normal"))

    def gradients(self, step: int, parameters: Sequence[Array]) -> list[Any]:
        """Return the gradients of a step at the parameters as they are before it."""
        raise NotImplementedError

    def _arrays(self, first: int, shapes: Sequence[Shape], kind: str) -> list[Array]:
        """Make arrays of draws that follow one another, beginning with number ``first``."""
        sizes = [self.pair * math.prod(shape) for shape in shapes]
        starts = accumulate(sizes, initial=first)
        return [self._array(*item, kind) for item in zip(starts, sizes, shapes, strict=False)]

    def _array(self, first: int, size: int, shape: Shape, kind: str) -> Array:
        u = draws(self.spec["seed"], first, size)
        reals = values(u, kind, name_of(self.storage)).astype(self.storage)
        return from_reals(reals.reshape(*shape, 2) if self.pair == 2 else reals.reshape(shape), self.dtype)

    def _taken(self) -> int:
        """Count the draws that the parameters took."""
        return self.pair * sum(math.prod(shape) for shape in self.shapes)

    def _kind(self, step: int) -> str:
        """Return the kind of a step: ``kinds`` is gone through again and again."""
        kinds: Sequence[str] = self.spec["kinds"]
        return kinds[(step - 1) % len(kinds)]


class Stream(Source):
    """Gradients that depend on nothing: each step takes as many draws as the parameters have reals."""

    keys = ("kinds",)

    def gradients(self, step: int, parameters: Sequence[Array]) -> list[Any]:
        return self._arrays(step * self._taken(), self.shapes, self._kind(step))


class Quadratic(Source):
    """The gradients of a quadratic: ``2**-(i mod 4) * (p - target)`` for real number ``i`` of a parameter.

    The targets are the draws behind the parameters, kind ``normal``. Difference and product are each rounded to the
    arithmetic type and then to the storage type.
    """

    def targets(self) -> list[Array]:
        """Return the parameters at which the gradient is zero."""
        return self._arrays(self._taken(), self.shapes, "normal")

    def gradients(self, step: int, parameters: Sequence[Array]) -> list[Any]:
        return [self._slope(p, target) for p, target in zip(parameters, self.targets(), strict=True)]

    def _slope(self, p: Array, target: Array) -> Array:
        x, y = as_reals(p), as_reals(target)
        curvature = np.ldexp(np.float32(1), -(np.arange(x.size).reshape(x.shape) % 4)).astype(self.storage)
        with np.errstate(all="ignore"):
            gap = round_to(widen(x) - widen(y), x)
            slope = round_to(widen(gap) * widen(curvature), x)
        return from_reals(np.asarray(slope), self.dtype)


class Rows(Source):
    """Sparse gradients of ``nnz`` entries over the leading axis; entry ``j`` of step ``t`` lies in row
    ``(5 t + 3 (j mod rows)) mod n``, and each step takes the draws of its entries.
    """

    keys = ("kinds", "nnz", "rows")

    def gradients(self, step: int, parameters: Sequence[Array]) -> list[Any]:
        shapes = [(self.spec["nnz"], *shape[1:]) for shape in self.shapes]
        per_step = self.pair * sum(math.prod(shape) for shape in shapes)
        entries = self._arrays(self._taken() + (step - 1) * per_step, shapes, self._kind(step))
        return [
            SparseGrad(self._rows(step, shape[0])[None], x, shape)
            for x, shape in zip(entries, self.shapes, strict=True)
        ]

    def _rows(self, step: int, n: int) -> Array:
        return (5 * step + 3 * (np.arange(self.spec["nnz"]) % self.spec["rows"])) % n


class Problem(Source):
    """The gradients of a function of float32 or float64 parameters, computed in float64 and rounded once to storage."""

    def gradients(self, step: int, parameters: Sequence[Array]) -> list[Any]:
        with np.errstate(all="ignore"):
            slopes = self.slopes(*(np.asarray(p, np.float64) for p in parameters))
            return [np.asarray(x, self.storage) for x in slopes]

    def slopes(self, *parameters: Array) -> list[Array]:
        """Return the gradients in float64."""
        raise NotImplementedError

    @classmethod
    def fits(cls, shapes: Sequence[Shape]) -> bool:
        """Tell whether the problem has parameters of these shapes."""
        raise NotImplementedError


class Rosenbrock(Problem):
    """The gradient of the sum of ``100 (x[i+1] - x[i]**2)**2 + (1 - x[i])**2`` over the elements of each parameter.

    ``((-2 x[i]) * pull[i] - 2 (1 - x[i])) + pull[i-1]``, where ``pull[i] = 200 (x[i+1] - x[i] * x[i])``; the first
    element lacks what is added, and the last what stands in the bracket.

    Source: Rosenbrock, "An automatic method for finding the greatest or least value of a function", Computer Journal
    1960, in the form that chains any number of variables.
    """

    def slopes(self, *parameters: Array) -> list[Array]:
        return [self._slope(p.reshape(-1)).reshape(p.shape) for p in parameters]

    def _slope(self, x: Array) -> Array:
        pull = 200 * (x[1:] - x[:-1] * x[:-1])
        own = -2 * x[:-1] * pull - 2 * (1 - x[:-1])
        return np.concatenate([own[:1], own[1:] + pull[:-1], pull[-1:]])

    @classmethod
    def fits(cls, shapes: Sequence[Shape]) -> bool:
        return all(math.prod(shape) > 1 for shape in shapes)


class Logistic(Problem):
    """Logistic regression: is a handwritten digit five or more? Parameters: a weight per pixel, and a bias.

    The gradient of the mean, over the 64 images of ``digits``, of the logarithmic loss.
    """

    def slopes(self, *parameters: Array) -> list[Array]:
        weights, bias = parameters
        x = digits.pixels()
        residual = sigmoid(summed(bias, (x * weights).T)) - digits.labels()
        return [mean(x * residual[:, None]), mean(residual)]

    @classmethod
    def fits(cls, shapes: Sequence[Shape]) -> bool:
        return list(shapes) == [(64,), ()]


class Perceptron(Problem):
    """The question of ``Logistic`` put to a network of one hidden layer, whose ``n`` units are max(0, x).

    Parameters: the weights ``(n, 64)`` and biases ``(n,)`` of the layer, a weight per unit, and a bias.
    """

    def slopes(self, *parameters: Array) -> list[Array]:
        weights, biases, outer, bias = parameters
        x = digits.pixels()
        inputs = summed(biases, (x[:, None] * weights).transpose(2, 0, 1))
        units = np.where(inputs > 0, inputs, 0.0)
        residual = sigmoid(summed(bias, (units * outer).T)) - digits.labels()
        back = np.where(inputs > 0, residual[:, None] * outer, 0.0)
        return [mean(back[:, :, None] * x[:, None]), mean(back), mean(units * residual[:, None]), mean(residual)]

    @classmethod
    def fits(cls, shapes: Sequence[Shape]) -> bool:
        n = shapes[0][0] if shapes[0] else 0
        return n > 0 and list(shapes) == [(n, 64), (n,), (n,), ()]


def summed(first: Array, terms: Array) -> Array:
    """Add the rows of ``terms`` to ``first``, one after the other."""
    return reduce(np.add, terms, first)


def mean(terms: Array) -> Array:
    """Return the sum over the 64 images, begun at zero, divided by 64."""
    return summed(np.zeros(terms.shape[1:]), terms) / 64


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, where ``x`` beyond -64 … 64 counts as -64 or 64, to about 12 digits.

    The exponential of a 256th is Taylor's polynomial of degree 10 by Horner's rule, then squared eight times.
    """
    t = np.where(x > 64, -64.0, np.where(x < -64, 64.0, -x)) / 256
    exponential = np.ones_like(t)
    for n in range(10, 0, -1):
        exponential = 1 + t * exponential / n
    for _ in range(8):
        exponential = exponential * exponential
    return 1 / (1 + exponential)


SOURCES: dict[str, type[Source]] = {
    "stream": Stream,
    "quadratic": Quadratic,
    "rows": Rows,
    "rosenbrock": Rosenbrock,
    "logistic": Logistic,
    "mlp": Perceptron,
}


def make_source(spec: Mapping[str, Any], shapes: Sequence[Shape], dtype: str) -> Source:
    """Return the source that a case describes."""
    return SOURCES[spec["source"]](spec, shapes, dtype)
