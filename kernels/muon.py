"""Muon's step on a matrix: a fixed sequence of launches, with nothing read back in between."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from refoptim.engines.launches import scalar
from refoptim.engines.machine import Machine
from refoptim.numerics.arith import Array, DType, arithmetic

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
"""Rows and columns of a product that a block computes, as in ``muon.cu``; no result depends on it."""


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
    s, p, g, momentum = step.s, tensor.p, tensor.g, tensor.state[0]
    if not p.size:
        return
    turned = p.shape[0] > p.shape[1]
    scaling = (0 if x is None else machine.address(x) for x in (step.grad_scale, step.found_inf))
    fields = (*p.shape, turned, s.ns_dtype == "bfloat16", s.maximize, *scaling)
    matrix, record = scalar(MATRIX, fields), _record(rule, s, p)
    x, *others = room.matrices(min(p.shape), max(p.shape))
    entry = f"{_storage(tensor)}_{x.dtype.name}"
    machine.launch("muon", f"muon_ahead_{entry}", blocks(p.size), record, matrix, g, momentum, x)
    x = orthogonalized(machine, s, x, *others)
    machine.launch("muon", f"muon_{entry}", blocks(p.size), record, matrix, p, g, momentum, x, tensor.copy)


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
    number, rounded = x.dtype, np.int64(s.ns_dtype == "bfloat16")
    a, b, c = s.exact.ns_coefficients
    norm = Sums(machine, number, [total([machine.address(x)], x.size)])
    norm.launch("harness/sums", f"sums_of_squares_{number.name}")
    square, eps = np.uint64(norm.results[0]), number.type(s.exact.eps)
    machine.launch("muon", f"muon_normalize_{number.name}", blocks(x.size), x, np.int64(x.size), square, eps, rounded)
    product = Products(machine, number, rounded)
    for _ in range(s.exact.ns_steps):
        product(x, x, gram, transposed=True, symmetric=True)
        product(gram, gram, polynomial, symmetric=True, addend=gram, b=b, c=c)
        product(polynomial, x, other, addend=x, b=a, c=1)
        x, other = other, x
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
