"""MultiSteps: one step for the gradients of several batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..numerics.arith import Array, DType, add, arithmetic, div, round_to, sub, widen
from ..numerics.array_types import at, place, plain
from ..optimizers.base import Closure, Optimizer
from ..step import hyper as hp
from ..step.changes import make
from ..step.given import in_order, loss_and_gradients
from ..step.parameter import Parameter, as_gradient
from ..step.scaling import Scaling
from ..step.sparse import SparseGrad
from ..step.state_dict import StateDict
from .wrapper import Wrapper, copied_list

STEPS = hp.Count("how many gradients make one step", interval=hp.Interval("[1, inf)"))


class MultiSteps(Wrapper):
    """Adds up the gradients of several calls of ``step``, and lets an optimizer step with them in the last.

    .. code-block:: text

        a = 0
        a = a + (g - a) / (n + 1)        for n = 0, 1, ... steps - 1: the mean, in this order
        a = a + g                        with mean=False: the sum

    The running mean is not the sum divided by ``steps`` to the bit. ``a`` has the arithmetic type of a gradient,
    float32 for 16 bits, and is rounded to the type of the parameter for the step. A parameter without gradient in a
    call adds 0, and has none in the step if it never had one.

    Args:
        optimizer: any whose step takes gradients; schedulers are made of it, or of this.
        steps: how many calls make a step.
        mean: whether the mean is taken, or the sum.

    Attributes:
        optimizer: the optimizer.
        count: the calls since the last step.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    own: ClassVar[tuple[str, ...]] = ("steps", "mean", "count", "_found", "_scale", "_sums")

    def __init__(self, optimizer: Optimizer, steps: int, mean: bool = True) -> None:
        super().__init__(optimizer)
        self.steps: int = STEPS.resolve("steps", steps)
        self.mean = hp.Flag("").resolve("mean", mean)
        self.count: int = 0
        self._found: bool = False
        self._scale: float | None = None
        self._sums: dict[Parameter, Array] = {}

    def step(
        self,
        closure: Closure | None = None,
        *,
        grads: Iterable[Any] | None = None,
        estimates: Iterable[Any] | None = None,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> Any:
        """Take gradients in, and step with all of them if these are the last.

        Args:
            closure: called first; it computes the loss and sets the gradients of the parameters, or returns both.
            grads: as for the step of an optimizer; None for those that the parameters hold.
            estimates: must be None: several batches have no estimate in common.
            grad_scale: the factor by which the loss was scaled, the same in all calls that make a step.
            found_inf: if it is not 0 in one of the calls, the step that they make is skipped.

        Returns:
            The loss that ``closure`` returned; without one, whether this call was the last of those that make a step.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient or a setting is wrong. Nothing has changed then.
        """
        if estimates is not None:
            raise TypeError("MultiSteps takes no estimates")
        if closure is None:
            return self._gather(grads, grad_scale, found_inf)
        if grads is not None or not callable(closure):
            raise TypeError("step takes a closure, a function that returns the loss, or grads, and not both")
        loss, grads = loss_and_gradients(closure())
        self._gather(grads, grad_scale, found_inf)
        return loss

    def _gather(self, grads: Any, grad_scale: Any, found_inf: Any) -> bool:
        """Take gradients in, and step with all of them if these are the last; tell whether that was so."""
        scaling = Scaling(grad_scale, found_inf)
        scale, found = scaling.scale(), self._found or scaling.skips()
        if self._sums and scale != self._scale:
            raise ValueError(f"grad_scale must be that of the first of {self.steps} calls, {self._scale}, got {scale}")
        sums = self._added(grads)
        after: dict[str, Any] = {"count": self.count + 1, "_found": found, "_scale": scale, "_sums": sums}
        if self.count + 1 < self.steps:
            make([partial(vars(self).update, after)])
            return False
        self._last(sums, scale, found)
        return True

    def _last(self, sums: Mapping[Parameter, Array], scale: float | None, found: bool) -> None:
        """Step with the sums, and begin anew, both at once."""
        optimizer, fresh = self.optimizer, partial(vars(self).update, _fresh())
        members = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [round_to(sums[p], p.data) if p in sums else None for p in members]
        with optimizer.also([fresh, *self._also]):
            optimizer.step(grads=grads, grad_scale=scale, found_inf=found or None)
        make([fresh])  # where the step was skipped

    def _is_gathering(self) -> bool:
        return self.count > 0

    def _leave_out(self) -> bool:
        """Count a call whose gradients are not finite: the step that it makes with others is skipped."""
        last = self.count + 1 >= self.steps
        after = _fresh() if last else {"count": self.count + 1, "_found": True}
        make([partial(vars(self).update, after)])
        return last

    def _added(self, given: Any) -> dict[Parameter, Array]:
        """Return the sums with some gradients added."""
        members = [p for group in self.optimizer.param_groups for p in group["params"]]
        grads = in_order(self.optimizer.param_groups, given)
        grads = [p.grad for p in members] if grads is None else list(grads)
        if len(grads) != len(members):
            raise ValueError(f"grads must hold {len(members)} gradients, got {len(grads)}")
        sums = {}
        for i, (p, g) in enumerate(zip(members, grads, strict=True)):
            checked = None if g is None else _checked(f"parameter {i}", g, p)
            if checked is not None or p in self._sums:
                with at(place(p.data)), np.errstate(all="ignore"):
                    sums[p] = self._sum(self._sums.get(p), checked, p)
        return sums

    def _sum(self, a: Array | None, g: Array | None, p: Parameter) -> Array:
        zero = np.zeros_like(plain(p.data), dtype=_dtype(p))
        a, g = zero if a is None else a, zero if g is None else widen(g)
        if not self.mean:
            return add(a, g)
        return add(a, div(sub(g, a), np.float64(self.count + 1).astype(a.dtype)))

    def _saved(self, inner: StateDict, copy: Callable[[Any], Any]) -> StateDict:
        own = {"count": self.count, "found": self._found, "scale": self._scale}
        return {"optimizer": inner, **own, "sums": copied_list(self._members(), self._sums, copy)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of a saved state.

        Raises:
            TypeError, ValueError: the state is not one of these parameters and of so many steps. Nothing has changed
                then.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != {"optimizer", "count", "found", "scale", "sums"}:
            raise ValueError("loaded state dict is not one of MultiSteps")
        count = hp.Count("", interval=hp.Interval(f"[0, {self.steps})")).resolve("count", state_dict["count"])
        found = hp.Flag("").resolve("found", state_dict["found"])
        scale = Scaling(state_dict["scale"]).scale()
        inner = state_dict["optimizer"]
        sums = self._read(inner, state_dict["sums"])
        self._take_over(inner, {"count": count, "_found": found, "_scale": scale, "_sums": sums})

    def _read(self, inner: Any, saved: Any) -> dict[Parameter, Array]:
        if isinstance(inner, Mapping) and {"state", "param_groups"} <= set(inner):
            return self._arrays(dict(inner), "sums", saved, _dtype)
        raise ValueError("loaded state dict is not one of MultiSteps")


def _dtype(p: Parameter) -> DType:
    """Return the dtype of a sum."""
    return p.dtype if p.dtype.kind == "c" else arithmetic(p.dtype)


def _fresh() -> dict[str, Any]:
    return {"count": 0, "_found": False, "_scale": None, "_sums": {}}


def _checked(name: str, grad: Any, p: Parameter) -> Array:
    """Return a gradient as an array, or raise."""
    try:
        checked = as_gradient(grad, p.data, p.master)
        if isinstance(checked, SparseGrad):
            raise TypeError("sparse gradients cannot be accumulated")
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{name}: {error}") from None
    return plain(checked)
