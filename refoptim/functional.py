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
    estimates: for a rule that takes them, as ``sophia`` does, one per parameter or None, of its shape and dtype. They
        belong to one step.
    rounding: how 16-bit arrays are rounded, after each word ("each") or once when stored ("store").
    settings: the optimizer's hyperparameters, under its names and with its defaults.

Returns:
    Lists of the new parameters and of the new state dicts.

Raises:
    TypeError, ValueError, RuntimeError: as the optimizer does; TypeError also where a library follows a setting that
        must have a value, and for arrays of another library than NumPy and CuPy where a rule sums over elements.

NumPy makes scalars of arrays without axes: ``np.float32(2)`` counts as such an array.

Arrays may be of any type that understands NumPy's functions and operators, and of torch, JAX, autograd and libraries
with the array API; all arrays of a call belong to one library. The elementwise rules write into none of them, so what
these libraries record passes through: derivatives by parameters, gradients, state and settings. A setting is followed
where it is a tensor of torch, or traced by JAX or autograd; the value is that of the number all the same.

Each function has two halves::

    static, varying = adam.scalars(t, lr=…)
    new_params, new_state = adam.apply(static, varying, params, grads, state)

``scalars`` computes on the host what a step needs besides arrays, and takes the settings and ``rounding``; ``static``
is hashable and the same for all steps, ``varying`` is a dict of numbers that change with the step and the learning
rate. For NAdam, ASGD and the schedule-free rules, ``scalars(t, before, lr=…)`` also takes the ``varying`` of the step
before, or the state of a parameter, which Prodigy's must be given. ``apply`` can be compiled:
``jax.jit(adam.apply, static_argnums=0)``.

``eval_params`` and ``train_params`` are the modes of the schedule-free rules: where parameters are evaluated, and where
gradients are taken.

``lbfgs`` and ``conjugate_gradient``, whose optimizers call a closure, are the pure rules of their search directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from numbers import Integral
from reprlib import repr as short
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np

from .engines import single
from .engines.single import check_fit, followed, followed_register, handed_back, home_of, library, operand
from .numerics.arith import Array, storage
from .numerics.followed import Followed
from .numerics.namespaces import Namespace
from .optimizers import adabelief as _adabelief
from .optimizers import adadelta as _adadelta
from .optimizers import adafactor as _adafactor
from .optimizers import adagrad as _adagrad
from .optimizers import adam as _adam
from .optimizers import adam8bit as _adam8bit
from .optimizers import adamax as _adamax
from .optimizers import adamw as _adamw
from .optimizers import adamw8bit as _adamw8bit
from .optimizers import adan as _adan
from .optimizers import ademamix as _ademamix
from .optimizers import adopt as _adopt
from .optimizers import asgd as _asgd
from .optimizers import ftrl as _ftrl
from .optimizers import lamb as _lamb
from .optimizers import lars as _lars
from .optimizers import lion as _lion
from .optimizers import mars as _mars
from .optimizers import muon as _muon
from .optimizers import nadam as _nadam
from .optimizers import novograd as _novograd
from .optimizers import prodigy as _prodigy
from .optimizers import radam as _radam
from .optimizers import rmsprop as _rmsprop
from .optimizers import rprop as _rprop
from .optimizers import schedule_free_adamw as _schedule_free_adamw
from .optimizers import schedule_free_radam as _schedule_free_radam
from .optimizers import schedule_free_sgd as _schedule_free_sgd
from .optimizers import sgd as _sgd
from .optimizers import soap as _soap
from .optimizers import sophia as _sophia
from .optimizers import sparse_adam as _sparse_adam
from .optimizers import stable_adamw as _stable_adamw
from .optimizers import yogi as _yogi
from .optimizers.base import Optimizer
from .optimizers.conjugate_gradient import conjugate_direction as conjugate_gradient
from .optimizers.lbfgs import lbfgs_direction as lbfgs
from .optimizers.modes import between, weight
from .step.hyper import INSIDE, Real, is_number, number
from .step.plan import first_registers
from .step.rule import Hypers, Registers, Rule, next_registers, resolve, rule_of, step_scalars

State = dict[str, Any]

REGISTERS = "registers"
"""Where ``varying`` holds the numbers that a rule keeps per parameter, after the step."""


class Step(Protocol):
    """A pure rule; ``scalars`` and ``apply`` are its two halves."""

    def __call__(
        self,
        params: Sequence[Array],
        grads: Sequence[Any],
        state: Sequence[State] | None,
        t: int,
        *,
        estimates: Sequence[Any] | None = None,
        rounding: str = "each",
        **settings: Any,
    ) -> tuple[list[Array], list[State]]:
        """Take a step."""

    def scalars(
        self, t: int, before: Mapping[str, Any] | None = None, *, rounding: str = "each", **settings: Any
    ) -> tuple[Static, dict[str, Any]]:
        """Compute the numbers of a step."""

    def apply(
        self,
        static: Static,
        varying: Mapping[str, Any],
        params: Sequence[Array],
        grads: Sequence[Any],
        state: Sequence[State] | None,
        estimates: Sequence[Any] | None = None,
    ) -> tuple[list[Array], list[State]]:
        """Take a step with them."""


@dataclass(frozen=True)
class Static:
    """What a step does not share with ``varying``: the rule, its settings and scalars, sorted by name; hashable."""

    rule: type[Optimizer]
    settings: tuple[tuple[str, Any], ...]
    scalars: tuple[tuple[str, Any], ...]
    rounding: str


def pure_step(rule: type[Optimizer]) -> Step:
    """Return the pure rule of an optimizer: of one of refoptim's it has a name here, of others this makes it."""

    def step(
        params: Sequence[Array],
        grads: Sequence[Any],
        state: Sequence[State] | None,
        t: int,
        *,
        estimates: Sequence[Any] | None = None,
        rounding: str = "each",
        **settings: Any,
    ) -> tuple[list[Array], list[State]]:
        _check_number(t, rounding)
        _check(params, grads, state, estimates)
        home = home_of(params, chain(_others(grads, state, estimates), _members(settings)))
        return _taken(_whole(rule, t, rounding, settings, home), params, grads, state, estimates)

    def scalars(
        t: int, before: Mapping[str, Any] | None = None, *, rounding: str = "each", **settings: Any
    ) -> tuple[Static, dict[str, Any]]:
        _check_number(t, rounding)
        return _split(rule, t, before, rounding, settings)

    def apply(
        static: Static,
        varying: Mapping[str, Any],
        params: Sequence[Array],
        grads: Sequence[Any],
        state: Sequence[State] | None,
        estimates: Sequence[Any] | None = None,
    ) -> tuple[list[Array], list[State]]:
        if not isinstance(static, Static) or static.rule is not rule:
            raise TypeError(f"static must be what {step.__name__}.scalars returns, got {static!r}")
        _check(params, grads, state, estimates)
        home = home_of(params, chain(_others(grads, state, estimates), varying.values()))
        return _taken(_joined(static, varying, home), params, grads, state, estimates)

    vars(step).update(scalars=scalars, apply=apply)
    return _named(cast(Step, step), rule)


def _named(step: Any, rule: type[Optimizer]) -> Step:
    """Give a pure rule a name and a docstring."""
    step.__name__ = step.__qualname__ = rule.__module__.rpartition(".")[2]
    step.__doc__ = (
        f"The pure rule of ``{rule.__name__}``; the module's text says what goes in and out.\n\n{rule.__doc__}"
    )
    return cast(Step, step)


def eval_params(params: Sequence[Array], state: Sequence[State], momentum: Any) -> list[Array]:
    """Return where parameters of a schedule-free rule are evaluated: the averages of their iterates, as new arrays.

    Args:
        params: the parameters where gradients are taken.
        state: what is kept of them; without ``z``, before the first step, a parameter is in both places.
        momentum: the setting ``momentum``, or ``betas[0]``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    return _turned(params, state, momentum, False)


def train_params(params: Sequence[Array], state: Sequence[State], momentum: Any) -> list[Array]:
    """Return where gradients are taken: what ``eval_params`` undoes, but for rounding; see there."""
    return _turned(params, state, momentum, True)


def _turned(params: Sequence[Array], state: Sequence[State], momentum: Any, training: bool) -> list[Array]:
    _check(params, params, state, None)
    home = home_of(params, chain(_others((), state, None), (momentum,)))
    b = Real("", interval=INSIDE).resolve("momentum", followed("momentum", momentum, home))
    pairs = zip(params, (kept.get("z") for kept in state), strict=True)
    return [_moved(i, *pair, weight(b, training), home) for i, pair in enumerate(pairs)]


@np.errstate(all="ignore")
def _moved(i: int, p: Any, z: Any, share: float, home: Namespace | None) -> Any:
    """Return a parameter on its way to its iterate, if there is one."""
    if z is None:
        return p
    start, end = operand(f"params[{i}]", p, home), operand(f"state[{i}]['z']", z, home)
    storage(start.dtype)
    check_fit(f"state[{i}]['z']", end, start.shape, start.dtype)
    return handed_back(between(start, end, share))


def _check_number(t: Any, rounding: str) -> None:
    if not is_number(t, Integral) or t < 1:
        hint = " (where it is traced, use scalars and apply)" if hasattr(t, "shape") else ""
        raise ValueError(f"t must be an integer in [1, inf), got {t!r}{hint}")
    if rounding not in ("each", "store"):
        raise ValueError(f"rounding must be 'each' or 'store', got {rounding!r}")


def _check(params: Any, grads: Any, state: Any, estimates: Any) -> None:
    for name, x in {"params": params, "grads": grads, "state": state, "estimates": estimates}.items():
        if name in ("state", "estimates") and x is None:
            continue
        if not isinstance(x, (list, tuple)):
            hint = ": give the arrays of a tree as a list" if isinstance(x, Mapping) else ""
            raise TypeError(f"{name} must be a list or tuple, got {type(x).__name__}{hint}")
        if len(x) != len(params):
            raise ValueError(f"{name} must have one entry per parameter: {len(params)}, got {len(x)}")
    if state is not None and not all(isinstance(x, Mapping) for x in state):
        raise TypeError(f"state must hold dicts, got {[type(x).__name__ for x in state]}")


def _others(grads: Sequence[Any], state: Sequence[State] | None, estimates: Sequence[Any] | None) -> Iterator[Any]:
    yield from grads
    yield from estimates or ()
    for kept in state or ():
        yield from kept.values()


def _members(settings: Mapping[str, Any]) -> Iterator[Any]:
    for x in settings.values():
        yield from x if isinstance(x, (tuple, list)) else (x,)


def _resolved(rule: type[Optimizer], settings: Mapping[str, Any], home: Namespace | None) -> Hypers:
    """Return the settings of a step, checked; numbers that a library follows stay what they are."""
    settings = {name: followed(name, x, home) for name, x in settings.items()}
    h = resolve(rule, rule([{"params": []}], **settings).defaults)
    if getattr(h, "fused", None):
        raise RuntimeError("fused kernels write in place, and this function makes new arrays: leave fused=None")
    return h


def _whole(
    rule: type[Optimizer], t: int, rounding: str, settings: Mapping[str, Any], home: Namespace | None
) -> single.Step:
    """Return step ``t``; where parameters have no registers, its scalars are computed once for all."""
    h = _resolved(rule, settings, home)
    counted = partial(_counted, rule, h, t, home)
    once = cache(partial(counted, {}))
    return single.Step(rule_of(rule, h), h, counted if rule.registers(h) else lambda state: once(), rounding, home)


def _counted(
    rule: type[Optimizer], h: Hypers, t: int, home: Namespace | None, state: Mapping[str, Any]
) -> tuple[dict[str, Any], Registers]:
    """Return the scalars of step ``t``, and the registers after it."""
    first = rule.registers(h)
    kept = {name: followed_register(name, state[name], home) for name in first if name in state}
    registers = first_registers(rule, first, kept)
    return step_scalars(rule, h, int(t), registers), next_registers(rule, h, int(t), registers)


def _split(
    rule: type[Optimizer], t: int, before: Mapping[str, Any] | None, rounding: str, settings: Mapping[str, Any]
) -> tuple[Static, dict[str, Any]]:
    """Compute the numbers of a step, and part what varies from what does not."""
    kept = dict((before or {}).get(REGISTERS, before or {}))
    numbers = [settings.get("lr"), *kept.values()]
    home = next((own for x in numbers if (own := library(x)) and own.follows(x)), None)
    fixed = {name: _fixed(rule, name, x) for name, x in settings.items() if name != "lr"}
    h = _resolved(rule, {**settings, **fixed}, home)
    if rule.shares_registers and REGISTERS in (before or {}):
        raise ValueError(f"step {t} of {rule.__name__} needs the state of a parameter: sums over all renew its numbers")
    if t > 1 and not {*rule.registers(h)} <= {*kept}:
        names = " and ".join(rule.registers(h))
        raise ValueError(f"step {t} of {rule.__name__} needs {names} after the step before: give its numbers or state")
    scalars, after = _counted(rule, h, t, home, kept)
    static = {name: x for name, x in scalars.items() if name not in rule.varying}
    for name, x in static.items():
        if isinstance(x, Followed):
            raise TypeError(f"{rule.__name__} does not say that {name} varies with lr, which is traced")
    settled = {name: x for name, x in vars(h).items() if name != "lr"}
    varying = {"lr": handed_back(h.lr), **{name: handed_back(scalars[name]) for name in sorted(rule.varying)}}
    if after:
        varying[REGISTERS] = {name: handed_back(x) for name, x in after.items()}
    return Static(rule, _sorted(settled), _sorted(static), rounding), varying


def _fixed(rule: type[Rule], name: str, x: Any) -> Any:
    """Return a setting that does not vary; raise TypeError if a library follows it."""
    try:
        return followed(name, x, None)
    except TypeError:
        raise TypeError(
            f"{name} must be a number: only lr varies here, and the function itself has derivatives by {name}"
        ) from None


def _sorted(entries: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(entries.items()))


def _joined(static: Static, varying: Mapping[str, Any], home: Namespace | None) -> single.Step:
    """Put the two halves of the numbers of a step together."""
    if not isinstance(varying, Mapping) or not {"lr", *static.rule.varying} <= varying.keys():
        raise TypeError(f"varying must be what scalars returns beside static, got {short(varying)}")
    given = {name: followed(name, x, home) for name, x in varying.items() if name != REGISTERS}
    numbers = {name: number(name, x) for name, x in given.items()}
    kept = {name: followed_register(name, x, home) for name, x in varying.get(REGISTERS, {}).items()}
    after = first_registers(static.rule, dict.fromkeys(kept, 0.0), kept)
    h = SimpleNamespace(**dict(static.settings), lr=numbers["lr"])
    scalars = {**dict(static.scalars), **{name: numbers[name] for name in static.rule.varying}}
    return single.Step(rule_of(static.rule, h), h, lambda state: (scalars, after), static.rounding, home)


def _taken(
    step: single.Step,
    params: Sequence[Any],
    grads: Sequence[Any],
    state: Sequence[State] | None,
    estimates: Sequence[Any] | None,
) -> tuple[list[Array], list[State]]:
    """Take a step with all parameters."""
    states = [{} for _ in params] if state is None else state
    given = [None for _ in params] if estimates is None else estimates
    shares = step.rule.shares_registers
    shared: Any = next((x for x in states if x), {}) if shares else None
    members = [i for i, grad in enumerate(grads) if grad is not None]
    operands = [(params[i], grads[i], states[i], given[i], states[i] if shared is None else shared) for i in members]
    ready = step.measured([_labelled(i, step.ready, *x) for i, x in zip(members, operands, strict=True)])
    new_p, new_state = list(params), list(states)
    for i, x in zip(members, ready, strict=True):
        new_p[i], new_state[i] = _labelled(i, step.taken, x)
    after = ready[0].after if ready and shares else {}
    return new_p, [{**x, **after} if x and after else x for x in new_state]


def _labelled(i: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function for a parameter; an error names it."""
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = next(x for x in (TypeError, ValueError, RuntimeError) if isinstance(error, x))
        raise kind(f"params[{i}]: {error}") from error


adabelief = pure_step(_adabelief.AdaBelief)
adadelta = pure_step(_adadelta.Adadelta)
adafactor = pure_step(_adafactor.Adafactor)
adagrad = pure_step(_adagrad.Adagrad)
adam = pure_step(_adam.Adam)
adam8bit = pure_step(_adam8bit.Adam8bit)
adamax = pure_step(_adamax.Adamax)
adamw = pure_step(_adamw.AdamW)
adamw8bit = pure_step(_adamw8bit.AdamW8bit)
adan = pure_step(_adan.Adan)
ademamix = pure_step(_ademamix.AdEMAMix)
adopt = pure_step(_adopt.ADOPT)
asgd = pure_step(_asgd.ASGD)
ftrl = pure_step(_ftrl.FTRL)
lamb = pure_step(_lamb.LAMB)
lars = pure_step(_lars.LARS)
lion = pure_step(_lion.Lion)
mars = pure_step(_mars.MARS)
muon = pure_step(_muon.Muon)
nadam = pure_step(_nadam.NAdam)
novograd = pure_step(_novograd.NovoGrad)
prodigy = pure_step(_prodigy.Prodigy)
radam = pure_step(_radam.RAdam)
rmsprop = pure_step(_rmsprop.RMSprop)
rprop = pure_step(_rprop.Rprop)
schedule_free_adamw = pure_step(_schedule_free_adamw.ScheduleFreeAdamW)
schedule_free_radam = pure_step(_schedule_free_radam.ScheduleFreeRAdam)
schedule_free_sgd = pure_step(_schedule_free_sgd.ScheduleFreeSGD)
sgd = pure_step(_sgd.SGD)
soap = pure_step(_soap.SOAP)
sophia = pure_step(_sophia.Sophia)
sparse_adam = pure_step(_sparse_adam.SparseAdam)
stable_adamw = pure_step(_stable_adamw.StableAdamW)
yogi = pure_step(_yogi.Yogi)

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam8bit",
    "adamax",
    "adamw",
    "adamw8bit",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "conjugate_gradient",
    "eval_params",
    "ftrl",
    "lamb",
    "lars",
    "lbfgs",
    "lion",
    "mars",
    "muon",
    "nadam",
    "novograd",
    "prodigy",
    "pure_step",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "sgd",
    "soap",
    "sophia",
    "sparse_adam",
    "stable_adamw",
    "train_params",
    "yogi",
]
