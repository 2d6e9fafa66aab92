"""Adafactor."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics import tree
from ..numerics.arith import Array, DType, arithmetic, axpy, div, epsilon, lerp, maximum, mul, rsqrt, sqrt, widen
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class Adafactor(Optimizer):
    """Adam's scaling with the average of squares of a matrix kept as one row and one column.

    .. code-block:: text

        omb   = k**beta2_decay
        alpha = max(eps2, rms(p)) * min(lr, 1 / sqrt(k))                   rms: root of the mean of squares
        p     = p * (1 - lr * weight_decay)

        row_var = lerp(row_var, norm(g, axis=-1)**2 / columns, omb)        for two and more dimensions
        col_var = lerp(col_var, norm(g, axis=-2)**2 / rows, omb)
        var     = row_var * col_var / max(mean(row_var, axis=-2), eps1)

        variance = lerp(variance, g * g, omb)                              for one dimension or none
        var      = variance

        u = 1 / sqrt(max(var, eps1**2)) * g
        p = p - alpha / max(1, rms(u) / d) * u

    Sums are in the order of ``tree``. ``eps1`` is the machine epsilon of the parameter's dtype where it is None.
    Besides a few blocks, a step needs about three arrays as large as ``row_var`` and ``col_var``.
    float16 and bfloat16 parameters are computed in float32 and rounded once when stored.

    State: ``step``; ``row_var`` of shape ``(…, rows, 1)`` and ``col_var`` of shape ``(…, 1, columns)``, or ``variance``
    (like the parameter).

    Source: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, algorithms 4
    to 6, without momentum; ``eps1`` bounds the average from below and is not added to the squares.
    """

    varying = frozenset({"omb", "rho", "shrink"})

    def __init__(
        self,
        params: Params,
        lr: Annotated[
            hp.Scalar,
            hp.Real("an upper bound of the relative step size", stem="Learning rate should be >= 0 but is: {value}"),
        ] = 1e-2,
        beta2_decay: Annotated[
            hp.Scalar,
            hp.Real(
                "the power of k with which the averages slow down",
                stem="beta2_decay should be <= 0 but is: {value}",
                interval=hp.Interval("(-inf, 0]"),
            ),
        ] = -0.8,
        eps: Annotated[
            tuple[hp.Scalar | None, hp.Scalar],
            hp.Several(
                "lower bounds of the averages (None: the machine epsilon) and of the size of a parameter",
                items=(
                    hp.Real("", optional=True, stem="epsilon1 should be >= 0 but is: {value}"),
                    hp.Real("", stem="epsilon2 should be >= 0 but is: {value}"),
                ),
            ),
        ] = (None, 1e-3),
        d: Annotated[
            hp.Scalar,
            hp.Real(
                "the size of an update above which it is scaled down",
                stem="Clipping threshold d should be >= 1 but is: {value}",
                interval=hp.Interval("[1, inf)"),
            ),
        ] = 1.0,
        weight_decay: Annotated[
            hp.Scalar, hp.Real("the decoupled weight decay", stem="weight_decay should be >= 0 but is: {value}")
        ] = 0.0,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if dtype.kind == "c":
            raise RuntimeError(f"Adafactor does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"row_var": 0.0, "col_var": 0.0} if len(shape) > 1 else {"variance": 0.0}

    @classmethod
    def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) < 2:
            return {}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        eps1, eps2 = h.eps
        return dict(
            omb=power(k, h.beta2_decay),
            rho=min(h.lr, 1 / power(k, 0.5)),
            eps1=eps1,
            eps2=eps2,
            d=h.d,
            weight_decay=h.weight_decay,
            shrink=1 - h.lr * h.weight_decay,
        )

    @classmethod
    def constants(cls, s: Record, shape: tuple[int, ...], dtype: DType) -> dict[str, Any]:
        number, eps1 = arithmetic(dtype).type, s.exact.eps1 or 0.0
        shrink = {"shrink": s.shrink} if s.weight_decay else {}
        return {"eps[0] * eps[0]": number(eps1 * eps1), "eps[1] * rho": number(s.exact.eps2 * s.exact.rho), **shrink}

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        eps1 = epsilon(p.dtype) if s.exact.eps1 is None else s.exact.eps1
        floor = arithmetic(p.dtype).type(eps1 * eps1)
        factors = factored(s, eps1, g, *state) if len(state) == 2 else {}

        def squares(g: Array, *averages: Array) -> Array:
            return tree.square(direction(g, variance(s, g, *averages), floor))

        root_size = math.sqrt(max(1, p.size))
        rms_p = float(tree.norm(p)) / root_size
        norm_u = float(sqrt(tree.total(squares, g, *(factors.values() or state))))
        alpha = max(s.exact.eps2, rms_p) * s.exact.rho
        return {**factors, "floor": floor, "step_size": -alpha / max(1.0, norm_u / (root_size * s.exact.d))}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        var = variance(s, g, *(state or (s.row_var, s.col_var, s.bound)))
        u = direction(g, var, s.floor)
        if s.weight_decay:
            p = mul(p, s.shrink)
        p = axpy(p, u, s.step_size)
        return (p, var) if state else (p,)


def factored(s: Record, eps1: float, g: Array, row_var: Array, col_var: Array) -> dict[str, Array]:
    """Return the new averages of the squares of the rows and columns, and what their product is divided by."""
    row_var = lerp(widen(row_var), mean_square(g, -1), s.omb)
    col_var = lerp(widen(col_var), mean_square(g, -2), s.omb)
    mean = div(tree.sum_along(widen, row_var, axis=-2), max(1, g.shape[-2]))
    return {"row_var": row_var, "col_var": col_var, "bound": maximum(mean, mean.dtype.type(eps1))}


def mean_square(g: Array, axis: int) -> Array:
    """The mean of the squares along an axis, by way of the norm."""
    norm = sqrt(tree.sum_along(tree.square, g, axis=axis))
    return div(tree.square(norm), max(1, g.shape[axis]))


def variance(s: Record, g: Array, *averages: Array) -> Array:
    """Estimate the average of g * g: from the row, the column and their bound, or from the average so far."""
    if len(averages) == 1:
        return lerp(averages[0], tree.square(g), s.omb)
    row_var, col_var, bound = averages
    return div(mul(row_var, col_var), bound)


def direction(g: Array, var: Array, floor: Array) -> Array:
    """The gradient over the root of the average of its squares."""
    return mul(rsqrt(maximum(var, floor)), g)
