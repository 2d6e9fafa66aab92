"""Comparison with torch, bit for bit: refoptim and torch side by side, and configurations drawn for both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from refoptim.conformance.gradients import np_dtype
from refoptim.conformance.oracle import plain_state, to_numpy, to_torch
from refoptim.conformance.rounded import real
from refoptim.conformance.trajectory import bits

import refoptim
from refoptim import SparseGrad
from refoptim.numerics.arith import as_reals

Hyper = dict[str, Any]
Uniform = Callable[[float, float], float]
Switch = Callable[[int], bool]


def rng_of(*words: object) -> np.random.Generator:
    """Return a generator that depends on nothing but ``words``."""
    return np.random.default_rng(crc32(repr(words).encode()))


def assert_same_bits(ours: Any, theirs: Any, where: str, *, signed_zeros: bool = True) -> None:
    """Fail unless two values have the same type, shape and bits; NaNs are one class, -0 is not +0 by default."""
    if isinstance(theirs, int):
        assert type(ours) is int, where
        assert ours == theirs, where
        return
    x, y = np.asarray(ours), np.asarray(theirs)
    assert (x.shape, x.dtype) == (y.shape, y.dtype), where
    a, b = (bits(z if signed_zeros else z + z.dtype.type(0)).ravel() for z in (x, y))
    wrong = np.flatnonzero(a != b)
    if wrong.size:
        i = wrong[0]
        raise AssertionError(f"{where}: {wrong.size} of {a.size} differ; real {i} is {a[i]:x}, torch's {b[i]:x}")


class Pair:
    """An optimizer of refoptim and the same one of torch, over equal parameters in two groups.

    With ``pairs`` torch gets complex parameters as pairs of reals; if ``coalesced`` it gets sums of sparse entries.
    """

    coalesced = False

    def __init__(self, name: str, make: Callable[[], list[Any]], hyper: Hyper, second: Hyper, pairs: bool) -> None:
        import torch

        self.view = as_reals if pairs else np.asarray
        self.arrays, copies = make(), make()
        self.tensors = [to_torch(self.view(x)) for x in copies]
        half = (len(copies) + 1) // 2
        cls = getattr(torch.optim, name)
        loop = {"foreach": False} if "foreach" in inspect.signature(cls).parameters else {}

        def groups(members: list[Any], convert: Callable[[Any], Any]) -> list[Any]:
            first = {"params": members[:half]}
            return [first, {"params": members[half:], **convert(second)}] if members[half:] else [first]

        self.ours = getattr(refoptim, name)(groups(self.arrays, dict), **hyper)
        self.theirs = cls(groups(self.tensors, torch_hyper), **torch_hyper(hyper), **loop)

    def set(self, group: int, **hyper: Any) -> None:
        self.ours.param_groups[group].update(hyper)
        self.theirs.param_groups[group].update(torch_hyper(hyper))

    def step(self, grads: Sequence[Any]) -> None:
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = None if grad is None else self._grad(grad)
        self.theirs.step()
        self.ours.step(grads=grads)

    def _grad(self, grad: Any) -> Any:
        if isinstance(grad, SparseGrad):
            return to_torch(grad).coalesce() if self.coalesced else to_torch(grad)
        return to_torch(self.view(grad))

    def sides(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield parameters and state, named, as refoptim and torch have them."""
        parameters = [p for group in self.ours.param_groups for p in group["params"]]
        for i, (p, tensor) in enumerate(zip(parameters, self.tensors, strict=True)):
            ours = {"value": p.data, **self.ours.state.get(p, {})}
            theirs = {"value": to_numpy(tensor), **plain_state(self.theirs.state.get(tensor, {}))}
            assert p.data is self.arrays[i]
            assert set(ours) == set(theirs), i
            for name, x in ours.items():
                yield f"parameter {i} of shape {p.shape}, {name}", x if type(x) is int else self.view(x), theirs[name]

    def compare(self, where: str, **comparison: bool) -> None:
        """Fail unless all parameters and all state are the same."""
        for name, ours, theirs in self.sides():
            assert_same_bits(ours, theirs, f"{where}, {name}", **comparison)

    def error(self) -> float:
        """Return the largest difference in any array, relative to the largest magnitude in it."""
        return max(relative_error(ours, theirs) for _, ours, theirs in self.sides())


def relative_error(x: Any, y: Any) -> float:
    """Return the largest difference of two arrays, relative to the largest magnitude in the second."""
    x, y = (np.asarray(z, np.float64) for z in (x, y))
    gap = np.abs(x - y).max()
    return float(gap / np.abs(y).max()) if gap else 0.0


def torch_hyper(hyper: Hyper) -> Hyper:
    """Return hyperparameters for torch: 0-d arrays as tensors of the same dtype, floats with exact powers."""
    return {key: to_torch(x.copy()) if isinstance(x, np.ndarray) else real(x) for key, x in hyper.items()}


def layouts(dtype: str, seed: int) -> list[Any]:
    """Make parameters with odd tails, one of them 0-d, and transposed, strided and Fortran-ordered ones."""
    shapes = [(1,), (5,), (17,), (), (33,), (1027,), (7, 11), (9, 6), (31,), (8, 3)]
    *plain, turned, strided, fortran = normals(dtype, seed, shapes)
    return [*plain, turned.T, strided[::2], np.asfortranarray(fortran)]


def normals(dtype: str, seed: int, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Draw normally distributed parameters."""
    rng = np.random.default_rng(seed)
    return [stored(rng.standard_normal(reals(shape, dtype)), dtype) for shape in shapes]


def gradient(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Draw a gradient of mixed magnitudes, among them both zeros, subnormals, tiny and large numbers."""
    tiny = {"float16": 6e-8, "float64": 1e-310, "complex128": 1e-310}.get(dtype, 1e-40)
    large, small = (8.0, 1e-5) if dtype == "float16" else (1e4, 1e-8)
    scales = np.array([1.0, 0.1, 1e-3, small, large, 0.0, tiny])
    size = reals(shape, dtype)
    chosen = scales[rng.choice(len(scales), size, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1])]
    return stored(rng.standard_normal(size) * chosen, dtype)


def reals(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return the shape of the real numbers of an array: a complex one holds pairs."""
    return (*shape, 2) if dtype.startswith("complex") else shape


def stored(x: Any, dtype: str) -> Any:
    """Round doubles to a storage type, or join pairs of them to complex numbers."""
    target = np_dtype(dtype)
    x = np.asarray(x)
    if target.kind == "c":
        x = np.ascontiguousarray(x).view(np.complex128)[..., 0]
    with np.errstate(under="ignore"):
        return x.astype(target)


def _adam(u: Uniform, on: Switch) -> Hyper:
    return dict(lr=u(0.001, 0.1), betas=(u(0.1, 0.98), u(0.5, 0.9995)), eps=10 ** u(-9, -2), weight_decay=u(0.01, 0.3))


DRAWS: dict[str, Callable[[Uniform, Switch], Hyper]] = {
    "SGD": lambda u, on: dict(
        lr=u(0.001, 0.1),
        momentum=u(0.3, 0.98) if on(1) else 0,
        dampening=0 if on(1) and on(2) else u(-0.5, 0.9),
        nesterov=on(1) and on(2),
        weight_decay=u(0.01, 0.3) if on(3) else 0,
    ),
    "Adam": lambda u, on: dict(_adam(u, on), amsgrad=on(1), decoupled_weight_decay=on(2)),
    "AdamW": lambda u, on: dict(_adam(u, on), amsgrad=on(1)),
    "NAdam": lambda u, on: dict(_adam(u, on), momentum_decay=10 ** u(-3, -0.5), decoupled_weight_decay=on(1)),
    "RAdam": lambda u, on: dict(_adam(u, on), decoupled_weight_decay=on(1)),
    "Adamax": _adam,
    "Adadelta": lambda u, on: dict(
        lr=u(0.1, 2), rho=u(0.5, 0.99), eps=10 ** u(-8, -2), weight_decay=u(0.01, 0.3) if on(3) else 0
    ),
    "Adagrad": lambda u, on: dict(
        lr=u(0.001, 0.1),
        lr_decay=u(0.001, 0.5),
        initial_accumulator_value=u(0.01, 2),
        eps=10 ** u(-10, -2),
        weight_decay=u(0.01, 0.3) if on(3) else 0,
    ),
    "RMSprop": lambda u, on: dict(
        lr=u(0.001, 0.1),
        alpha=u(0.3, 0.999),
        eps=10 ** u(-8, -2),
        momentum=u(0.3, 0.98) if on(1) else 0,
        centered=on(2),
        weight_decay=u(0.01, 0.3) if on(3) else 0,
    ),
    "Rprop": lambda u, on: dict(
        lr=u(0.001, 0.1), etas=(u(0.2, 0.9), u(1.05, 2)), step_sizes=(10 ** u(-6, -3), u(0.02, 0.5))
    ),
    "ASGD": lambda u, on: dict(
        lr=u(0.001, 0.1),
        lambd=10 ** u(-4, -1),
        alpha=u(0.3, 1.2),
        t0=u(1, 30),
        weight_decay=u(0.01, 0.3) if on(3) else 0,
    ),
    "SparseAdam": lambda u, on: dict(lr=u(0.001, 0.1), betas=(u(0.1, 0.98), u(0.5, 0.9995)), eps=10 ** u(-9, -2)),
}
"""For each optimizer a configuration of its options: ``u`` draws a number, ``on`` a switch."""

DENSE = [name for name in DRAWS if name != "SparseAdam"]


def draw(name: str, dtype: str, i: int) -> Hyper:
    """Draw configuration ``i`` of an optimizer; 0 … 7 go through all settings of its switches 0, 1 and 2."""
    rng = rng_of("configuration", name, dtype, i)

    def on(j: int) -> bool:
        return bool(i >> j & 1) if j < 3 else i % 3 != 0

    hyper = DRAWS[name](lambda low, high: float(rng.uniform(low, high)), on)
    if dtype == "float16" and "eps" in hyper:
        hyper["eps"] = float(rng.uniform(1e-4, 1e-2))
    return hyper | {"maximize": on(0)}


def sparse_gradient(rng: np.random.Generator, shape: tuple[int, ...], sparse_dim: int, dtype: str) -> SparseGrad:
    """Draw a sparse gradient in no order, no index in it more than twice; now and then it is empty."""
    leading = shape[:sparse_dim]
    places = rng.permutation(int(np.prod(leading)))[: rng.integers(0, 1 + int(np.prod(leading)))]
    places = rng.permutation(np.concatenate([places, places[::3]]))
    values = gradient(rng, (len(places), *shape[sparse_dim:]), dtype)
    return SparseGrad(np.stack(np.unravel_index(places, leading)), values, shape)
