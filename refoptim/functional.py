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

Arrays may be of any type that understands NumPy's functions and operators: the elementwise rules write into none of
them, so types that record what is computed (for derivatives, say) can pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arith import Array
from .engines import pure
from .hyper import is_number
from .optimizer import Optimizer
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
from .plan import filled, first_registers, layout
from .rule import Hypers, Rule, record, resolve, step_scalars
from .sparse import SparseGrad, as_sparse

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
        states = [{} for _ in params] if state is None else state
        results = [_one(rule, h, t, *each, rounding) for each in zip(params, grads, states, strict=True)]
        return [p for p, _ in results], [s for _, s in results]

    step.__name__ = step.__qualname__ = rule.__module__.rpartition(".")[2]
    step.__doc__ = (
        f"The pure rule of ``{rule.__name__}``; the module's text says what goes in and out.\n\n{rule.__doc__}"
    )
    return step


def _check(params: Any, grads: Any, state: Any, t: Any, rounding: str) -> None:
    if not is_number(t, int) or t < 1:
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


def _one(rule: type[Rule], h: Hypers, t: int, p: Array, grad: Any, state: State, rounding: str) -> tuple[Array, State]:
    """Take one parameter a step further."""
    if grad is None:
        return p, state
    sparse = as_sparse(grad)
    g = rule.accept(h, grad if sparse is None else sparse)
    if g.shape != p.shape or g.dtype != p.dtype:
        raise ValueError(f"the gradient must have shape {p.shape} and dtype {p.dtype}, got {g.shape} and {g.dtype}")
    rule.check_parameter("a parameter", p.shape, p.dtype)
    registers = first_registers(rule.registers(h), state)
    arrays = {
        name: state[name] if name in state else fill if fill is None else filled(p, shape, fill)
        for name, (shape, fill) in layout(rule, h, p.shape).items()
    }
    scalars = step_scalars(rule, h, t, registers) | {"sparse": isinstance(g, SparseGrad)}
    run = _rows if isinstance(g, SparseGrad) else pure.run
    new_p, new_arrays = run(rule, record(scalars, p.dtype), p, g, arrays, rounding)
    return new_p, {**rule.advance(h, t, registers), **new_arrays}


def _rows(rule: type[Rule], s: Any, p: Array, g: SparseGrad, state: State, rounding: str) -> tuple[Array, State]:
    """Run the rule on the rows that a sparse gradient touches."""
    rows, values = g.coalesce()
    at = np.unravel_index(rows, g.shape[: len(g.indices)])
    new_p, new_state = pure.run(rule, s, p[at], values, {name: x[at] for name, x in state.items()}, rounding)

    def put(x: Array, part: Array) -> Array:
        x = x.copy()
        x[at] = part
        return x

    return put(p, new_p), {name: put(x, new_state[name]) for name, x in state.items()}


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
