"""Muon's step on a matrix: a fixed sequence of launches, with nothing read back in between."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from refoptim.engines.launches import scalar
from refoptim.engines.machine import Machine, Recorder
from refoptim.numerics.arith import Array, DType, arithmetic, mul, to_bfloat16
from refoptim.numerics.array_types import plain

from .harness.sums import Sums, total
from .vector import blocks

RECORD = ("one_minus_momentum", "momentum", "nesterov", "shrink", "step_size")
"""The fields of the struct of that name in ``muon.cu``."""

MATRIX = np.dtype(
    [
        *((name, np.int64) for name in ("rows", "columns", "turned", "bfloat16", "maximize")),
        *((name, np.uint64) for name in ("grad_scale", "found_inf")),
    ]
)
"""The struct of that name in ``muon.cu``."""

TILE = 64
"""Rows and columns of a product that a block computes, as in ``product.cuh``; no result depends on it."""


def update(machine: Machine, rule: Any, step: Any, tensors: Sequence[Any]) -> None:
    """Update parameters, their momentum and their rounded copies, all in C order.

    Args:
        machine: where the arrays are.
        rule: says how large a step is for a matrix of a shape.
        step: what differs from step to step: the scalars ``s``, and float32 arrays of one element or None:
            ``grad_scale`` divides the gradient, and ``found_inf`` other than 0 skips the step.
        tensors: the arrays of each: ``p``, ``g``, ``state`` (the momentum alone) and ``copy``.
    """
    number = np.dtype("float64" if step.s.ns_dtype == "float64" else "float32")
    tensors = [x for x in tensors if x.p.size]
    if step.s.products == "library":
        for tensor in tensors:
            _update_by_library(machine, rule, step, tensor, number)
    elif tensors:
        room = Room(machine, number, [x.p.shape for x in tensors])
        for tensor in tensors:
            _update(machine, rule, step, tensor, room)


class Room:
    """Memory for the matrices of the iteration; those of one tensor lie where those of the one before it lay.

    Args:
        machine: where they are.
        number: their dtype.
        shapes: the shapes of the tensors.
    """

    def __init__(self, machine: Machine, number: DType, shapes: Sequence[tuple[int, ...]]) -> None:
        size, square = max(map(prod, shapes)), max(min(shape) * min(shape) for shape in shapes)
        self.memory = [machine.empty((n,), number) for n in (size, size, square, square)]

    def matrices(self, rows: int, columns: int) -> list[Array]:
        """Return two matrices of this shape, and two with as many columns as rows."""
        shapes = [(rows, columns), (rows, columns), (rows, rows), (rows, rows)]
        return [x[: prod(shape)].reshape(shape) for x, shape in zip(self.memory, shapes, strict=True)]


def _update(machine: Machine, rule: Any, step: Any, tensor: Any, room: Room) -> None:
    x, *others = room.matrices(min(tensor.p.shape), max(tensor.p.shape))
    ends = _Ends(machine, rule, step, tensor, x.dtype)
    ends.look_ahead(machine, x)
    ends.move(machine, orthogonalized(machine, step.s, x, *others))


def _update_by_library(machine: Machine, rule: Any, step: Any, tensor: Any, number: DType) -> None:
    """Update a tensor whose iteration is run now, in memory of its own, whoever writes the last launch down."""
    now = machine.machine if isinstance(machine, Recorder) else machine
    x = machine.empty((min(tensor.p.shape), max(tensor.p.shape)), number)
    ends = _Ends(machine, rule, step, tensor, number)
    ends.look_ahead(now, x)
    _normalize(now, step.s, x)
    ends.move(machine, orthogonalized_by_library(step.s, x))


class _Ends:
    """The launches at both ends of a step on a tensor."""

    def __init__(self, machine: Machine, rule: Any, step: Any, tensor: Any, number: DType) -> None:
        p, s, self.tensor = tensor.p, step.s, tensor
        scaling = (0 if x is None else machine.address(x) for x in (step.grad_scale, step.found_inf))
        fields = (*p.shape, p.shape[0] > p.shape[1], s.ns_dtype == "bfloat16", s.maximize, *scaling)
        self.step = _record(rule, s, p), scalar(MATRIX, fields)
        self.entry = f"{_storage(tensor)}_{number.name}"

    def look_ahead(self, machine: Machine, x: Array) -> None:
        """Put what is to be made orthogonal into ``x``."""
        p, g, (momentum,) = self.tensor.p, self.tensor.g, self.tensor.state
        machine.launch("muon", f"muon_ahead_{self.entry}", blocks(p.size), *self.step, g, momentum, x)

    def move(self, machine: Machine, x: Array) -> None:
        """Update the parameter by an orthogonal matrix, and the momentum."""
        p, g, (momentum,) = self.tensor.p, self.tensor.g, self.tensor.state
        arrays = (p, g, momentum, x, self.tensor.copy)
        machine.launch("muon", f"muon_{self.entry}", blocks(p.size), *self.step, *arrays)


def _storage(tensor: Any) -> str:
    return str(tensor.p.dtype.name if tensor.copy is None else f"{tensor.copy.dtype.name}_master")


def _record(rule: Any, s: Any, p: Array) -> Any:
    """Return the scalars of the step, with the size of a step, which depends on the shape."""
    values = {**vars(s), "step_size": rule.step_size(s, p.shape)}
    number = arithmetic(p.dtype)
    struct = np.dtype([(name, number) for name in RECORD])
    return scalar(struct, tuple(number.type(values[name]) for name in RECORD))


def orthogonalized(machine: Machine, s: Any, x: Array, other: Array, gram: Array, polynomial: Array) -> Array:
    """Return an almost orthogonal matrix near ``x``, which is overwritten, as are the others."""
    a, b, c = s.exact.ns_coefficients
    _normalize(machine, s, x)
    product = Products(machine, x.dtype, np.int64(s.ns_dtype == "bfloat16"))
    for _ in range(s.exact.ns_steps):
        product(x, x, gram, transposed=True, symmetric=True)
        product(gram, gram, polynomial, symmetric=True, addend=gram, b=b, c=c)
        product(polynomial, x, other, addend=x, b=a, c=1)
        x, other = other, x
    return x


def _normalize(machine: Machine, s: Any, x: Array) -> None:
    """Divide a matrix by its norm."""
    number, rounded = x.dtype, np.int64(s.ns_dtype == "bfloat16")
    norm = Sums(machine, number, [total([machine.address(x)], x.size)])
    norm.launch("harness/sums", f"sums_of_squares_{number.name}")
    square, eps = np.uint64(norm.results[0]), number.type(s.exact.eps)
    machine.launch("muon", f"muon_normalize_{number.name}", blocks(x.size), x, np.int64(x.size), square, eps, rounded)


@np.errstate(all="ignore")
def orthogonalized_by_library(s: Any, x: Array) -> Array:
    """Return an almost orthogonal matrix near a normalized ``x``, by the ``matmul`` of its library."""
    rounded = to_bfloat16 if s.ns_dtype == "bfloat16" else plain
    a, b, c = (x.dtype.type(y) for y in s.exact.ns_coefficients)
    for _ in range(s.exact.ns_steps):
        gram = rounded(np.matmul(x, x.T))
        polynomial = rounded(mul(gram, b) + mul(np.matmul(gram, gram), c))
        x = rounded(mul(x, a) + np.matmul(polynomial, x))
    return x


class Products:
    """Products of matrices on a machine, in a dtype; ``rounded`` rounds each entry to bfloat16."""

    def __init__(self, machine: Machine, dtype: DType, rounded: Any) -> None:
        self.machine, self.entry, self.rounded = machine, f"muon_product_{dtype.name}", rounded
        integers = ("rows", "columns", "depth", "transposed", "symmetric", "bfloat16")
        addresses = ("left", "right", "addend", "out")
        fields = [*((x, np.int64) for x in integers), *((x, np.uint64) for x in addresses), ("b", dtype), ("c", dtype)]
        self.struct = np.dtype(fields)

    def __call__(
        self,
        left: Array,
        right: Array,
        out: Array,
        *,
        transposed: bool = False,
        symmetric: bool = False,
        addend: Array | None = None,
        b: float = 0.0,
        c: float = 1.0,
    ) -> None:
        """Compute left @ right (or its transpose), and with an addend b * addend + c * that."""
        matrices = (0 if x is None else self.machine.address(x) for x in (left, right, addend, out))
        fields = (*out.shape, left.shape[1], transposed, symmetric, self.rounded, *matrices, b, c)
        down, across = (-(-n // TILE) for n in out.shape)
        tiles = across * (across + 1) // 2 if symmetric else down * across
        self.machine.launch("muon", self.entry, tiles, np.array(fields, self.struct)[()])
