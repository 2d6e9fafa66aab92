"""Functions that change gradients in place, all of them or none.

.. code-block:: text

    u(x)  = sqrt(sum(x * x)) over all axes but the first, over all of an array with fewer than two
    m     = max(u(p), eps) * clip_factor,  n = u(g)
    g     = g where n < m, else g * (m / max(n, 1e-6))                  adaptive_clip_grad_
    g     = g - mean(g) over all axes but the first                     centralize_grad_
    g     = g / max(1, sqrt(mean(g * g)) / threshold)                   clip_by_block_rms_
    n     = sqrt(sum of the squares of all gradients)
    g     = g where n < max_norm, else g / n * max_norm                 clip_by_global_norm_

Sums are in the order of ``tree``. All is computed in the arithmetic type of a gradient, and rounded once where it is
stored. The step that follows is that of any optimizer, fused or not; a gradient of a scaled loss is to be divided by
the scale first, as ``GradScaler.unscale_`` does, and one that is not finite stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from ..clip_grad import gradients_of, listed, norm_of_norms, upper_bound, widest
from ..engines.workspace import Workspace
from ..numerics import tree
from ..numerics.arith import Array, div, maximum, mul, round_to, sqrt, sub, where, widen
from ..numerics.array_types import HOST, at, place, plain
from ..numerics.libraries import library_of, telling
from ..step import hyper as hp
from ..step.changes import there
from ..step.parameter import Parameter

Rule = Callable[[Array, Array], Array]
"""Returns a gradient from a gradient and its parameter, both in their arithmetic type."""

LEAST_NORM = 1e-6
"""What a gradient's norm is at least where it divides."""


def adaptive_clip_grad_(parameters: Any, clip_factor: float = 0.01, eps: float = 1e-3) -> None:
    """Make the gradient of each unit shorter where it is longer than a part of the unit's own length.

    A unit is what one index of the first axis holds: an output of a layer. The last layer of a classifier is to be left
    out.

    Args:
        parameters: a Parameter, or a tensor of torch, or an iterable of them; those without gradient are passed over.
        clip_factor: the part, in [0, inf].
        eps: the length that a unit is taken to have at least, in [0, inf].

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: an argument or a gradient is wrong. Nothing has
            changed then.

    Source: Brock, De, Smith, Simonyan, "High-performance large-scale image recognition without normalization", ICML
    2021, equation 3.
    """
    factor, least = upper_bound("clip_factor", clip_factor), upper_bound("eps", eps)

    def clipped(g: Array, p: Array) -> Array:
        number = g.dtype.type
        longest = mul(maximum(_unit_norm(p), number(least)), number(factor))
        norm = _unit_norm(g)
        return where(norm < longest, g, mul(g, div(longest, maximum(norm, number(LEAST_NORM)))))

    _change_all(parameters, clipped)


def centralize_grad_(parameters: Any, min_ndim: int = 2) -> None:
    """Take the mean over all axes but the first away from gradients with so many axes at least.

    Args:
        parameters: as in ``adaptive_clip_grad_``.
        min_ndim: 2 or more; 4 leaves all but the kernels of convolutions as they are.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as in ``adaptive_clip_grad_``.

    Source: Yong, Huang, Hua, Zhang, "Gradient centralization: a new optimization technique for deep neural networks",
    ECCV 2020, equation 1.
    """
    least = hp.Count("", interval=hp.Interval("[2, inf)")).resolve("min_ndim", min_ndim)

    def centred(g: Array, p: Array) -> Array:
        if g.ndim < least:
            return g
        rows = g.reshape(len(g), -1)
        mean = div(tree.sum_along(lambda x: x, rows, axis=1), g.dtype.type(rows.shape[1]))
        return sub(rows, mean).reshape(g.shape)

    _change_all(parameters, centred)


def clip_by_block_rms_(parameters: Any, threshold: float) -> None:
    """Divide each gradient by what makes the root of its mean square ``threshold`` at most.

    Args:
        parameters: as in ``adaptive_clip_grad_``.
        threshold: in (0, inf].

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as in ``adaptive_clip_grad_``.
    """
    bound = hp.Real("", interval=hp.Interval("(0, inf]")).resolve("threshold", threshold)

    def clipped(g: Array, p: Array) -> Array:
        number = g.dtype.type
        rms = sqrt(div(tree.total(tree.square, g), number(g.size)))
        return div(g, maximum(number(1), div(rms, number(bound))))

    _change_all(parameters, clipped)


@np.errstate(all="ignore")
def clip_by_global_norm_(parameters: Any, max_norm: float) -> Any:
    """Make gradients shorter so that the norm of them all is ``max_norm``, if it is not less; return what it was.

    There is no epsilon in the quotient, where ``clip_grad_norm_`` has torch's.

    Args:
        parameters: as in ``adaptive_clip_grad_``.
        max_norm: in [0, inf].

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as in ``adaptive_clip_grad_``.
    """
    bound, members = upper_bound("max_norm", max_norm), _members(parameters)
    gradients = _checked(members)
    if not gradients:
        return np.float32(0)
    if len({place(g) or HOST for g in gradients}) > 1:
        raise RuntimeError("the gradients must lie in one place")
    with at(place(gradients[0])):
        norm = norm_of_norms(gradients, 2.0, widest(gradients))

    def clipped(g: Array, p: Array) -> Array:
        number = g.dtype.type
        return where(norm < bound, g, mul(div(g, norm.astype(g.dtype)), number(bound)))

    _change(members, gradients, clipped)
    return norm


def _unit_norm(x: Array) -> Any:
    """Return the norm of each unit, with axes of length 1 for those that were summed."""
    if x.ndim < 2:
        return tree.norm(x)
    sums = tree.sum_along(tree.square, x.reshape(len(x), -1), axis=1)
    return sqrt(sums).reshape(len(x), *[1] * (x.ndim - 1))


def _members(parameters: Any) -> list[Any]:
    """Return the parameters that have a gradient; what is no parameter stays, to be refused."""
    one = isinstance(parameters, Parameter) or library_of(parameters) is not None
    given = [parameters] if one else listed("parameters", parameters)
    members = [Parameter(p) if library_of(p) is not None else p for p in given]
    return [p for p in members if not isinstance(p, Parameter) or p.grad is not None]


def _checked(members: Sequence[Any]) -> list[Array]:
    """Return gradients as arrays that can be changed in place, or raise."""
    _, gradients = gradients_of(members, 2.0)
    for i, p in enumerate(members):
        if p.dtype.kind == "c":
            raise NotImplementedError(f"parameter {i}: complex gradients are not supported here")
    return gradients


def _change_all(parameters: Any, rule: Rule) -> None:
    """Check parameters and gradients, and change these by a rule."""
    members = _members(parameters)
    _change(members, _checked(members), rule)


@np.errstate(all="ignore")
def _change(members: Sequence[Any], gradients: Sequence[Array], rule: Rule) -> None:
    """Put in the place of each gradient what a rule makes of it and of its parameter."""
    changes: list[Any] = []
    for p, g in zip(members, gradients, strict=True):
        if g.size:
            with at(place(g)):
                value = round_to(rule(widen(g), widen(plain(p.data))), g)
            changes += there(place(g) or HOST, [partial(setitem, g, ..., value)])
    Workspace().make([*telling([p.grad for p in members]), *changes])
