"""What tests of averages share: forms of averages, models, and arrays of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from helpers.oracle import assert_same_bits, gradient, layouts, rng_of, stored
from refoptim import Parameter

REAL = ["float16", "bfloat16", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]
DECAYS = [0.3, 0.5, 0.75, 0.999]
"""Both branches of lerp, and the border between them."""

FORMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "default": lambda library: {},
    "swa": lambda library: {"avg_fn": library.get_swa_avg_fn()},
    "swa multi": lambda library: {"multi_avg_fn": library.get_swa_multi_avg_fn()},
    **{f"ema {d}": lambda library, d=d: {"avg_fn": library.get_ema_avg_fn(d)} for d in DECAYS},
    **{f"ema multi {d}": lambda library, d=d: {"multi_avg_fn": library.get_ema_multi_avg_fn(d)} for d in DECAYS},
}


def assert_same(x: Any, y: Any, where: str) -> None:
    """Fail unless two arrays, perhaps of integers, are the same."""
    if x.dtype.kind in "iu":
        assert (x.dtype, x.tolist()) == (y.dtype, y.tolist()), where
    else:
        assert_same_bits(x, y, where)


class Net:
    """Two Parameters and two buffers, as an object with names."""

    def __init__(self, dtype: str = "float32") -> None:
        self.weight = Parameter(stored([[1.5, -2.0], [0.25, 8.0]], dtype))
        self.bias = Parameter(stored([0.5, -0.75], dtype))
        self.mean = stored([4.0, 5.0, 6.5], dtype)
        self.steps = np.array(3)

    def __call__(self, x: Any) -> Any:
        return x @ self.weight.data + self.bias.data

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        yield from (("weight", self.weight), ("bias", self.bias))

    def parameters(self) -> Iterator[Any]:
        return (x for _, x in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        yield from (("mean", self.mean), ("steps", self.steps))

    def buffers(self) -> Iterator[Any]:
        return (x for _, x in self.named_buffers())


def weights(dtype: str, seed: int) -> list[Any]:
    """Draw arrays of all layouts: one empty, one of several chunks, one of zeros, subnormals, infinities and NaN."""
    rng = rng_of(dtype, seed)
    arrays = [*layouts(dtype, seed), stored(np.zeros((0, 3, 2) if dtype in COMPLEX else (0, 3)), dtype)]
    arrays.append(gradient(rng, (70_000,), dtype))
    if dtype in REAL:
        arrays.append(specials(dtype)[rng.permutation(len(specials(dtype)))])
    return arrays


def specials(dtype: str) -> Any:
    tiny = {"float64": 5e-324, "float16": 6e-8}.get(dtype, 1e-45)
    huge = {"float64": 1.7e308, "float16": 65000.0}.get(dtype, 3e38)
    some = [0.0, tiny, 1.0, 1 + 2.0**-7, huge, np.inf, np.nan, 1 / 3]
    return stored(np.repeat([*some, *(-x for x in some)], 16), dtype)


def nested(x: float) -> dict[str, Any]:
    """A model of dicts, lists, tuples, Parameters, arrays and an object."""
    net = Net()
    net.weight.data[...] += np.float32(x)
    layers = [(Parameter(np.full(2, x)), np.full((2, 2), -x, np.float16)), {"gain": np.array(x, np.float32)}]
    return {"layers": layers, "net": net, 7: np.array([x, 2 * x]), "count": np.array([int(x), 5])}


class Broken(Exception):
    """What a function raises."""


def fails_at(shape: tuple[int, ...]) -> Callable[[Any, Any, int], Any]:
    """Return an avg_fn that works in place and raises at an array of this shape."""

    def function(averaged: Any, current: Any, num_averaged: int) -> Any:
        averaged *= 0
        if averaged.shape == shape:
            raise Broken("on purpose")
        return averaged

    return function


def two(x: float) -> dict[str, Any]:
    return {"w": np.full((2, 2), x, np.float32), "v": np.full(4, -x, np.float32), "n": np.array([int(x)])}
