"""L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..engines.twins import twinned
from ..numerics.arith import Array, axpy, mul, neg, sub
from ..step import hyper as hp
from ..step.groups import Params
from ..step.hyper import Scalar
from ..step.rule import Hypers
from .closure import (
    ClosureOptimizer,
    Extent,
    LineSearch,
    MaxIter,
    Progress,
    ToleranceChange,
    ToleranceGrad,
    first_length,
    real,
    several,
    vector,
)
from .line_search import Point
from .vector import Number, dot, dots, downhill

MIN_CURVATURE = 1e-10
"""A pair whose product y . s is not larger than this is not kept."""

LONGEST = 1 << 16
"""The length up to which the coefficients in the state are padded with None to ``history_size``, as torch does."""


@dataclass
class History(Progress):
    """The state of L-BFGS between two steps."""

    old_dirs: list[Array] = field(default_factory=list)
    old_stps: list[Array] = field(default_factory=list)
    ro: list[Number] = field(default_factory=list)
    H_diag: Number = 1
    al: list[Number | None] | None = None


def _coefficient(value: Any, extent: Extent, where: str) -> Number | None:
    return None if value is None else real(value, extent, where)


class LBFGS(ClosureOptimizer):
    """Limited-memory BFGS: Newton steps with a Hessian that is estimated from the last changes of the gradient.

    One call of ``step(closure)`` makes up to ``max_iter`` iterations. With x all parameters as one vector, and g the
    gradient at x, an iteration is

    .. code-block:: text

        d = -g                             in the first iteration of all; after it
        y = g - prev_flat_grad             the last change of the gradient
        s = t * d                          the last change of x
        ro = 1 / (y . s)                   kept with y and s, and
        H_diag = (y . s) / (y . y)         if y . s > 1e-10
        q = -g                             and then, for the pairs, last to first:
            al = (s . q) * ro
            q = q - al * y
        d = q * H_diag                     and then, for the pairs, first to last:
            d = d + (al - (y . d) * ro) * s
        t = lr * min(1, 1 / sum(|g|))      in the first iteration of all
        t = lr                             after it
        t = a step along d found by ``strong_wolfe`` (c1 = 1e-4, c2 = 0.9), tried from t on     if line_search_fn
        x = x + t * d

    and the step ends after ``max_iter`` iterations or ``max_eval`` evaluations, or if max |g| <= ``tolerance_grad``,
    g . d > -``tolerance_change``, max |t * d| <= ``tolerance_change``, or the loss changes by less than that. As in
    torch, a search that uses up ``max_eval`` may make one evaluation more, the search is content with 1e-9 whatever
    ``tolerance_change`` is, and without a search the last iteration does not evaluate the point it moves to.

    The closure computes the loss, sets the gradients, and returns the loss, one real number; or it returns a tuple of
    the loss and the gradients: in order, by name or as a tree, like the ``grads`` of other optimizers. Parameters are
    float32, float64, or complex (pairs of reals), in one group and of one precision; in 16 bits the curvature would be
    lost. If an evaluation fails, the parameters and the state are as before the step. Memory: 2 * ``history_size``
    vectors and about nine more; the pairs that a step drops are kept until it is over, for the case that it fails.

    State, with the first parameter: ``func_evals``, ``n_iter``, ``d``, ``t``, ``prev_flat_grad``, ``prev_loss``,
    ``old_dirs`` (the y), ``old_stps`` (the s), ``ro``, ``H_diag``, ``al`` (filled up with None). Vectors have as many
    elements as all parameters together.

    Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical programming
    45, 1989; Nocedal and Wright, "Numerical optimization", 2nd edition, 2006, algorithms 7.4 and 7.5.
    """

    progress = History
    readers = ClosureOptimizer.readers | {
        "old_dirs": several(vector),
        "old_stps": several(vector),
        "ro": several(real),
        "H_diag": real,
        "al": several(_coefficient),
    }
    spare = frozenset({"al"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1,
        max_iter: MaxIter = 20,
        max_eval: Annotated[
            int | None,
            hp.Count(
                "the number of evaluations that ends a step; None stands for max_iter * 5 // 4",
                optional=True,
                interval=hp.Interval("[1, inf)"),
            ),
        ] = None,
        tolerance_grad: ToleranceGrad = 1e-7,
        tolerance_change: ToleranceChange = 1e-9,
        history_size: Annotated[int, hp.Count("the number of pairs kept", interval=hp.Interval("[1, inf)"))] = 100,
        line_search_fn: LineSearch = None,
        *,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.defaults["max_eval"] is None:
            self.defaults["max_eval"] = default_evals(self.defaults["max_iter"])
        super().add_param_group(param_group)

    @classmethod
    def limit(cls, h: Hypers) -> float:
        return h.max_eval or default_evals(h.max_iter)

    @classmethod
    def search(cls, h: Hypers, left: float) -> dict[str, Any]:
        return {"c1": 1e-4, "c2": 0.9, "max_evals": left}

    @classmethod
    def aim(cls, h: Hypers, s: History, loss: float, g: Array) -> Point:
        s.n_iter += 1
        first = s.n_iter == 1
        if first:
            s.old_dirs, s.old_stps, s.ro, s.H_diag = [], [], [], 1
            s.d, slope = downhill(g)
        else:
            keep_pair(s, g, h.history_size)
            s.d, al, slope = descend(g, s.old_dirs, s.old_stps, s.ro, s.H_diag)
            s.al = al + [None] * (min(h.history_size, LONGEST) - len(al))
        s.prev_flat_grad, s.prev_loss = g, loss
        s.t = first_length(g, h.lr) if first else h.lr
        return Point(0, loss, g, slope)

    def _read_state(self, group: Any, p: Any, values: Any, where: str) -> dict[str, Any]:
        read = super()._read_state(group, p, values, where)
        sizes = {len(read[name]) for name in ("old_dirs", "old_stps", "ro") if name in read}
        if len(sizes) > 1:
            raise ValueError(f"{where}: old_dirs, old_stps and ro must have one length, got {sorted(sizes)}")
        return read


def default_evals(max_iter: int) -> int:
    """The number of evaluations that ends a step where ``max_eval`` does not give it."""
    return max_iter * 5 // 4


def keep_pair(s: History, g: Array, size: int) -> None:
    """Add the last change of the gradient and of the parameters to the history, of at most ``size`` pairs."""
    y, step, curvature, square = change(g, s.prev_flat_grad, s.d, s.t)
    if curvature > MIN_CURVATURE:
        s.old_dirs = [*s.old_dirs, y][-size:]
        s.old_stps = [*s.old_stps, step][-size:]
        s.ro = [*s.ro, 1.0 / curvature][-size:]
        s.H_diag = curvature / square


@twinned
def change(g: Array, prev_g: Array, d: Array, t: Number) -> tuple[Array, Array, Number, Number]:
    """Return y and s, the last changes of the gradient and of the parameters, y . s and y . y."""
    y, step = sub(g, prev_g), mul(d, t)
    return y, step, dot(y, step), dot(y, y)


@twinned
def descend(
    g: Array, old_dirs: Sequence[Array], old_stps: Sequence[Array], ro: Sequence[Number], H_diag: Scalar
) -> tuple[Array, list[Number], Number]:
    """Return the direction, the coefficients of the first loop and the slope along the direction."""
    d, al = two_loops(g, old_dirs, old_stps, ro, H_diag)
    return d, al, dot(g, d)


def two_loops(
    g: Array, old_dirs: Sequence[Array], old_stps: Sequence[Array], ro: Sequence[Number], H_diag: Scalar
) -> tuple[Array, list[Number]]:
    """Return minus the estimated inverse Hessian times ``g``, and the coefficients of the first loop."""
    pairs, al, q = list(zip(old_dirs, old_stps, ro, strict=True)), [], neg(g)
    dot = dots([g, *old_dirs, *old_stps])
    for y, step, r in reversed(pairs):
        al.append(dot(step, q) * r)
        q = axpy(q, y, -al[-1])
    al.reverse()
    d = mul(q, H_diag)
    for (y, step, r), a in zip(pairs, al, strict=True):
        d = axpy(d, step, a - dot(y, d) * r)
    return d, al


def lbfgs_direction(
    g: Array, old_dirs: Sequence[Array], old_stps: Sequence[Array], ro: Sequence[Number], H_diag: Scalar
) -> Array:
    """Return the direction of L-BFGS, -H g, where H is an estimate of the inverse Hessian from some pairs.

    Args:
        g: the gradient, shape ``(n,)``.
        old_dirs: changes of the gradient y, oldest first, each of shape ``(n,)``.
        old_stps: changes of the parameters s, likewise.
        ro: the numbers 1 / (y . s).
        H_diag: the estimate before the first pair, a multiple of the identity.
    """
    return two_loops(g, old_dirs, old_stps, ro, H_diag)[0]
