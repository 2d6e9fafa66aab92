"""SAM and ASAM: steps with the gradient of a point uphill."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import setitem
from typing import Any, ClassVar

import numpy as np

from ..clip_grad import norm_of_norms, widest, writing
from ..engines import machine_at
from ..engines.twins import kernels_on
from ..engines.workspace import Workspace
from ..numerics import tree
from ..numerics.arith import Array, absolute, add, addcmul, arithmetic, as_reals, axpy, div, mul, round_to, widen
from ..numerics.array_types import HOST, at, copied, place, plain
from ..numerics.libraries import on_their_streams
from ..optimizers.base import Alone, Closure, Optimizer
from ..optimizers.closure import ClosureOptimizer
from ..step import hyper as hp
from ..step.changes import Change, make, there
from ..step.given import in_order, loss_and_gradients
from ..step.parameter import Parameter, as_gradient, borrowed, check_writable, told
from ..step.plan import gradients, label
from ..step.scaling import Scaling
from ..step.sparse import SparseGrad
from ..step.state_dict import StateDict
from .wrapper import Wrapper, copied_list

RHO = hp.Real("", interval=hp.Interval("[0, inf)"))
EPS = hp.Real("", interval=hp.Interval("[0, inf)"))
ENTRY = ("rho", "adaptive", "perturb_eps", "old")

Pair = tuple[Parameter, Array]


class SAM(Wrapper):
    """Moves the parameters uphill, takes the gradient there, moves them back, and lets an optimizer step with it.

    .. code-block:: text

        n = sqrt(sum of |g|^2 over all tensors)           first_step; of |p| * g with adaptive=True
        c = rho / (n + perturb_eps)
        p = p + c * g                                     p + (c * (p * p)) * g with adaptive=True
        p = the copy made before, bit for bit             second_step, with the gradient at the point uphill
        step of the optimizer

    The norm is that of ``clip_grad_norm_``: sums in the order of ``tree``, then the norm of the norms in the order of
    the groups; it has the widest arithmetic type of the gradients. ``c`` is rounded to the arithmetic type of a
    parameter, and ``p`` once where it is stored. Complex numbers are pairs of reals. A parameter without gradient stays
    where it is. If ``n`` and ``perturb_eps`` are 0, parameters with a gradient become NaN.

    Args:
        optimizer: any whose step takes gradients, but a Sharded one.
        rho: how far uphill, in [0, inf).
        adaptive: measure by the size of each number: ASAM.
        perturb_eps: added to the norm, in [0, inf).

    Attributes:
        optimizer: the optimizer.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Source: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving generalization",
    ICLR 2021, algorithm 1; Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization", ICML 2021.
    """

    own: ClassVar[tuple[str, ...]] = ("rho", "adaptive", "perturb_eps", "_old")

    def __init__(
        self, optimizer: Optimizer, rho: float = 0.05, adaptive: bool = False, perturb_eps: float = 1e-12
    ) -> None:
        super().__init__(optimizer)
        self._check_wrapped()
        if isinstance(self._innermost(), ClosureOptimizer):
            raise TypeError(f"SAM takes no {type(self._innermost()).__name__}: its steps take no gradients")
        self.rho: float
        self.adaptive: bool
        self.perturb_eps: float
        vars(self).update(_settings({"rho": rho, "adaptive": adaptive, "perturb_eps": perturb_eps}))
        self._old: dict[Parameter, Array] | None = None

    def first_step(
        self, zero_grad: bool = False, *, grads: Iterable[Any] | None = None, grad_scale: Any = None
    ) -> None:
        """Move the parameters uphill.

        Args:
            zero_grad: forget the gradients afterwards.
            grads: as for the step of an optimizer; None for those that the parameters hold.
            grad_scale: the factor by which the loss was scaled, if the gradients still are.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient is wrong, or the parameters are uphill already. Nothing has
                changed then.
        """
        forget = hp.Flag("").resolve("zero_grad", zero_grad)
        with Alone(self, sys._getframe()):
            self._perturb(grads, Scaling(grad_scale))
        if forget:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False, **arguments: Any) -> None:
        """Move the parameters back, and let the optimizer step with the gradients of the point uphill.

        Args:
            zero_grad: forget the gradients afterwards.
            arguments: ``grads``, ``grad_scale`` and ``found_inf``, as for the step of an optimizer.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient is wrong, or the parameters are not uphill. Nothing has
                changed then.
        """
        forget = hp.Flag("").resolve("zero_grad", zero_grad)
        self.step(**arguments)
        if forget:
            self.zero_grad()

    def step(
        self,
        closure: Closure | None = None,
        *,
        grads: Iterable[Any] | None = None,
        estimates: Iterable[Any] | None = None,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> Any:
        """Take both steps, with a closure; or the second one, without.

        Args:
            closure: called twice, where the parameters are and uphill; it computes the loss and sets the gradients, or
                returns both. The first loss is returned. If it raises, everything is as before the step.
            grads: the gradients of the second step, as for the step of an optimizer, without a closure.
            estimates: must be None: SAM takes none.
            grad_scale: as for the step of an optimizer.
            found_inf: likewise; the parameters are moved back where the step is skipped.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient or a setting is wrong. Nothing has changed then.
        """
        if estimates is not None:
            raise TypeError("SAM takes no estimates")
        with Alone(self, sys._getframe()):
            scaling = Scaling(grad_scale, found_inf)
            if closure is None:
                return self._second(grads, scaling)
            if grads is not None or not callable(closure):
                raise TypeError("step takes a closure, a function that returns the loss, or grads, and not both")
            if self._old is not None:
                raise RuntimeError("first_step() has been called: call second_step(), or step() without a closure")
            return self._both(closure, scaling)

    def _both(self, closure: Closure, scaling: Scaling) -> Any:
        loss, grads = loss_and_gradients(closure())
        try:
            self._perturb(grads, scaling)
            _, grads = loss_and_gradients(closure())
            self._second(grads, scaling)
        except BaseException:
            if self._old is not None:
                make([*_writing(self._old), self._forgetting()])
            raise
        return loss

    def _forgetting(self) -> Change:
        return partial(setattr, self, "_old", None)

    # the first step

    def _perturb(self, given: Any, scaling: Scaling) -> None:
        """Move the parameters uphill, all of them or none."""
        if self._old is not None:
            raise RuntimeError("first_step() has already been called since the last second_step().")
        self._check_in_place()
        pairs = self._pairs(given)
        with on_their_streams(borrowed(self.param_groups)), np.errstate(all="ignore"):
            old = {p: copied(p.data) for p, _ in pairs}
            workspace = Workspace()
            changes = self._moving(pairs, scaling.scale(), workspace) if pairs else []
            workspace.make([*told(old), *changes, partial(setattr, self, "_old", old)], self)

    def _pairs(self, given: Any) -> list[Pair]:
        """Return the parameters that have gradients, with these as dense arrays; raise if one is wrong."""
        groups, found = self.param_groups, []
        grads = gradients(groups, in_order(groups, given))
        for i, (group, column) in enumerate(zip(groups, grads, strict=True)):
            for j, (p, grad) in enumerate(zip(group["params"], column, strict=True)):
                if grad is not None:
                    found.append((p, _dense(p, grad, label(i, j, p, group.get("param_names", ())))))
        places = sorted({str(place(p.data)) for p, _ in found})
        if len(places) > 1:
            raise RuntimeError(f"the parameters must lie in one place, got {', '.join(places)}")
        return found

    def _moving(self, pairs: Sequence[Pair], scale: float | None, workspace: Workspace) -> list[Change]:
        """Return what moves parameters that lie in one place."""
        where = place(pairs[0][0].data) or HOST
        wanted = where.device is not None and all(group.get("fused") is not False for group in self.param_groups)
        with at(where):
            grads = [_divided(as_reals(plain(g)), scale) for _, g in pairs]
            data = [as_reals(plain(p.data)) for p, _ in pairs]
            with kernels_on(machine_at(where) if wanted else None):
                sizes = list(map(_weighed, data, grads)) if self.adaptive else grads
                norm = norm_of_norms(sizes, 2.0, widest(sizes))
            number = norm.dtype.type
            coefficient = div(number(self.rho), add(norm, number(self.perturb_eps)))
            parts = [
                (tree.take(x, block), (tree.take(g, block), coefficient.astype(arithmetic(x.dtype))))
                for x, g in zip(data, grads, strict=True)
                for block in tree.blocks(x.shape)
            ]
            return there(where, writing(_further if self.adaptive else _moved, parts, workspace))

    # the second step

    def _second(self, grads: Any, scaling: Scaling) -> Any:
        """Step with gradients of the point uphill from where the parameters were, or stay uphill."""
        if self._old is None:
            raise RuntimeError("the parameters are not uphill: call first_step() first, or step(closure)")
        self._check_in_place()
        uphill = {p: copied(p.data) for p in self._old}
        given = {"grads": grads, "grad_scale": scaling.grad_scale, "found_inf": scaling.found_inf}
        arguments = {name: x for name, x in given.items() if x is not None}
        try:
            make(_writing(self._old))
            with self.optimizer.also([self._forgetting(), *self._also]):
                out = self.optimizer.step(**arguments)
            make([self._forgetting()])  # where the step was skipped
        except BaseException:
            if self._old is not None:
                make(_writing(uphill))
            raise
        return out

    def _leave_out(self) -> Any:
        if self._old is not None:
            make([*_writing(self._old), self._forgetting()])
        return super()._leave_out()

    # state dicts

    def _saved(self, inner: StateDict, copy: Callable[[Any], Any]) -> StateDict:
        old = None if self._old is None else copied_list(self._members(), self._old, copy)
        own = {name: vars(self)[name] for name in ENTRY if name != "old"}
        return {**inner, "sam": {**own, "old": old}}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a copy of a saved state, with the settings and, if it was saved uphill, the way back.

        Raises:
            TypeError, ValueError: the state is not one of a SAM, or not of these parameters. Nothing has changed then.
        """
        inner, entry = self._entry(state_dict, "sam", ENTRY)
        old = None if entry["old"] is None else self._arrays(inner, "old", entry["old"], lambda p: p.dtype)
        self._take_over(inner, {**_settings(entry), "_old": old})


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are used, or raise."""
    kinds: dict[str, hp.Hyper] = {"rho": RHO, "adaptive": hp.Flag(""), "perturb_eps": EPS}
    return {name: kind.resolve(name, given[name]) for name, kind in kinds.items()}


def _dense(p: Parameter, grad: Any, name: str) -> Array:
    """Return a gradient as a dense array, or raise."""
    try:
        check_writable(p.data)
        grad = as_gradient(grad, p.data, p.master)
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{name}: {error}") from None
    return grad.to_dense() if isinstance(grad, SparseGrad) else grad


def _divided(g: Array, scale: float | None) -> Array:
    """Return a gradient as it is without the scale of the loss, in its arithmetic type then."""
    if scale is None:
        return g
    g = widen(g)
    return div(g, g.dtype.type(scale))


def _weighed(x: Array, g: Array) -> Array:
    return mul(absolute(widen(x)), widen(g))


def _moved(x: Array, gradient: tuple[Array, Any]) -> Array:
    g, c = gradient
    return round_to(axpy(widen(x), widen(g), c), x)


def _further(x: Array, gradient: tuple[Array, Any]) -> Array:
    g, c = gradient
    y = widen(x)
    return round_to(addcmul(y, mul(y, y), widen(g), c), x)


def _writing(arrays: Mapping[Parameter, Array]) -> list[Change]:
    """Return what gives parameters the values of some arrays."""
    each = [there(place(p.data), [partial(setitem, plain(p.data), ..., x)]) for p, x in arrays.items()]
    return [*told(arrays), *(change for changes in each for change in changes)]
