"""The nonlinear conjugate gradient method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ..engines.twins import twinned
from ..numerics.arith import Array, axpy, neg, sub
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers
from .closure import (
    ClosureOptimizer,
    LineSearch,
    MaxIter,
    Progress,
    ToleranceChange,
    ToleranceGrad,
    count,
    first_length,
    real,
)
from .line_search import Point
from .vector import Number, dot, downhill

BETAS = ("PR+", "FR", "HS", "DY")

SEARCH_EVALS = 25
"""A line search tries at most this many steps after the first."""

PART: Any = {"interval": hp.Interval("(0, 0.5)")}

Period = Annotated[
    int | None,
    hp.Count(
        "the number of iterations after which a restart is due; None stands for the number of elements",
        optional=True,
        interval=hp.Interval("[1, inf)"),
    ),
]
Powell = Annotated[
    hp.Scalar | None,
    hp.Real(
        "gradients at least this far from orthogonal cause a restart; None: they never do",
        optional=True,
        interval=hp.Interval("(0, inf)"),
    ),
]


@dataclass
class Conjugacy(Progress):
    """The state of the method between two steps."""

    gtd: Number | None = None
    since_restart: int = 0


class ConjugateGradient(ClosureOptimizer):
    """Nonlinear conjugate gradients: each direction keeps what the last ones have gained.

    One call of ``step(closure)`` makes up to ``max_iter`` iterations. With x all parameters as one vector, g the
    gradient at x, g' and d' the gradient and the direction before, and y = g - g', an iteration is

    .. code-block:: text

        d = -g + beta * d'
            beta = max(0, (g . y) / (g' . g'))     'PR+', Polak and Ribière; Gilbert and Nocedal
            beta = (g . g) / (g' . g')             'FR', Fletcher and Reeves
            beta = (g . y) / (d' . y)              'HS', Hestenes and Stiefel
            beta = (g . g) / (d' . y)              'DY', Dai and Yuan
        d = -g                                 in a restart
        t = a step along d found by ``strong_wolfe`` (c1, c2)      if line_search_fn
        t = lr                                                     else
        x = x + t * d

    A restart comes first of all, every ``restart_every`` iterations, if |g . g'| >= ``powell`` * (g . g), after a
    search that found no step, and if d would not be a direction of descent.

    A coefficient beta whose quotient is not finite is 0. In the first iteration of all the length, or the first one
    that a search tries, is lr * min(1, 1 / sum |g|); after it a search begins with t' * (g' . d') / (g . d), which
    promises the decrease of the last move.

    The step ends after ``max_iter`` iterations or ``max_eval`` evaluations (which a search may exceed by one), or if
    max |g| <= ``tolerance_grad``, g . d > -``tolerance_change``, max |t * d| <= ``tolerance_change``, or the loss
    changes by less than that. The next step goes on where this one ended.

    With a strong Wolfe search and c2 < 1/2 every direction of 'FR' and 'DY' is one of descent; a small c2 makes
    searches nearly exact, which conjugacy needs. What the closure does, and which parameters fit, ``LBFGS`` says.
    Memory: about eight vectors.

    State, with the first parameter: ``func_evals``, ``n_iter``, ``since_restart``, ``d``, ``t``, ``gtd`` (g . d),
    ``prev_flat_grad``, ``prev_loss``.

    Sources: Nocedal and Wright, "Numerical optimization", 2nd edition, 2006, section 5.2 (algorithm 5.4, equations
    5.41 to 5.49 and 5.52), section 3.5 (the first step of a search); Powell, "Restart procedures for the conjugate
    gradient method", Mathematical programming 12, 1977; Gilbert and Nocedal, "Global convergence properties of
    conjugate gradient methods for optimization", SIAM journal on optimization 2, 1992.
    """

    of_torch = False

    progress = Conjugacy
    readers = ClosureOptimizer.readers | {"gtd": real, "since_restart": count}

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1,
        max_iter: MaxIter = 20,
        max_eval: Annotated[
            int | None,
            hp.Count(
                "the number of evaluations that ends a step; None sets no limit",
                optional=True,
                interval=hp.Interval("[1, inf)"),
            ),
        ] = None,
        tolerance_grad: ToleranceGrad = 1e-7,
        tolerance_change: ToleranceChange = 1e-9,
        beta: Annotated[str, hp.Choice("the formula of the coefficient", options=BETAS)] = "PR+",
        restart_every: Period = None,
        line_search_fn: LineSearch = "strong_wolfe",
        *,
        powell: Powell = 0.2,
        c1: Annotated[
            hp.Scalar, hp.Real("the part of the promised decrease that a search must achieve", **PART)
        ] = 1e-4,
        c2: Annotated[hp.Scalar, hp.Real("the part of the slope that a search may leave", **PART)] = 0.1,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check(cls, h: Hypers) -> None:
        if not h.c1 < h.c2:
            raise ValueError(f"c1 must be smaller than c2, got c1={h.c1} and c2={h.c2}")

    @classmethod
    def limit(cls, h: Hypers) -> float:
        return math.inf if h.max_eval is None else float(h.max_eval)

    @classmethod
    def search(cls, h: Hypers, left: float) -> dict[str, Any]:
        return {"c1": h.c1, "c2": h.c2, "max_evals": int(min(SEARCH_EVALS, left))}

    @classmethod
    def aim(cls, h: Hypers, s: Conjugacy, loss: float, g: Array) -> Point:
        restart = s.n_iter == 0 or restart_due(h, s, g)
        if not restart:
            d, slope = descend(g, s.d, coefficient(g, s.prev_flat_grad, s.d, h.beta))
            restart = not slope < 0
        if restart:
            d, slope = downhill(g)
        s.t = 0.0 if slope > -h.tolerance_change else first_guess(h, s, g, slope)
        s.n_iter += 1
        s.since_restart = 1 if restart else s.since_restart + 1
        s.d, s.gtd, s.prev_flat_grad, s.prev_loss = d, slope, g, loss
        return Point(0, loss, g, slope)


def restart_due(h: Hypers, s: Conjugacy, g: Array) -> bool:
    """Tell whether the next direction is to be that of steepest descent."""
    if s.since_restart >= (h.restart_every or g.size) or not s.t:
        return True
    if h.powell is None:
        return False
    overlap, square = overlaps(g, s.prev_flat_grad)
    return bool(abs(overlap) >= h.powell * square)


@twinned
def overlaps(g: Array, prev_g: Array) -> tuple[Number, Number]:
    """Return g . prev_g and g . g."""
    return dot(g, prev_g), dot(g, g)


def first_guess(h: Hypers, s: Conjugacy, g: Array, slope: Number) -> Number:
    """Return the length to begin with: one that promises the decrease of the last move, where there was one."""
    if s.n_iter and not h.line_search_fn:
        return h.lr
    t = s.t * (s.gtd / slope) if s.n_iter else 0.0
    return t if 0 < t < math.inf else first_length(g, h.lr)


def coefficient(g: Array, prev_g: Array, prev_d: Array, beta: str) -> Number:
    """Return the coefficient of the last direction, by the formula named ``beta``; 0 where it has no finite value."""
    above, below = fraction(g, prev_g, prev_d, beta)
    with np.errstate(all="ignore"):
        quotient = above / below
    if not np.isfinite(quotient) or (beta == "PR+" and quotient < 0):
        return quotient.dtype.type(0)
    return quotient


@twinned
def fraction(g: Array, prev_g: Array, prev_d: Array, beta: str) -> tuple[Number, Number]:
    """Return what stands above and below the line in the formula named ``beta``."""
    y = g if beta == "FR" else sub(g, prev_g)
    above = dot(g, y if beta in ("PR+", "HS") else g)
    below = dot(prev_d, y) if beta in ("HS", "DY") else dot(prev_g, prev_g)
    return above, below


@twinned
def descend(g: Array, prev_d: Array, c: Number) -> tuple[Array, Number]:
    """Return the direction -g + c * prev_d, and the slope along it."""
    d = axpy(neg(g), prev_d, c)
    return d, dot(g, d)


def conjugate_direction(g: Array, prev_g: Array, prev_d: Array, beta: str = "PR+") -> Array:
    """Return the direction of conjugate gradients, -g + coefficient * prev_d.

    Args:
        g: the gradient, shape ``(n,)``.
        prev_g: the gradient where the last move began, shape ``(n,)``.
        prev_d: the direction of the last move, shape ``(n,)``.
        beta: the formula of the coefficient: 'PR+', 'FR', 'HS' or 'DY'.

    Raises:
        ValueError: ``beta`` is none of these.
    """
    hp.declared(ConjugateGradient)["beta"].resolve("beta", beta)
    return descend(g, prev_d, coefficient(g, prev_g, prev_d, beta))[0]
