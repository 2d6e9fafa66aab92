"""Muon."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, DType, arithmetic, axpy, div, lerp, maximum, mul, to_bfloat16, widen
from ..numerics.array_types import plain
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers, ascent
from .base import Optimizer

COEFFICIENT = hp.Real("", interval=hp.Interval("(-inf, inf)"))


class Muon(Optimizer):
    """Momentum whose every step is made orthogonal: each weight matrix moves by about an orthogonal matrix.

    .. code-block:: text

        momentum_buffer = lerp(momentum_buffer, g, 1 - momentum)
        u = lerp(g, momentum_buffer, momentum)                  if nesterov
        u = momentum_buffer                                     else
        X = u                                                   transposed if it has more rows than columns, rounded
        X = X / max(norm(X), eps)
        repeat ns_steps times, with (a, b, c) = ns_coefficients:
            A = X @ X.T
            X = a * X + (b * A + c * A @ A) @ X
        X = X transposed back
        p = p * (1 - lr * weight_decay)
        p = p - lr * ratio * X

    ``ratio`` is ``sqrt(max(1, rows / columns))`` for ``adjust_lr_fn="original"`` (or None), and
    ``0.2 * sqrt(max(rows, columns))`` for ``"match_rms_adamw"``. Every matrix above is rounded to ``ns_dtype``;
    products and sums are in the orders of ``tree``, in float32 (in float64 for ``ns_dtype="float64"``). The matrices of
    the iteration are as large as the parameter. float16 and bfloat16 parameters are rounded once when stored.

    Products in one order have the same bits on every machine, and take longer than those of a library made for speed.
    ``products="library"`` takes NumPy's or CuPy's ``matmul`` instead: steps are then close to what they are otherwise,
    with other bits on other machines.

    State: ``momentum_buffer`` (like the parameter).

    Sources: Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, with the momentum as an average;
    Liu et al., "Muon is scalable for LLM training", 2025, section 2.2, for ``match_rms_adamw``.
    """

    counts_steps = False
    varying = frozenset({"lr", "shrink"})

    def __init__(
        self,
        params: Params,
        lr: Annotated[
            hp.Scalar, hp.Real("the learning rate", stem="Learning rate should be >= 0 but is: {value}")
        ] = 1e-3,
        weight_decay: Annotated[
            hp.Scalar, hp.Real("the decoupled weight decay", stem="weight decay should be >= 0 but is: {value}")
        ] = 0.1,
        momentum: Annotated[
            hp.Scalar, hp.Real("the momentum factor", stem="momentum should be >= 0 but is: {value}")
        ] = 0.95,
        nesterov: Annotated[bool, hp.Flag("look ahead by Nesterov's momentum")] = True,
        ns_coefficients: Annotated[
            tuple[float, float, float],
            hp.Several("the coefficients a, b, c of the iteration", items=(COEFFICIENT, COEFFICIENT, COEFFICIENT)),
        ] = (3.4445, -4.7750, 2.0315),
        eps: hp.Epsilon = 1e-7,
        ns_steps: Annotated[
            int,
            hp.Count(
                "the number of iterations",
                stem="Number of steps must be less than 100 for computational efficiency but is: {value}",
                interval=hp.Interval("[0, 100)"),
            ),
        ] = 5,
        adjust_lr_fn: Annotated[
            str | None,
            hp.Choice(
                "how the learning rate depends on the shape",
                optional=True,
                options=("original", "match_rms_adamw"),
                stem="Adjust learning rate function {value} is not supported",
            ),
        ] = None,
        *,
        maximize: hp.Maximize = False,
        foreach: hp.Foreach = None,
        fused: hp.Fused = None,
        ns_dtype: Annotated[
            str, hp.Choice("the dtype of the iteration", options=("bfloat16", "float32", "float64"))
        ] = "bfloat16",
        products: Annotated[
            str,
            hp.Choice("whose matrix products: the exact ones, or the array library's", options=("exact", "library")),
        ] = "exact",
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        if len(shape) != 2:
            raise ValueError(
                f"Muon only supports 2D parameters whereas we found a parameter with size: {shape} ({where})"
            )
        if dtype.kind == "c":
            raise RuntimeError(f"Muon does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"momentum_buffer": 0.0}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            one_minus_momentum=1 - h.momentum,
            momentum=h.momentum,
            nesterov=h.nesterov,
            ns_coefficients=h.ns_coefficients,
            eps=h.eps,
            ns_steps=h.ns_steps,
            ns_dtype=h.ns_dtype,
            products=h.products,
            adjust_lr_fn=h.adjust_lr_fn,
            lr=h.lr,
            shrink=1 - h.lr * h.weight_decay,
        )

    @classmethod
    def constants(cls, s: Record, shape: tuple[int, ...], dtype: DType) -> dict[str, Any]:
        inner = np.dtype("float64" if s.ns_dtype == "float64" else "float32").type
        eps = np.asarray(inner(s.exact.eps))
        return {
            "one_minus_momentum": s.one_minus_momentum,
            "momentum": s.momentum,
            "shrink": s.shrink,
            "step_size": arithmetic(dtype).type(cls.step_size(s, shape)),
            "eps": to_bfloat16(eps) if s.ns_dtype == "bfloat16" else eps,
            **{f"ns_coefficients[{i}]": inner(x) for i, x in enumerate(s.exact.ns_coefficients)},
        }

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        g = ascent(s, widen(g))
        buf = lerp(widen(state[0]), g, s.one_minus_momentum)
        u = lerp(g, buf, s.momentum) if s.nesterov else buf
        return {
            "orthogonal": orthogonalized(s, u).astype(u.dtype),
            "step_size": cls.step_size(s, p.shape),
        }

    @classmethod
    def step_size(cls, s: Record, shape: tuple[int, ...]) -> float:
        """Return what an orthogonal matrix of a shape is multiplied by."""
        size: float = -s.exact.lr * ratio(s.adjust_lr_fn, *shape)
        return size

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        buf = lerp(state[0], g, s.one_minus_momentum)
        p = axpy(mul(p, s.shrink), s.orthogonal, s.step_size)
        return p, buf


def ratio(adjust_lr_fn: str | None, rows: int, columns: int) -> float:
    """Return the factor of the learning rate for a matrix of a shape."""
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / max(1, columns)))


def orthogonalized(s: Record, u: Array) -> Array:
    """Return an almost orthogonal matrix near ``u``, by Newton and Schulz's iteration of degree five."""
    if len(u) > u.shape[1]:
        return orthogonalized(s, u.T).T
    number = np.dtype("float64" if s.ns_dtype == "float64" else "float32").type
    a, b, c = (number(x) for x in s.exact.ns_coefficients)
    rounded = to_bfloat16 if s.ns_dtype == "bfloat16" else plain
    matmul = np.matmul if s.products == "library" else tree.matmul
    x = rounded(u.astype(number))
    x = rounded(div(x, rounded(maximum(tree.norm(x), number(s.exact.eps)))))
    for _ in range(s.exact.ns_steps):
        gram = rounded(matmul(x, x.T))
        polynomial = rounded(mul(gram, b) + mul(matmul(gram, gram), c))
        x = rounded(mul(x, a) + matmul(polynomial, x))
    return x
