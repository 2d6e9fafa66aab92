"""SOAP."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from ..numerics import decompositions, tree
from ..numerics.arith import Array, DType, add, axpy, div, lerp, mul, sqrt, widen
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers, ascent
from .base import Optimizer


class SOAP(Optimizer):
    """Adam in the eigenvectors of Shampoo's matrices, one for each axis of a parameter.

    .. code-block:: text

        GG_i = lerp(GG_i, outer(g, i), 1 - shampoo_beta)         for each axis i
        Q_i = eigenvectors(GG_i)                                 in the first step, which ends here

        exp_avg = lerp(exp_avg, g, 1 - beta1)                    in the others, before GG_i changes
        r = rotate(g)
        exp_avg_sq = lerp(exp_avg_sq, r * r, 1 - beta2)
        u = rotate_back(rotate(exp_avg) / (sqrt(exp_avg_sq) + eps))
        u = u / (sqrt(mean(u * u)) + eps)                        if normalize_gradient
        size = lr * (sqrt(1 - beta2**j) / (1 - beta1**j))        if correct_bias, else lr
        p = (p - size * u) * (1 - lr * weight_decay)

        P = GG_i @ Q_i                                           after GG_i changed, where precondition_frequency
        order = descending(sum(Q_i * P))                         divides j, for each axis i: sums of columns
        exp_avg_sq = take(exp_avg_sq, order)                     along axis i
        Q_i = orthogonal_factor(take(P, order))                  columns in this order

    ``j`` is k - 1, and ``GG_i`` begins with zeros. ``outer(g, i)`` is the matrix product of g, its axis i first and the
    others flattened, with its transpose. ``eigenvectors`` are columns, that of the largest eigenvalue first;
    ``descending`` are the places of numbers, that of the largest first. ``rotate`` multiplies each axis i, the first
    one first, by Q_i, ``rotate_back`` by Q_i transposed. ``shampoo_beta`` is beta2 where it is None. An axis that is
    longer than ``max_precondition_dim`` has no matrices and is not rotated, nor is that of a vector unless
    ``precondition_1d``: what has none is updated as by Adam, one step later.

    Products, sums, eigenvectors (Jacobi's method) and orthogonal factors (Householder's) are in orders of their own,
    and have the same bits on every machine; they take longer than those of a library made for speed.
    ``products="library"`` takes NumPy's or CuPy's ``matmul``, ``eigh`` and ``qr`` instead: steps are then close to what
    they are otherwise, where GG_i has full rank. A step needs some arrays as large as the parameter and each GG_i.
    float16 and bfloat16 parameters are computed in float32 and rounded once when stored, and so are GG_i and Q_i: with
    a master copy all of it is float32. There are no kernels: NumPy runs the rule on NumPy arrays, CuPy on CuPy's.

    State: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameter); ``GG_i`` and ``Q_i``, matrices of axis i.

    Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", 2024, algorithm 3, with ``exp_avg`` kept
    unrotated as in the authors' code.
    """

    of_torch = False
    has_kernels = False
    varying = frozenset({"step_size", "shrink"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 3e-3,
        betas: hp.Betas = (0.95, 0.95),
        shampoo_beta: Annotated[
            hp.Scalar | None,
            hp.Real("the decay rate of the matrices; None is beta2", optional=True, interval=hp.Interval("[0, 1)")),
        ] = None,
        weight_decay: Annotated[hp.Scalar, hp.Real("the decoupled weight decay, after the step")] = 1e-2,
        precondition_frequency: Annotated[
            int,
            hp.Count("the number of steps after which the eigenvectors are renewed", interval=hp.Interval("[1, inf)")),
        ] = 10,
        max_precondition_dim: Annotated[
            int, hp.Count("the length of the longest axis that has matrices", interval=hp.Interval("[1, inf)"))
        ] = 10000,
        precondition_1d: Annotated[bool, hp.Flag("let vectors have matrices too")] = False,
        correct_bias: Annotated[bool, hp.Flag("correct the bias of both averages, as Adam does")] = True,
        normalize_gradient: Annotated[
            bool, hp.Flag("divide each update by the root of the mean of its squares")
        ] = False,
        eps: hp.Epsilon = 1e-8,
        *,
        maximize: hp.Maximize = False,
        foreach: hp.Foreach = None,
        fused: hp.Fused = None,
        products: Annotated[
            str,
            hp.Choice(
                "whose products and decompositions: the exact ones, or the array library's",
                options=("exact", "library"),
            ),
        ] = "exact",
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if dtype.kind == "c":
            raise RuntimeError(f"SOAP does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        names = [f"{matrix}_{i}" for i in rotated_axes(h, shape) for matrix in ("GG", "Q")]
        return dict.fromkeys(["exp_avg", "exp_avg_sq", *names], 0.0)

    @classmethod
    def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"{matrix}_{i}": (n, n) for i, n in enumerate(shape) for matrix in ("GG", "Q")}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        j = k - 1
        corrected = h.correct_bias and j > 0
        return dict(
            first=j == 0,
            renewed=j > 0 and j % h.precondition_frequency == 0,
            max_precondition_dim=h.max_precondition_dim,
            precondition_1d=h.precondition_1d,
            normalize_gradient=h.normalize_gradient,
            products=h.products,
            one_minus_beta1=1 - beta1,
            one_minus_beta2=1 - beta2,
            one_minus_shampoo_beta=1 - (beta2 if h.shampoo_beta is None else h.shampoo_beta),
            eps=h.eps,
            step_size=-h.lr * (math.sqrt(1 - power(beta2, j)) / (1 - power(beta1, j)) if corrected else 1.0),
            shrink=1 - h.lr * h.weight_decay,
        )

    @classmethod
    def constants(cls, s: Record, shape: tuple[int, ...], dtype: DType) -> dict[str, Any]:
        return {name: getattr(s, name) for name in ("eps", "step_size", "shrink")}

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        g = ascent(s, widen(g))
        exp_avg, exp_avg_sq, *matrices = map(widen, state)
        axes = rotated_axes(s.exact, p.shape) if matrices else []
        averages, bases = dict(zip(axes, matrices[::2], strict=True)), dict(zip(axes, matrices[1::2], strict=True))
        direction = exp_avg
        if not s.first:
            exp_avg, exp_avg_sq = averaged(s, g, exp_avg, exp_avg_sq, bases)
            direction = update_of(s, exp_avg, exp_avg_sq, bases)
        averages = {i: lerp(x, outer(s, g, i), s.one_minus_shampoo_beta) for i, x in averages.items()}
        if s.first:
            bases = {i: eigenvectors(s, x) for i, x in averages.items()}
        elif s.renewed:
            exp_avg_sq, bases = renewed(s, exp_avg_sq, averages, bases)
        found = {"direction": direction, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        return {**found, **named("GG", averages), **named("Q", bases)}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        if s.first:
            return (p,)
        return (mul(axpy(p, s.direction, s.step_size), s.shrink),)


def rotated_axes(h: Any, shape: tuple[int, ...]) -> list[int]:
    """Return the axes of a parameter that have matrices."""
    if len(shape) == 1 and not h.precondition_1d:
        return []
    return [i for i, n in enumerate(shape) if n <= h.max_precondition_dim]


def named(name: str, matrices: dict[int, Array]) -> dict[str, Array]:
    """Return the matrices of some axes by the names that they have in the state."""
    return {f"{name}_{i}": x for i, x in matrices.items()}


def matmul(s: Record, x: Array, y: Array) -> Array:
    """Return a matrix product."""
    product: Array = (np.matmul if s.products == "library" else tree.matmul)(x, y)
    return product


def eigenvectors(s: Record, x: Array) -> Array:
    """Return the eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first."""
    return np.linalg.eigh(x)[1][:, ::-1] if s.products == "library" else decompositions.eigenvectors(x)


def orthogonal_factor(s: Record, x: Array) -> Array:
    """Return the orthogonal factor of a matrix whose other factor is an upper triangle."""
    return np.linalg.qr(x)[0] if s.products == "library" else decompositions.orthogonal_factor(x)


def outer(s: Record, g: Array, i: int) -> Array:
    """Return the sums of products of a gradient with itself over all axes but one."""
    rows = np.moveaxis(g, i, 0)
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return matmul(s, rows, rows.T)


def rotate(s: Record, x: Array, bases: dict[int, Array]) -> Array:
    """Multiply each axis by its matrix, the first one first."""
    for i in range(x.ndim):
        rows = x.reshape(len(x), math.prod(x.shape[1:])).T
        rows = matmul(s, rows, bases[i]) if i in bases else rows
        x = rows.reshape(*x.shape[1:], len(x))
    return x


def rotate_back(s: Record, x: Array, bases: dict[int, Array]) -> Array:
    """Multiply each axis by its matrix transposed."""
    return rotate(s, x, {i: q.T for i, q in bases.items()})


def averaged(s: Record, g: Array, exp_avg: Array, exp_avg_sq: Array, bases: dict[int, Array]) -> tuple[Array, Array]:
    """Return the averages of the gradient and of the squares of the rotated one."""
    squares = tree.square(rotate(s, g, bases))
    return lerp(exp_avg, g, s.one_minus_beta1), lerp(exp_avg_sq, squares, s.one_minus_beta2)


def update_of(s: Record, exp_avg: Array, exp_avg_sq: Array, bases: dict[int, Array]) -> Array:
    """Return what a parameter moves along, before its step size."""
    u = div(rotate(s, exp_avg, bases), add(sqrt(exp_avg_sq), s.eps))
    u = rotate_back(s, u, bases)
    if not s.normalize_gradient:
        return u
    mean = div(tree.total(tree.square, u), max(1, u.size))
    return div(u, add(sqrt(mean), s.eps))


def renewed(
    s: Record, exp_avg_sq: Array, averages: dict[int, Array], bases: dict[int, Array]
) -> tuple[Array, dict[int, Array]]:
    """Return the averages of squares in the order of the new bases, and these: one step of the power iteration."""
    found = {}
    for i, q in bases.items():
        product = matmul(s, averages[i], q)
        order = decompositions.descending(tree.sum_along(mul, q, product, axis=0)[0])
        exp_avg_sq = np.take(exp_avg_sq, order, axis=i)
        found[i] = orthogonal_factor(s, product[:, order])
    return exp_avg_sq, found
