"""Clipping gradients by their norm or their values, with the names of ``torch.nn.utils``.

.. code-block:: text

    norm        = sqrt(sum(x * x)), sum(|x|) or max(|x|)               norm_type 2, 1 or inf, of one array
    total_norm  = the norm of the norms
    coefficient = min(1 / (total_norm + 1e-6) * max_norm, 1)
    grad        = grad * coefficient                                   clip_grad_norm_
    grad        = min(max(grad, -clip_value), clip_value)              clip_grad_value_

Sums are in the order of ``tree``, the norms in the order of the arrays. Norms have the arithmetic type of the arrays,
float64 where those are mixed. The coefficient has the type of the total norm and is rounded to the arithmetic type of a
gradient; a product is rounded once when it is stored.

With ``fused=True`` kernels take norms and multiply, to the same bits. For arrays on a GPU they are the default; the
total norm is then an array on that GPU, and nothing is read back unless ``error_if_nonfinite`` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import setitem
from reprlib import repr as short
from typing import Any

import numpy as np

from .engines import machine_at
from .engines.machine import Machine
from .engines.threads import shared_out, shares
from .engines.twins import kernels_on, twinned
from .engines.workspace import Workspace
from .numerics import tree
from .numerics.arith import (
    Array,
    DType,
    absolute,
    add,
    arithmetic,
    as_reals,
    maximum,
    minimum,
    mul,
    reciprocal,
    storage,
    widen,
)
from .numerics.array_types import HOST, at, is_writable, place, plain, sharing
from .numerics.libraries import library_of, telling
from .step import hyper as hp
from .step.changes import Change, there
from .step.limits import check_number
from .step.parameter import Parameter, array_again, as_array, as_gradient, is_one_array, overlaps_itself
from .step.sparse import SparseGrad

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

NORM_TYPES = (1.0, 2.0, math.inf)


def get_total_norm(
    arrays: Any,
    norm_type: Any = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    fused: bool | None = None,
) -> Any:
    """Return the norm of the norms of arrays.

    Args:
        arrays: an array or an iterable of them, NumPy's or all on one GPU; a Parameter counts as its array.
        norm_type: 1, 2 or inf.
        error_if_nonfinite: whether a norm that is infinite or NaN is an error.
        foreach: taken for torch's sake; no result depends on it.
        fused: whether kernels do it; None means that they do on a GPU.

    Returns:
        A NumPy scalar, or an array without axes on the GPU; float32 0 for no arrays.

    Raises:
        TypeError, ValueError: an argument is wrong.
        RuntimeError: the norm is not finite, or the arrays lie apart, or there are no kernels.
    """
    order = norm_order(norm_type)
    given = [arrays] if is_one_array(arrays) else listed("arrays", arrays)
    checked = [_array(f"array {i}", x, order) for i, x in enumerate(given)]
    return _total_norm(checked, order, error_if_nonfinite, _machine(checked, foreach, fused))


def clip_grads_with_norm_(
    parameters: Any, max_norm: Any, total_norm: Any, foreach: bool | None = None, *, fused: bool | None = None
) -> None:
    """Multiply gradients in place by ``min(1 / (total_norm + 1e-6) * max_norm, 1)``.

    Args:
        parameters: a Parameter, or a tensor of torch, or an iterable of them; those without gradient are passed over.
        max_norm: a number in [0, inf].
        total_norm: what ``get_total_norm`` returned, or a number. Where it is NaN, gradients become NaN.
        foreach: as in ``get_total_norm``.
        fused: as in ``get_total_norm``.

    Raises:
        TypeError, ValueError, RuntimeError: an argument or a gradient is wrong. Nothing has changed then.
    """
    largest, (own, gradients) = upper_bound("max_norm", max_norm), gradients_of(parameters, 2.0)
    machine = _machine(gradients, foreach, fused)
    norm = _norm(total_norm, gradients)
    _clip(gradients, largest, norm, machine, own)


def clip_grad_norm_(
    parameters: Any,
    max_norm: Any,
    norm_type: Any = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    fused: bool | None = None,
) -> Any:
    """Multiply gradients in place so that the norm of them all is ``max_norm`` at most, and return what it was.

    The arguments, the result and the errors are those of ``get_total_norm`` and ``clip_grads_with_norm_``; after an
    error nothing has changed.
    """
    order, largest = norm_order(norm_type), upper_bound("max_norm", max_norm)
    own, gradients = gradients_of(parameters, order)
    machine = _machine(gradients, foreach, fused)
    norm = _total_norm(gradients, order, error_if_nonfinite, machine)
    _clip(gradients, largest, norm, machine, own)
    return norm


def clip_grad_value_(
    parameters: Any, clip_value: float, foreach: bool | None = None, *, fused: bool | None = None
) -> None:
    """Put what is outside of ``[-clip_value, clip_value]`` in gradients on the nearer end, in place.

    NaN stays. The ends are rounded to the dtype of a gradient.

    Args:
        parameters: a Parameter, or a tensor of torch, or an iterable of them; those without gradient are passed over.
        clip_value: a number in [0, inf].
        foreach: taken for torch's sake; no result depends on it.
        fused: taken for the others' sake; no result depends on it, and no kernel is needed.

    Raises:
        NotImplementedError: a gradient is complex, as in torch.
        TypeError, ValueError, RuntimeError: an argument or a gradient is wrong, or ``clip_value`` is finite and too
            large for the dtype of a gradient. Nothing has changed then.
    """
    bound, (own, gradients) = upper_bound("clip_value", clip_value), gradients_of(parameters, None)
    _check_flags(foreach, fused)
    for g in gradients if bound < math.inf else []:
        check_number("clip_value", bound, g.dtype)
    workspace, changes = Workspace(), []
    for where in {place(g) or HOST for g in gradients}:
        with at(where), np.errstate(all="ignore"):
            clamping = _clamping([g for g in gradients if place(g) == where], bound, workspace)
        changes += there(where, clamping)
    workspace.make([*telling(own), *changes])


def norm_order(value: Any) -> float:
    """Return the order of a norm, 1, 2 or inf, or raise TypeError or ValueError."""
    order = math.inf if value in ("inf", "Inf") else float(hp.number("norm_type", value))
    if order not in NORM_TYPES:
        raise ValueError(f"norm_type must be 1, 2 or inf, got {value!r}")
    return order


def upper_bound(name: str, value: Any) -> float:
    """Return a number in [0, inf], or raise TypeError or ValueError."""
    x = float(hp.number(name, value))
    if not x >= 0:
        raise ValueError(f"{name} must be in [0, inf], got {value!r}")
    return x


def listed(name: str, given: Any) -> list[Any]:
    """Return what an iterable yields; raise TypeError if it is none."""
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be one or an iterable of them, got {type(given).__name__}")
    return list(given)


def _array(name: str, x: Any, order: float | None) -> Array:
    """Return an array whose norm of an order can be taken as a plain one, a complex array as pairs of reals; or raise.

    Without an order it is to be clamped.
    """
    try:
        if isinstance(x, SparseGrad) or hasattr(x, "tocoo"):
            raise TypeError(f"a sparse array {'has no norm' if order else 'cannot be clamped'} here: pass its values")
        x = plain(as_array(x.data if isinstance(x, Parameter) else array_again(x)))
        storage(x.dtype)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    if x.dtype.kind == "c" and order is None:
        raise NotImplementedError(f"{name}: clamp is not supported for complex types")
    if x.dtype.kind == "c" and order != 2:
        raise TypeError(f"{name}: the norm of complex arrays is that of norm_type 2, got {order:g}")
    return as_reals(x)


def gradients_of(parameters: Any, order: float | None) -> tuple[list[Any], list[Array]]:
    """Return the gradients of parameters as they are, and as arrays that can be changed in place; or raise."""
    one = isinstance(parameters, Parameter) or library_of(parameters) is not None
    own, gradients = [], []
    for i, p in enumerate([parameters] if one else listed("parameters", parameters)):
        p = Parameter(p) if library_of(p) is not None else p
        if not isinstance(p, Parameter):
            raise TypeError(f"parameters must hold Parameters, got {short(p)}")
        name = f"parameter {i}" + (f" ({p.name})" if p.name else "")
        if p.grad is not None:
            own.append(p.grad)
            gradients.append(_array(name, _gradient(name, p), order))
    _check_apart(gradients)
    return own, gradients


def _gradient(name: str, p: Parameter) -> Any:
    try:
        grad = as_gradient(p.grad, p.data, p.master)
        if not isinstance(grad, SparseGrad) and (not is_writable(grad) or overlaps_itself(grad)):
            raise ValueError("the gradient must be writable, and its elements must not share memory")
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{name}: {error}") from None
    return grad


def _check_apart(gradients: Sequence[Array]) -> None:
    """Raise ValueError if two gradients share memory: it would be changed twice."""
    if sharing(gradients):
        raise ValueError("gradients must not share memory: one would be changed more than once")


def _machine(arrays: Sequence[Array], foreach: Any, fused: Any) -> Machine | None:
    """Return what runs kernels on the arrays, None if they are not asked for; raise if there are none."""
    _check_flags(foreach, fused)
    places = {place(x) for x in arrays} or {HOST}
    if len(places) > 1:
        raise RuntimeError(f"the arrays must lie in one place, got {', '.join(sorted(map(str, places)))}")
    where = places.pop()
    wanted = fused or (fused is None and where is not None and where.device is not None)
    return machine_at(where) if wanted else None


def _check_flags(foreach: Any, fused: Any) -> None:
    for name, flag in (("foreach", foreach), ("fused", fused)):
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} must be True, False or None, got {flag!r}")
    if foreach and fused:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


@np.errstate(all="ignore")
def _total_norm(arrays: Sequence[Array], order: float, error_if_nonfinite: bool, machine: Machine | None) -> Any:
    if not arrays:
        return np.float32(0)
    with kernels_on(machine), at(place(arrays[0])):
        norm = norm_of_norms(arrays, order, widest(arrays))
        if error_if_nonfinite:
            check_finite(norm, order)
    return norm


def check_finite(norm: Any, order: float) -> None:
    """Raise RuntimeError if a total norm is infinite or NaN."""
    if not np.isfinite(norm):
        raise RuntimeError(
            f"The total norm of order {order:g} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped: with error_if_nonfinite=False they are multiplied nevertheless"
        )


def widest(arrays: Sequence[Array]) -> DType:
    """Return the dtype of the norm of some arrays."""
    return max((arithmetic(x.dtype) for x in arrays), key=lambda dtype: dtype.itemsize)


def _norm(total_norm: Any, gradients: Sequence[Array]) -> Any:
    """Return a total norm as a NumPy scalar, or as an array without axes on the GPU of the gradients; or raise."""
    where = place(total_norm)
    if where is None or where == HOST:
        narrow = getattr(total_norm, "dtype", None) == np.float32
        return (np.float32 if narrow else np.float64)(hp.number("total_norm", total_norm))
    if total_norm.size != 1 or total_norm.dtype not in (np.float32, np.float64):
        raise TypeError(f"total_norm must be one float32 or float64 number, got {total_norm.shape} {total_norm.dtype}")
    if any(place(x) != where for x in gradients):
        raise RuntimeError(f"total_norm must lie where the gradients do, but it is {where}")
    return total_norm.reshape(())


@np.errstate(all="ignore")
def _clip(gradients: Sequence[Array], max_norm: float, norm: Any, machine: Machine | None, own: Sequence[Any]) -> None:
    """Multiply gradients, and tell the libraries whose they are."""
    if gradients:
        workspace = Workspace()
        with kernels_on(machine), at(place(gradients[0])):
            workspace.make([*telling(own), *scale(gradients, norm, max_norm, workspace)])


@twinned
def norm_of_norms(arrays: Sequence[Array], order: float, number: DType) -> Any:
    """Return the norm of the norms of real arrays, of dtype ``number``."""
    norms = [norm_of(x, order).reshape(1).astype(number) for x in arrays]
    return norm_of(np.concatenate(norms), order)


def norm_of(x: Array, order: float) -> Any:
    """Return the norm of one real array."""
    if order == 2:
        return tree.norm(x)
    return tree.total(absolute, x) if order == 1 else _largest(x)


def _largest(x: Array) -> Any:
    """Return the largest magnitude, NaN if there is one, +0 for no elements."""
    if not x.size:
        return tree.total(absolute, x)
    found = [absolute(widen(tree.take(x, block))).max() for block in tree.blocks(x.shape)]
    return np.concatenate([y.reshape(1) for y in found]).max()


@twinned
def scale(gradients: Sequence[Array], total_norm: Any, max_norm: float, workspace: Workspace) -> list[Change]:
    """Return what multiplies real gradients in place by the coefficient of a total norm."""
    number = total_norm.dtype.type
    inverse = reciprocal(add(total_norm, number(1e-6)), number(max_norm))
    coefficient = minimum(inverse, number(1))
    parts = [
        (tree.take(g, block), coefficient.astype(arithmetic(g.dtype)))
        for g in gradients
        for block in tree.blocks(g.shape)
    ]
    return writing(mul, parts, workspace)


def _clamping(gradients: Sequence[Array], bound: float, workspace: Workspace) -> list[Change]:
    """Return what puts the elements of real gradients between two numbers, in place."""
    parts = [
        (tree.take(g, block), arithmetic(g.dtype).type(bound)) for g in gradients for block in tree.blocks(g.shape)
    ]
    return writing(_clamped, parts, workspace)


def _clamped(x: Array, bound: Any) -> Array:
    return minimum(maximum(x, -bound), bound)


def writing(f: Callable[[Array, Any], Array], parts: Sequence[tuple[Array, Any]], workspace: Workspace) -> list[Change]:
    """Return what writes ``f(x, c)`` into ``x`` for pairs of an array and a number, on threads where that is much."""
    if not parts or workspace.takes(sum(x.nbytes for x, _ in parts)) or place(parts[0][0]) != HOST:
        return [partial(setitem, x, ..., f(x, c)) for x, c in parts]
    return shared_out([partial(workspace.insist, partial(_write, f))] * shares(parts), parts, workspace)


def _write(f: Callable[[Array, Any], Array], part: tuple[Array, Any]) -> None:
    x, c = part
    x[...] = f(x, c)
