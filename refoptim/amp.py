"""Dynamic loss scaling for mixed precision, with the names of ``torch.amp``.

.. code-block:: text

    scale(x)       x * scale, in the dtype of x; a 16-bit number without axes in float32
    unscale_       grad = grad * float32(1 / scale), one rounding; found_inf = 1 if some grad was inf or NaN, else 0
    step           unscale_, or let the rule compute grad / scale; left out where found_inf is 1
    update         scale = float32(scale * backoff_factor), tracker = 0            where some found_inf is 1
                   tracker = tracker + 1                                           elsewhere; if that reaches the
                   scale = float32(scale * growth_factor) if finite, tracker = 0   growth_interval

The scale is a float32 number, its products and its inverse are computed in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from numbers import Integral, Real
from operator import setitem
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np

from .clip_grad import norm_of_norms, writing
from .engines import machine_at
from .engines.machine import Machine
from .engines.twins import kernels_on, twinned
from .engines.workspace import Workspace
from .numerics import tree
from .numerics.arith import Array, arithmetic, as_reals, from_reals, mul, storage, widen
from .numerics.array_types import HOST, Place, at, is_writable, moved, on_gpu, place, plain, sharing
from .numerics.libraries import library_of, on_their_streams, telling
from .optimizers.base import Optimizer
from .optimizers.closure import ClosureOptimizer
from .step import hyper as hp
from .step.changes import Change, make, there
from .step.given import in_order
from .step.parameter import Parameter, array_again, as_gradient, borrowed, overlaps_itself
from .step.plan import gradients as gradients_of
from .step.plan import label
from .step.sparse import SparseGrad

__all__ = ["GradScaler"]

STATE = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
"""The keys of a state dict, as torch has them."""


class OptState(Enum):
    """What has been done with the gradients of an optimizer since the last ``update``."""

    READY = 0
    UNSCALED = 1
    STEPPED = 2


class _Record(NamedTuple):
    """An optimizer, how far it is, and for each place whether a gradient there was found to be infinite or NaN."""

    optimizer: Optimizer
    stage: OptState = OptState.READY
    found: Mapping[Place, Any] = {}
    earlier: tuple[Any, ...] = ()
    """What was found in calls whose gradients wait for others before a step is taken."""


class GradScaler:
    """Multiplies losses by a factor, divides gradients by it, and finds out how large it can be.

    Args:
        device: "cpu", "cuda" or None; taken for torch's sake. The scale lies where the first output that is scaled
            does, and nothing is switched off if there is no GPU.
        init_scale: the first scale, in (0, inf) as a float32 number.
        growth_factor: multiplies the scale after ``growth_interval`` steps without inf or NaN; in (1, inf).
        backoff_factor: multiplies the scale after gradients with inf or NaN; in (0, 1).
        growth_interval: an integer in [1, inf).
        enabled: if False, ``step`` calls ``optimizer.step``, and nothing else does anything.

    Raises:
        AssertionError: ``growth_factor`` is not above 1, or ``backoff_factor`` not below it, as in torch.
        TypeError, ValueError: another argument is wrong.
    """

    def __init__(
        self,
        device: str | None = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device is not None and (not isinstance(device, str) or device.partition(":")[0] not in ("cpu", "cuda")):
            raise TypeError(f"device must be 'cpu', 'cuda' or None, got {device!r}")
        if not isinstance(enabled, (bool, np.bool_)):
            raise TypeError(f"enabled must be True or False, got {enabled!r}")
        self._device, self._enabled = device, bool(enabled)
        given = (init_scale, growth_factor, backoff_factor, growth_interval, 0)
        values = _checked(dict(zip(STATE, given, strict=True)), "init_scale") if enabled else given
        self._init_scale, self._growth_factor, self._backoff_factor, self._growth_interval, _ = values
        self._init_growth_tracker = 0
        self._scale: Any = None
        self._growth_tracker: Any = None
        self._records: dict[int, _Record] = {}

    def scale(self, outputs: Any) -> Any:
        """Multiply outputs by the scale.

        Args:
            outputs: a number, an array, or lists and tuples of them, nested perhaps. Arrays of other libraries are
                multiplied by their own ``*``.

        Returns:
            The same, scaled; of another iterable an iterator. An array with axes keeps its dtype, one without axes is
            at least float32, integers become float32.

        Raises:
            ValueError: there is something else among the outputs.
            TypeError: the dtype of an array is not supported.
        """
        if not self._enabled:
            return outputs
        kept: list[Any] = [] if self._scale is None else [self._scale]

        def apply(x: Any) -> Any:
            if _is_leaf(x):
                if not kept:
                    kept.append(_placed(np.asarray(self._init_scale, np.float32), place(x) or HOST))
                return _times(x, kept[0])
            return _rebuilt(x, [apply(y) for y in _members(x)])

        scaled = apply(outputs)
        if self._scale is None and kept:
            tracker = _placed(np.asarray(self._init_growth_tracker, np.int32), place(kept[0]))
            make([partial(vars(self).update, {"_scale": kept[0], "_growth_tracker": tracker})])
        return scaled

    def unscale_(self, optimizer: Optimizer) -> None:
        """Multiply the gradients that the parameters hold by the inverse of the scale, in place.

        Call it between the backward pass and ``step`` if the gradients are needed as they are, to clip them perhaps.
        Sparse arrays of other libraries are replaced by a SparseGrad.

        Raises:
            RuntimeError: it has been called before, or ``step`` has, since the last ``update``.
            ValueError: a gradient is float16, as torch puts it: what is divided would vanish again. ``step`` needs no
                ``unscale_``.
            TypeError, ValueError: a gradient does not fit its parameter, is read-only, or shares memory with another or
                with a parameter. Nothing has changed then.
        """
        if not self._enabled:
            return
        record, scale = self._record(optimizer), self._known("unscale_")
        if record.stage is OptState.UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if record.stage is OptState.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        holder = optimizer._reduced()
        pairs = _gradients(holder)
        if any(g.dtype == np.float16 for _, g in pairs):
            raise ValueError(
                "Attempting to unscale FP16 gradients. (step() divides them in float32; clip them before it, by "
                "max_norm * get_scale())"
            )
        wrong = _what_forbids_writing(holder, pairs)
        if wrong:
            raise ValueError(wrong)
        self._unscale(optimizer, pairs, scale)

    def _unscale(self, optimizer: Optimizer, pairs: Sequence[tuple[Parameter, Any]], scale: Any) -> None:
        workspace, inverse, machines = Workspace(), _inverse(scale), _machines(optimizer, pairs)
        with on_their_streams(borrowed(optimizer.param_groups)):
            found = optimizer._everywhere(_found(pairs, machines))
            record = self._record(optimizer)._replace(stage=OptState.UNSCALED, found=found)
            changes = [x for p, g in pairs if not _is_shared(p, g) for x in _replacing(p, g, inverse)]
            own = [(p.grad, as_reals(plain(_values(g)))) for p, g in pairs if _is_shared(p, g)]
            changes += telling(grad for grad, _ in own)
            for where, machine in machines.items():
                here = [x for _, x in own if place(x) == where]
                with kernels_on(machine), at(where), np.errstate(all="ignore"):
                    dividing = unscale(here, _placed(inverse, where), workspace) if here else []
                changes += there(where, dividing)
            workspace.make([*changes, partial(setitem, self._records, id(optimizer), record)])

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Take a step with gradients divided by the scale, unless one of them is infinite or NaN.

        Gradients are those the parameters hold, or those given as ``grads``. If ``unscale_`` has not been called, it
        is; but the rule divides by the scale itself, and no gradient is written to, where kernels run, or a gradient
        has 16 bits, is given as ``grads``, is read-only or shares memory. A MultiSteps is called for each batch; the
        scale stays until it steps, whether ``update`` is called in between or not.

        Args:
            optimizer: the optimizer.
            args: passed to ``optimizer.step``.
            kwargs: passed to ``optimizer.step``.

        Returns:
            What ``optimizer.step`` returned, None if it was left out.

        Raises:
            AssertionError: no output has been scaled, or there is no gradient.
            RuntimeError: it has been called before since the last ``update``, or there is a closure.
            TypeError, ValueError: a gradient is wrong, or the optimizer needs a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        record = self._record(optimizer)
        _check_arguments(optimizer, args, kwargs)
        scale = self._known("step")
        if record.stage is OptState.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if record.stage is OptState.READY:
            record, kwargs = self._ready(optimizer, record, scale, kwargs)
        if not record.found:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        found = _together(record.found.values())
        if on_gpu(found):
            kwargs = {**kwargs, "found_inf": found}
        # Noted before, so that no interrupt makes it step twice.
        self._records[id(optimizer)] = record._replace(stage=OptState.STEPPED)
        try:
            out = optimizer.step(*args, **kwargs) if on_gpu(found) or not found else optimizer._leave_out()
        except (TypeError, ValueError, RuntimeError):  # something is wrong, and nothing has changed
            self._records[id(optimizer)] = record
            raise
        if optimizer._is_gathering():
            self._records[id(optimizer)] = _Record(optimizer, earlier=(*record.earlier, *record.found.values()))
        return out

    def _ready(self, optimizer: Optimizer, record: _Record, scale: Any, kwargs: Any) -> tuple[_Record, dict[str, Any]]:
        """Look for inf and NaN, and unscale gradients or leave it to the rule; return what the step is to be given."""
        given = kwargs.get("grads")
        holder = optimizer._reduced(given)
        if holder is not optimizer:
            given, kwargs = None, {name: x for name, x in kwargs.items() if name != "grads"}
        groups = holder.param_groups
        if given is not None:
            given = [g for group in gradients_of(groups, in_order(groups, given)) for g in group]
            kwargs = {**kwargs, "grads": given}
        pairs = _gradients(holder, given)
        if not pairs:
            return record, kwargs
        if not on_gpu(scale):
            _inverse(scale)  # it must have one
        if given is not None or _is_left_to_the_rule(holder, pairs):
            with on_their_streams(borrowed(optimizer.param_groups)):
                found = optimizer._everywhere(_found(pairs, _machines(optimizer, pairs)))
            return record._replace(found=found), {**kwargs, "grad_scale": scale}
        self._unscale(optimizer, pairs, scale)
        return self._records[id(optimizer)], kwargs

    def update(self, new_scale: Any = None) -> None:
        """Make the scale smaller if a gradient was infinite or NaN, larger after enough steps without.

        Args:
            new_scale: the scale to be, a number or an array of one element, in place of what follows from the steps.

        Raises:
            AssertionError: no output has been scaled, or no step taken, since the last ``update``.
            TypeError, ValueError: ``new_scale`` is no number in (0, inf) as a float32 one.
        """
        if not self._enabled:
            return
        scale, tracker = self._known("update"), self._growth_tracker
        if new_scale is None and any(record.optimizer._is_gathering() for record in self._records.values()):
            return
        if new_scale is None:
            scale, tracker = self._next(scale, tracker)
        elif on_gpu(new_scale) and new_scale.size == 1 and new_scale.dtype.kind == "f":
            scale = _placed(new_scale.reshape(()).astype(np.float32), place(scale))
        else:
            scale = _placed(np.asarray(_scale("new_scale", new_scale), np.float32), place(scale))
        make([partial(vars(self).update, {"_scale": scale, "_growth_tracker": tracker, "_records": {}})])

    def _next(self, scale: Any, tracker: Any) -> tuple[Any, Any]:
        """Return the scale and the growth tracker after the steps since the last ``update``, where they lie."""
        found = [x for record in self._records.values() for x in (*record.found.values(), *record.earlier)]
        if not found:
            raise AssertionError("No inf checks were recorded prior to update.")
        where = place(scale)
        with at(where), np.errstate(all="ignore"):
            hit = _placed(_together(found), where) > 0
            wide, successful = scale.astype(np.float64), tracker + np.int32(1)
            due = successful >= self._growth_interval
            grown, shrunk = (
                (wide * factor).astype(np.float32) for factor in (self._growth_factor, self._backoff_factor)
            )
            larger = np.where(due & np.isfinite(grown), grown, scale)
            return np.where(hit, shrunk, larger), np.where(hit | due, 0, successful).astype(np.int32)

    def get_scale(self) -> float:
        """Return the scale, 1.0 if scaling is disabled; this waits for a GPU on which it lies."""
        if not self._enabled:
            return 1.0
        return float(self._init_scale if self._scale is None else self._scale.item())

    def get_growth_factor(self) -> float:
        """Return the growth factor."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set the growth factor; the errors are the constructor's."""
        self._growth_factor = _growth("growth_factor", new_factor)

    def get_backoff_factor(self) -> float:
        """Return the backoff factor."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set the backoff factor; the errors are the constructor's."""
        self._backoff_factor = _backoff("backoff_factor", new_factor)

    def get_growth_interval(self) -> int:
        """Return the growth interval."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set the growth interval; the errors are the constructor's."""
        self._growth_interval = _interval("growth_interval", new_interval)

    def _get_growth_tracker(self) -> int:
        if not self._enabled:
            return 0
        return int(self._init_growth_tracker if self._growth_tracker is None else self._growth_tracker.item())

    def is_enabled(self) -> bool:
        """Tell whether scaling is enabled."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the settings and the growth tracker as torch does; an empty dict if disabled."""
        if not self._enabled:
            return {}
        settings = (self._growth_factor, self._backoff_factor, self._growth_interval)
        return dict(zip(STATE, (self.get_scale(), *settings, self._get_growth_tracker()), strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state dict, torch's or one of ours; do nothing if disabled.

        Raises:
            RuntimeError: it is empty, as that of a scaler that is disabled.
            TypeError, ValueError, AssertionError: it is no state of a scaler. Nothing has changed then.
        """
        if not self._enabled:
            return
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"the state dict of a GradScaler must be a dict, got {type(state_dict).__name__}")
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        if set(state_dict) != set(STATE):
            raise ValueError(f"the state dict of a GradScaler must have the keys {list(STATE)}, got {list(state_dict)}")
        scale, growth, backoff, interval, tracker = _checked(state_dict)
        settings = {"_growth_factor": growth, "_backoff_factor": backoff, "_growth_interval": interval}
        now = {"_init_scale": scale, "_init_growth_tracker": tracker, **settings}
        if self._scale is not None:
            numbers = np.asarray(scale, np.float32), np.asarray(tracker, np.int32)
            now |= {"_scale": _placed(numbers[0], place(self._scale))}
            now |= {"_growth_tracker": _placed(numbers[1], place(self._scale))}
        make([partial(vars(self).update, now)])

    def __getstate__(self) -> dict[str, Any]:
        if self._records:
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after "
                "scaler.update()."
            )
        numbers = {"_init_scale": self.get_scale(), "_init_growth_tracker": self._get_growth_tracker()}
        return {**vars(self), **(numbers if self._enabled else {}), "_scale": None, "_growth_tracker": None}

    def _record(self, optimizer: Any) -> _Record:
        if not isinstance(optimizer, Optimizer):
            hint = " (torch.amp.GradScaler takes one of torch)" if hasattr(optimizer, "param_groups") else ""
            got = type(optimizer).__name__ if hint else short(optimizer)
            raise TypeError(f"optimizer must be an optimizer of refoptim, got {got}{hint}")
        return self._records.get(id(optimizer), _Record(optimizer))

    def _known(self, name: str) -> Any:
        """Return the scale, which ``scale`` makes; raise AssertionError if it has not been called."""
        if self._scale is None:
            raise AssertionError(
                f"Attempted {name} but _scale is None.  This may indicate your script did not use scaler.scale(loss "
                "or outputs) earlier in the iteration."
            )
        return self._scale


def _checked(state: Mapping[str, Any], name: str = "scale") -> tuple[float, float, float, int, int]:
    """Return the numbers of a state dict in the order of ``STATE``, or raise; the scale goes by ``name`` then."""
    scale, growth = _scale(name, state["scale"]), _growth("growth_factor", state["growth_factor"])
    backoff = _backoff("backoff_factor", state["backoff_factor"])
    interval = _interval("growth_interval", state["growth_interval"])
    return scale, growth, backoff, interval, _count("_growth_tracker", state["_growth_tracker"], 0)


def _scale(name: str, value: Any) -> float:
    x = float(hp.number(name, value))
    with np.errstate(all="ignore"):
        if not 0 < np.float32(x) < math.inf:
            raise ValueError(f"{name} must be in (0, inf) as a float32 number, got {value!r}")
    return x


def _growth(name: str, value: Any) -> float:
    x = float(hp.number(name, value))
    if not 1 < x < math.inf:
        raise AssertionError(f"The growth factor must be > 1.0. (and finite, got {x})")
    return x


def _backoff(name: str, value: Any) -> float:
    x = float(hp.number(name, value))
    if not 0 < x < 1:
        raise AssertionError(f"The backoff factor must be < 1.0. (and above 0, got {x})")
    return x


def _interval(name: str, value: Any) -> int:
    return _count(name, value, 1)


def _count(name: str, value: Any, least: int) -> int:
    if not hp.is_number(value, Integral) or not least <= value < 2**31:
        raise ValueError(f"{name} must be an integer in [{least}, 2**31), got {value!r}")
    return int(value)


# Outputs


def _is_leaf(x: Any) -> bool:
    """Tell whether an output is a number or an array, of whichever library."""
    array = all(hasattr(x, name) for name in ("dtype", "shape", "__mul__")) and not isinstance(x, np.ma.MaskedArray)
    return array or hp.is_number(x, Real)


def _members(outputs: Any) -> Iterable[Any]:
    told = "outputs must be a number, an array or an iterable of them"
    if isinstance(outputs, (str, bytes, Mapping, np.ma.MaskedArray)) or not isinstance(outputs, Iterable):
        raise ValueError(f"{told}, got {type(outputs).__name__}")
    return outputs


def _rebuilt(outputs: Any, scaled: list[Any]) -> Any:
    """Return scaled outputs in what held them, an iterator if that was no list or tuple."""
    if not isinstance(outputs, (list, tuple)):
        return iter(scaled)
    return type(outputs)(*scaled) if hasattr(outputs, "_fields") else type(outputs)(scaled)


def _times(x: Any, scale: Any) -> Any:
    """Multiply an output by the scale."""
    if not hasattr(x, "dtype"):
        return x * float(scale.item())
    x = array_again(x)
    where = place(x)
    if where is None:
        return _times_foreign(x, float(scale.item()))
    x = plain(x)
    with at(where), np.errstate(all="ignore"):
        x = x.astype(np.float32) if x.dtype.kind in "biu" else x
        storage(x.dtype)
        x = x if x.ndim else widen(x)
        return from_reals(mul(as_reals(x), _placed(scale, where)), x.dtype)


def _times_foreign(x: Any, scale: float) -> Any:
    """Multiply another library's array, in its own way; as torch's rules have it, none without axes stays narrow."""
    if x.dtype.itemsize == 2 and not x.shape:
        x = x.float() if hasattr(x, "float") else x.astype("float32")
    return x * scale


# Gradients


def _check_arguments(optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise RuntimeError for a closure, TypeError for an optimizer that needs one and for what the scaler passes on."""
    if args or "closure" in kwargs:
        raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
    rule = type(optimizer._innermost())
    if issubclass(rule, ClosureOptimizer):
        raise TypeError(
            f"{rule.__name__}.step() missing 1 required positional argument: 'closure', which no GradScaler can call: "
            "it would evaluate the loss more than once"
        )
    for name in ("grad_scale", "found_inf"):
        if name in kwargs:
            raise TypeError(f"a GradScaler passes {name} to the step itself")


def _gradients(optimizer: Optimizer, given: Sequence[Any] | None = None) -> list[tuple[Parameter, Any]]:
    """Return the parameters that have gradients, with these as plain arrays or SparseGrads; or raise."""
    found = []
    groups = optimizer.param_groups
    for i, (group, grads) in enumerate(zip(groups, gradients_of(groups, given), strict=True)):
        for j, (p, grad) in enumerate(zip(group["params"], grads, strict=True)):
            if grad is not None:
                try:
                    found.append((p, as_gradient(grad, p.data, p.master)))
                except (TypeError, ValueError, RuntimeError) as error:
                    raise type(error)(f"{label(i, j, p, group.get('param_names', ()))}: {error}") from None
    return found


def _is_left_to_the_rule(optimizer: Optimizer, pairs: Sequence[tuple[Parameter, Any]]) -> bool:
    """Tell whether the rule is to divide gradients: kernels run it, or gradients cannot be divided in place."""
    if any(group.get("fused") for group in optimizer.param_groups):
        return True
    narrow = any(g.dtype.itemsize == 2 or on_gpu(_values(g)) for _, g in pairs)
    return narrow or _what_forbids_writing(optimizer, pairs) is not None


def _what_forbids_writing(optimizer: Optimizer, pairs: Sequence[tuple[Parameter, Any]]) -> str | None:
    """Return why the gradients cannot be changed in place, None if they can."""
    own = [_values(g) for p, g in pairs if _is_shared(p, g)]
    if any(not is_writable(x) or overlaps_itself(x) for x in own):
        return "gradients must be writable, and their elements must not share memory"
    if sharing([*own, *(p.data for group in optimizer.param_groups for p in group["params"])]):
        return "gradients must not share memory, with each other or with parameters"
    return None


def _is_shared(p: Parameter, grad: Any) -> bool:
    """Tell whether a gradient has the memory of the one that its parameter holds; one made of scipy's need not."""
    return not isinstance(grad, SparseGrad) or isinstance(p.grad, SparseGrad) or library_of(p.grad) is not None


def _values(grad: Any) -> Array:
    return grad.values if isinstance(grad, SparseGrad) else grad


def _machines(optimizer: Optimizer, pairs: Sequence[tuple[Parameter, Any]]) -> dict[Place, Machine | None]:
    """Return what runs kernels on gradients, by place: on a GPU those of the GPU, unless the groups want none."""
    places = {place(_values(g)) or HOST for _, g in pairs}
    wanted = all(group.get("fused") is not False for group in optimizer.param_groups)
    return {x: machine_at(x) if wanted and x.device is not None else None for x in sorted(places, key=str)}


def _found(pairs: Sequence[tuple[Parameter, Any]], machines: Mapping[Place, Machine | None]) -> dict[Place, Any]:
    """Return for each place a float32 number there: 1 if a gradient is infinite or NaN, else 0."""
    return {
        where: _found_at(where, machine, [g for _, g in pairs if place(_values(g)) == where])
        for where, machine in machines.items()
    }


@np.errstate(all="ignore")
def _found_at(where: Place, machine: Machine | None, grads: Sequence[Any]) -> Any:
    with kernels_on(machine), at(where):
        arrays = [as_reals(plain(_summed(g))) for g in grads]
        if where == HOST:
            return np.asarray(not all(map(_is_finite, arrays)), np.float32)
        widest = max((arithmetic(x.dtype) for x in arrays), key=lambda dtype: dtype.itemsize)
        return np.logical_not(np.isfinite(norm_of_norms(arrays, math.inf, widest))).astype(np.float32)


def _summed(grad: Any) -> Array:
    """Return the values of a gradient; 16-bit values of one index are added first, since their sum may overflow."""
    sparse = isinstance(grad, SparseGrad)
    return grad.coalesce()[1] if sparse and grad.dtype.itemsize == 2 else _values(grad)


def _is_finite(x: Array) -> bool:
    return all(np.isfinite(tree.take(x, block)).all() for block in tree.blocks(x.shape))


def _together(found: Iterable[Any]) -> Any:
    """Return one number that is not 0 if one of some is not 0; on a GPU unless what the host knows is enough."""
    found = list(found)
    known, unknown = [x for x in found if not on_gpu(x)], [x for x in found if on_gpu(x)]
    if not unknown or any(known):
        return np.asarray(any(known), np.float32)
    where = place(unknown[0])
    with at(where):
        total = _placed(unknown[0], where)
        for x in unknown[1:]:
            total = total + _placed(x, where)
        return total


def _inverse(scale: Any) -> Any:
    """Return 1 / scale in float32, rounded from float64; raise ValueError if the host knows that it is infinite."""
    with at(place(scale)), np.errstate(all="ignore"):
        inverse = array_again((1.0 / scale.astype(np.float64)).astype(np.float32))
    if not on_gpu(scale) and not np.isfinite(inverse):
        raise ValueError(f"the scale has fallen to {float(scale)}, which has no inverse: gradients are never finite")
    return inverse


def _placed(x: Any, where: Place | None) -> Any:
    """Return an array at a place, itself if it lies there."""
    x = array_again(x)
    return x if place(x) == where else moved(x, where)


def _replacing(p: Parameter, grad: SparseGrad, inverse: Any) -> list[Change]:
    """Return what gives a parameter a sparse gradient that is multiplied by the inverse of the scale."""
    where = place(grad.values)
    with at(where), np.errstate(all="ignore"):
        values = from_reals(mul(as_reals(grad.values), _placed(inverse, where)), grad.dtype)
        scaled = SparseGrad(grad.indices, values, grad.shape, check_invariants=grad.check_invariants)
        return [partial(object.__setattr__, p, "grad", scaled)]


@twinned
def unscale(gradients: Sequence[Array], inverse: Any, workspace: Workspace) -> list[Change]:
    """Return what multiplies real gradients in place by a float32 number that lies where they do."""
    parts = [(tree.take(g, block), inverse) for g in gradients for block in tree.blocks(g.shape)]
    return writing(mul, parts, workspace)
