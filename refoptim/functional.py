"""The pure rule of each optimizer: arrays in, new arrays out, nothing changed in place.

Every function here has the form ::

    new_params, new_state = adam(params, grads, state, t, lr=1e-3, betas=(0.9, 0.999), …)

Args:
    params: the parameters, a sequence of arrays.
    grads: their gradients, of the same shapes and dtypes; None leaves a parameter and its state as they are. Where the
        optimizer takes sparse gradients, so does the function.
    state: per parameter a dict of state arrays and numbers under the names of the optimizer's state, or None for all at
        the first step.
    t: the number of this step, 1 at the first.
    rounding: how 16-bit arrays are rounded, after each word ("each") or once when stored ("store").
    settings: the optimizer's hyperparameters, under its names and with its defaults.

Returns:
    Lists of the new parameters and of the new state dicts.

Raises:
    TypeError, ValueError, RuntimeError: as the optimizer does.

NumPy makes scalars of arrays without axes: ``np.float32(2)`` counts as such an array.

Arrays may be of any type that understands NumPy's functions and operators: the elementwise rules write into none of
them, so types that record what is computed (for derivatives, say) can pass through.

``lbfgs`` and ``conjugate_gradient``, whose optimizers call a closure, are the pure rules of their search directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from .engines import pure
from .numerics.arith import Array, DType, storage
from .optimizers import adadelta as _adadelta
from .optimizers import adafactor as _adafactor
from .optimizers import adagrad as _adagrad
from .optimizers import adam as _adam
from .optimizers import adamax as _adamax
from .optimizers import adamw as _adamw
from .optimizers import asgd as _asgd
from .optimizers import muon as _muon
from .optimizers import nadam as _nadam
from .optimizers import radam as _radam
from .optimizers import rmsprop as _rmsprop
from .optimizers import rprop as _rprop
from .optimizers import sgd as _sgd
from .optimizers import sparse_adam as _sparse_adam
from .optimizers.base import Optimizer
from .optimizers.conjugate_gradient import conjugate_direction as conjugate_gradient
from .optimizers.lbfgs import lbfgs_direction as lbfgs
from .step.hyper import is_number
from .step.limits import check_constants, check_number, fitting
from .step.parameter import array_again
from .step.plan import Layout, filled, first_registers, layout
from .step.rule import Hypers, Rule, next_registers, resolve, step_scalars
from .step.sparse import SparseGrad, as_sparse

State = dict[str, Any]
Step = Callable[..., tuple[list[Array], list[State]]]


def _pure_step(rule: type[Optimizer]) -> Step:
    """Make the pure step of an optimizer's rule."""

    def step(
        params: Sequence[Array],
        grads: Sequence[Any],
        state: Sequence[State] | None,
        t: int,
        *,
        rounding: str = "each",
        **settings: Any,
    ) -> tuple[list[Array], list[State]]:
        _check(params, grads, state, t, rounding)
        h = resolve(rule, rule([{"params": []}], **settings).defaults)
        if getattr(h, "fused", None):
            raise RuntimeError("fused kernels write in place, and this function makes new arrays: leave fused=None")
        states = [{} for _ in params] if state is None else state
        results = [
            _labelled(i, rule, h, t, *x, rounding) for i, x in enumerate(zip(params, grads, states, strict=True))
        ]
        return [p for p, _ in results], [s for _, s in results]

    step.__name__ = step.__qualname__ = rule.__module__.rpartition(".")[2]
    step.__doc__ = (
        f"The pure rule of ``{rule.__name__}``; the module's text says what goes in and out.\n\n{rule.__doc__}"
    )
    return step


def _check(params: Any, grads: Any, state: Any, t: Any, rounding: str) -> None:
    if not is_number(t, Integral) or t < 1:
        raise ValueError(f"t must be an integer in [1, inf), got {t!r}")
    if rounding not in ("each", "store"):
        raise ValueError(f"rounding must be 'each' or 'store', got {rounding!r}")
    for name, x in {"params": params, "grads": grads, "state": state}.items():
        if name == "state" and x is None:
            continue
        if not isinstance(x, (list, tuple)):
            raise TypeError(f"{name} must be a list or tuple, got {type(x).__name__}")
        if len(x) != len(params):
            raise ValueError(f"{name} must have one entry per parameter: {len(params)}, got {len(x)}")
    if state is not None and not all(isinstance(x, Mapping) for x in state):
        raise TypeError(f"state must hold dicts, got {[type(x).__name__ for x in state]}")


def _labelled(i: int, *arguments: Any) -> tuple[Array, State]:
    """Take a parameter a step further; an error names it."""
    try:
        with np.errstate(all="ignore"):
            return _one(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"params[{i}]: {error}") from error


def _one(rule: type[Rule], h: Hypers, t: int, p: Array, grad: Any, state: State, rounding: str) -> tuple[Array, State]:
    """Take one parameter a step further."""
    if grad is None:
        return p, state
    p = _array("a parameter", p)
    sparse = as_sparse(grad)
    g = rule.accept(h, _array("the gradient", grad) if sparse is None else sparse)
    _check_fit("the gradient", g, p.shape, p.dtype)
    storage(p.dtype)
    rule.check_parameter("the parameter", p.shape, p.dtype)
    registers = first_registers(rule.registers(h), state)
    arrays = _arrays(layout(rule, h, p.shape), p, state, {"step", *registers})
    scalars = step_scalars(rule, h, int(t), registers) | {"sparse": isinstance(g, SparseGrad)}
    after = next_registers(rule, h, int(t), registers)
    s = fitting(rule, h, scalars, p.dtype)
    check_constants(rule, h, s, p.shape, p.dtype)
    new_p, new_arrays = pure.run(rule, s, p, g, arrays, rounding)
    return new_p, {**after, **new_arrays}


def _array(name: str, x: Any) -> Array:
    """Return an array that rules can take; raise TypeError otherwise."""
    x = array_again(x)
    if isinstance(x, np.ma.MaskedArray) or not hasattr(x, "__array_ufunc__"):
        raise TypeError(f"{name} must be an array that understands NumPy's functions, got {type(x).__name__}")
    return np.asarray(x) if isinstance(x, np.ndarray) else x


def _check_fit(name: str, x: Array, shape: tuple[int, ...], dtype: DType) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
    if x.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {x.dtype}")


def _arrays(arrays: Layout, p: Array, state: State, others: set[str]) -> State:
    """Return the state arrays, those that do not exist yet at their first values, or None if the rule makes them."""
    for name in state:
        if name not in others.union(arrays):
            raise ValueError(f"the state has {name!r}, it must be one of {sorted(others.union(arrays))}")
    kept = {}
    for name, (shape, fill) in arrays.items():
        if state.get(name) is None:
            check_number(f"the first {name}", fill or 0.0, storage(p.dtype))
            kept[name] = fill if fill is None else filled(p, shape, fill)
        else:
            kept[name] = _array(f"the state {name}", state[name])
            _check_fit(f"the state {name}", kept[name], shape, p.dtype)
    return kept


adadelta = _pure_step(_adadelta.Adadelta)
adafactor = _pure_step(_adafactor.Adafactor)
adagrad = _pure_step(_adagrad.Adagrad)
adam = _pure_step(_adam.Adam)
adamax = _pure_step(_adamax.Adamax)
adamw = _pure_step(_adamw.AdamW)
asgd = _pure_step(_asgd.ASGD)
muon = _pure_step(_muon.Muon)
nadam = _pure_step(_nadam.NAdam)
radam = _pure_step(_radam.RAdam)
rmsprop = _pure_step(_rmsprop.RMSprop)
rprop = _pure_step(_rprop.Rprop)
sgd = _pure_step(_sgd.SGD)
sparse_adam = _pure_step(_sparse_adam.SparseAdam)

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "conjugate_gradient",
    "lbfgs",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sparse_adam",
]
