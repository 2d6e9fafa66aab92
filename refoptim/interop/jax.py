"""The optimizers for JAX: trees of arrays in, new trees out, with the bits of the reference.

::

    from refoptim.interop import jax as optim

    opt = optim.AdamW(lr=1e-3)
    state = opt.init(params)
    params, state = opt.update(params, grads, state)

Nothing is changed in place. JAX's arrays are viewed as NumPy's, the optimizer of refoptim takes a step on copies, and
these become arrays of JAX. Inside ``jax.jit`` the step is one ``jax.pure_callback``. Arrays lie in the memory of the
computer. A step cannot be differentiated; ``refoptim.functional`` can.

Optimizers that call a closure (LBFGS, ConjugateGradient) and SparseAdam, whose gradients are sparse, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from inspect import Signature, signature
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..engines.reference import get_rounding, rounding
from ..numerics.arith import Array, DType, storage
from ..numerics.ieee import check_arithmetic
from ..optimizers import adabelief as _adabelief
from ..optimizers import adadelta as _adadelta
from ..optimizers import adafactor as _adafactor
from ..optimizers import adagrad as _adagrad
from ..optimizers import adam as _adam
from ..optimizers import adam8bit as _adam8bit
from ..optimizers import adamax as _adamax
from ..optimizers import adamw as _adamw
from ..optimizers import adamw8bit as _adamw8bit
from ..optimizers import adan as _adan
from ..optimizers import ademamix as _ademamix
from ..optimizers import adopt as _adopt
from ..optimizers import asgd as _asgd
from ..optimizers import ftrl as _ftrl
from ..optimizers import lamb as _lamb
from ..optimizers import lars as _lars
from ..optimizers import lion as _lion
from ..optimizers import mars as _mars
from ..optimizers import muon as _muon
from ..optimizers import nadam as _nadam
from ..optimizers import novograd as _novograd
from ..optimizers import prodigy as _prodigy
from ..optimizers import radam as _radam
from ..optimizers import rmsprop as _rmsprop
from ..optimizers import rprop as _rprop
from ..optimizers import schedule_free_adamw as _schedule_free_adamw
from ..optimizers import schedule_free_radam as _schedule_free_radam
from ..optimizers import schedule_free_sgd as _schedule_free_sgd
from ..optimizers import sgd as _sgd
from ..optimizers import soap as _soap
from ..optimizers import sophia as _sophia
from ..optimizers import stable_adamw as _stable_adamw
from ..optimizers import yogi as _yogi
from ..optimizers.base import Optimizer as Rule
from ..optimizers.closure import ClosureOptimizer
from ..optimizers.sparse_adam import SparseAdam as _SparseAdam
from ..step.limits import check_number
from ..step.plan import layout
from ..step.rule import Hypers, register_dtype, resolve
from ..step.state_dict import step_count

Tree = Any
"""A tree as JAX knows them: arrays in dicts, lists, tuples, and what else is registered."""

_subnormal = ThreadPoolExecutor(1, "refoptim")
"""The thread that takes steps inside ``jit``. Threads that run XLA's programs lose subnormal numbers, and those started
on them do so too: this one is started here."""

_sound = _subnormal.submit(check_arithmetic)
"""Raises RuntimeError if that thread loses them too."""


class State(NamedTuple):
    """What an optimizer keeps between two steps, a tree.

    Attributes:
        step: the number of steps taken: an int, or an array of JAX once it went through ``jit``.
        leaves: a tree like the parameters, with a dict in the place of each array: the arrays and numbers that the
            optimizer keeps for it, under their names. None stands for what is not trained.
    """

    step: Any
    leaves: Tree


class Optimizer:
    """An optimizer of refoptim for JAX; ``optimizer_class`` makes one of its rule.

    Args:
        settings: the hyperparameters, in the order and with the defaults of ``rule``; ``fused=True`` runs the compiled
            kernels.

    Raises:
        TypeError, ValueError, RuntimeError: a setting is unknown, has the wrong type, or lies outside its range.
    """

    rule: ClassVar[type[Rule]]

    def __init__(self, *args: Any, **settings: Any) -> None:
        rule: Any = self.rule
        known = _settings(rule)
        try:
            self.settings: dict[str, Any] = dict(known.bind(*args, **settings).arguments)
        except TypeError as error:
            raise TypeError(f"{error}: the settings are {', '.join(known.parameters)}; init takes params") from None
        if callable(self.settings.get("lr")):
            raise TypeError("lr must be a real number, got a function: give its values to update, as lr=")
        if self.settings.get("differentiable"):
            raise RuntimeError(self._no_derivative("differentiable=True"))
        self._hypers()

    def init(self, params: Tree) -> State:
        """Return the state before the first step.

        Args:
            params: a tree of arrays of JAX or NumPy. Floating-point and complex ones are trained. Integers, booleans,
                random keys and None are not: they stay as they are.

        Raises:
            TypeError, ValueError, RuntimeError: the optimizer cannot train one of the arrays, which the message names.
        """
        tree, h = _Params(params), self._hypers()
        return State(0, tree.joined([self._first(h, *leaf) for leaf in tree.trained], tree.nothing))

    def update(self, params: Tree, grads: Tree, state: State, lr: Any = None) -> tuple[Tree, State]:
        """Return the parameters and the state after a step.

        Args:
            params: the parameters, a tree as ``init`` takes it.
            grads: their gradients, a tree of the same structure. What stands beside a parameter that is not trained is
                not looked at.
            state: the state before the step.
            lr: the learning rate of this step, None for the one in the settings. It may be traced.

        Raises:
            TypeError, ValueError, RuntimeError: the arguments do not fit together; the message names the leaf. What
                depends on values that are traced is raised when these are known.
        """
        tree, h = _Params(params), self._hypers(None if _is_traced(lr) else lr)
        if not isinstance(state, State):
            raise TypeError(
                f"state must be the State that init or update returned, got {type(state).__name__}: "
                "the order is update(params, grads, state)"
            )
        kept = [self._kept(h, leaf, x) for leaf, x in zip(tree.trained, tree.of_state(state.leaves), strict=True)]
        operands = _Operands([x for _, x in tree.trained], tree.gradients(grads), kept, state.step, lr)
        names = [name for name, _ in tree.trained]
        if any(map(_is_traced, jax.tree.leaves(operands))):
            values, kept = self._staged(names, operands)
            step = state.step + 1
        else:
            values, kept = _handed_back(self._advance(names, get_rounding(), _viewed(operands)), operands)
            step = step_count(state.step, "state.step") + 1
        return tree.joined(values, tree.leaves), State(step, tree.joined(kept, tree.nothing))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={x!r}' for name, x in self.settings.items())})"

    def _hypers(self, lr: Any = None) -> Hypers:
        """Check the settings, and return them resolved."""
        return resolve(self.rule, self.rule([{"params": []}], **self._with(lr)).defaults)

    def _with(self, lr: Any) -> dict[str, Any]:
        """Return the settings, with another learning rate perhaps."""
        return self.settings if lr is None else {**self.settings, "lr": lr}

    def _no_derivative(self, what: str) -> str:
        function = self.rule.__module__.rpartition(".")[2]
        return (
            f"{what} is not supported: {type(self).__name__} takes its steps outside of JAX, which cannot "
            f"differentiate them. refoptim.functional.{function} computes with JAX's own operations"
        )

    def _first(self, h: Hypers, name: str, p: Array) -> dict[str, Array]:
        """Return what is kept for a parameter before the first step."""
        with _naming(name):
            self.rule.check_parameter("the parameter", p.shape, p.dtype)
            kept = {}
            for key, like in layout(self.rule, h, p.shape).items():
                first = 0.0 if like.first is None else like.first
                if like.dtype is None:
                    check_number(f"the first {key}", first, storage(p.dtype))
                kept[key] = _full(like.shape, first, like.dtype or p.dtype, p)
            for key, x in self.rule.registers(h).items():
                check_number(f"the first {key}", x, register_dtype(self.rule))
                kept[key] = _full((), x, _allowed(register_dtype(self.rule), f", as {key} is,"), p)
        return kept

    def _kept(self, h: Hypers, leaf: tuple[str, Array], given: Any) -> dict[str, Array]:
        """Return what is kept for a parameter, or raise if that is not what the optimizer keeps for it."""
        name, p = leaf
        where = name.replace("params", "state.leaves", 1)
        fitting = {key: (x.shape, x.dtype or p.dtype) for key, x in layout(self.rule, h, p.shape).items()}
        fitting |= {key: ((), register_dtype(self.rule)) for key in self.rule.registers(h)}
        if not isinstance(given, Mapping) or set(given) != set(fitting):
            held = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise ValueError(f"{where} must hold {sorted(fitting)} for {type(self).__name__}, got {held}")
        for key, (shape, dtype) in fitting.items():
            _check_fit(f"{where}[{key!r}]", given[key], shape, dtype)
        return dict(given)

    def _advance(self, names: Sequence[str], mode: str, x: _Operands) -> tuple[list[Array], list[dict[str, Array]]]:
        """Take a step on copies of NumPy's arrays; return new parameters and what is kept for them."""
        named = [(name, np.array(p)) for name, p in zip(names, x.params, strict=True)]
        optimizer = self.rule([{"params": named}], **self._with(x.lr))
        members = optimizer.param_groups[0]["params"]
        h, step = resolve(self.rule, optimizer.defaults), step_count(x.step, "state.step")
        for p, kept in zip(members, x.kept, strict=True):
            optimizer.state[p] = self._state(h, p.shape, kept, step)
        with rounding(mode):
            optimizer.step(grads=x.grads)
        states = [optimizer.state.get(p, {}) for p in members]
        after = [{key: np.asarray(state[key]) for key in old} for old, state in zip(x.kept, states, strict=True)]
        return [p.data for p in members], after

    def _state(self, h: Hypers, shape: tuple[int, ...], kept: Mapping[str, Array], step: int) -> dict[str, Any]:
        """Return copies of what is kept for a parameter; what its first update makes is left out before that.

        That is everything where the first learning rate is not the one that ``init`` began with.
        """
        if step == 0 and self._beginning(h, shape) != self._beginning(self._hypers(), shape):
            return {}
        unmade = {key for key, fill in self.rule.arrays(h, shape).items() if fill is None and step == 0}
        count = {"step": step} if self.rule.counts_steps else {}
        return count | {key: np.array(x) for key, x in kept.items() if key not in unmade}

    def _beginning(self, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        """Return what the arrays and numbers kept for a parameter are filled with before the first step."""
        return {**self.rule.arrays(h, shape), **self.rule.registers(h)}

    def _staged(self, names: Sequence[str], operands: _Operands) -> tuple[list[Array], list[dict[str, Array]]]:
        """Let XLA take the step when it runs what is being traced."""
        mode, lr = get_rounding(), operands.lr
        static = not _is_traced(lr)

        def step(*given: Any) -> Any:
            _sound.result()
            x = _viewed(_Operands(*given))
            return _subnormal.submit(self._advance, names, mode, x._replace(lr=lr) if static else x).result()

        def call(*given: Any) -> Any:
            return jax.pure_callback(step, results, *given, vmap_method="sequential")

        def refuse(primals: Any, tangents: Any) -> Any:
            raise TypeError(self._no_derivative("a derivative of update"))

        results = jax.tree.map(_shape, (operands.params, operands.kept))
        staged: Any = jax.custom_jvp(call)
        staged.defjvp(refuse)
        after: tuple[list[Array], list[dict[str, Array]]] = staged(*operands._replace(lr=None if static else lr))
        return after


class _Operands(NamedTuple):
    """What a step is taken with: lists of what is trained, and numbers."""

    params: list[Array]
    grads: list[Array]
    kept: list[dict[str, Array]]
    step: Any
    lr: Any


class _Params:
    """A tree of parameters.

    Attributes:
        leaves: all its leaves.
        trained: the names and arrays of those that are trained.
        nothing: None for each leaf.
    """

    def __init__(self, params: Tree) -> None:
        self.paths, self.leaves, self.structure = _flat(params)
        self.numbers = [i for i, x in enumerate(self.leaves) if _is_trained(self._name(i), x)]
        self.trained = [(self._name(i), self.leaves[i]) for i in self.numbers]
        self.nothing = [None] * len(self.leaves)

    def _name(self, i: int, tree: str = "params") -> str:
        return tree + self.paths[i]

    def joined(self, trained: Sequence[Any], leaves: Sequence[Any]) -> Tree:
        """Return a tree of the same structure, with some things in the places of the trained ones among ``leaves``."""
        put = dict(zip(self.numbers, trained, strict=True))
        return jax.tree.unflatten(self.structure, [put.get(i, x) for i, x in enumerate(leaves)])

    def gradients(self, grads: Tree) -> list[Array]:
        """Return the gradients of what is trained; raise if they do not fit."""
        paths, leaves, structure = _flat(grads)
        for mine, theirs, what in ((self.paths, paths, "lack"), (paths, self.paths, "must not have")):
            missing = [path for path in mine if path not in theirs]
            if missing:
                raise ValueError(f"grads must have the structure of params: they {what} {missing[0] or 'a leaf'}")
        if structure != self.structure:
            raise ValueError(f"grads must have the structure of params, {self.structure}, got {structure}")
        for i in self.numbers:
            if leaves[i] is None:
                raise ValueError(
                    f"{self._name(i, 'grads')} is None, and {self._name(i)} is trained: give zeros, or None for both"
                )
            _check_fit(self._name(i, "grads"), leaves[i], self.leaves[i].shape, self.leaves[i].dtype)
        return [leaves[i] for i in self.numbers]

    def of_state(self, leaves: Tree) -> list[Any]:
        """Return what a tree of the same structure has in the places of the trained ones."""
        try:
            found = self.structure.flatten_up_to(leaves)
        except (TypeError, ValueError) as error:
            raise ValueError(f"state.leaves must have the structure of params: {error}") from None
        return [found[i] for i in self.numbers]


def _flat(tree: Tree) -> tuple[list[str], list[Any], Any]:
    """Return the paths, the leaves and the structure of a tree in which None is a leaf."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return [jax.tree_util.keystr(path) for path, _ in pairs], [x for _, x in pairs], structure


def _is_trained(name: str, x: Any) -> bool:
    """Tell whether a leaf is trained; raise TypeError if it should be and cannot."""
    if x is None:
        return False
    _check_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return False
    with _naming(name):
        storage(x.dtype)
        _allowed(x.dtype)
    return True


def _check_array(name: str, x: Any) -> None:
    """Raise TypeError for what is no array in the memory of the computer."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)) or isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array of JAX or NumPy, got {type(x).__name__}")
    devices = set() if _is_traced(x) or not isinstance(x, jax.Array) else x.devices()
    if len(devices) > 1 or any(device.platform != "cpu" for device in devices):
        raise TypeError(
            f"{name} must lie on one device, in the memory of the computer, got {sorted(map(str, devices))}"
        )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name a leaf in the message of what is raised."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{name}: {error}") from None


def _check_fit(name: str, x: Any, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise TypeError or ValueError unless ``x`` is an array of this shape and dtype."""
    _check_array(name, x)
    if x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {x.shape}")
    if x.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {x.dtype}")


def _allowed(dtype: DType, whose: str = "") -> DType:
    """Return a dtype that JAX keeps; raise TypeError for one that it would silently make smaller."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        hint = "" if whose else ": else use single precision"
        raise TypeError(f"JAX keeps {dtype}{whose} only with jax.config.update('jax_enable_x64', True){hint}")
    return dtype


def _full(shape: tuple[int, ...], fill: Any, dtype: DType, beside: Any) -> Array:
    """Make an array, every real of it ``fill``, rounded as NumPy rounds it, where another lies."""
    value = complex(fill, fill) if np.dtype(dtype).kind == "c" else fill
    return _as_jax(jnp.full(shape, np.asarray(value).astype(dtype), dtype), beside)


def _shape(x: Any) -> Any:
    kind: Any = jax.ShapeDtypeStruct
    return kind(x.shape, x.dtype)


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _viewed(operands: _Operands) -> _Operands:
    """Return operands with NumPy's read-only views of JAX's arrays."""
    return _Operands(*(jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, operands)))


def _handed_back(after: tuple[list[Array], list[dict[str, Array]]], before: _Operands) -> Any:
    """Give JAX arrays that nobody else holds: it shares their memory. They go to the devices of those before them."""
    return jax.tree.map(_as_jax, after, (before.params, before.kept))


def _as_jax(x: Array, beside: Any) -> Array:
    """Return an array as one of JAX, on the device to which another is bound, if it is."""
    bound = isinstance(beside, jax.Array) and not _is_traced(beside) and beside.committed
    return jax.device_put(x, beside.sharding) if bound else jnp.asarray(x)


@cache
def _settings(rule: Any) -> Signature:
    """Return the signature of a rule's constructor without the parameters that it optimizes."""
    whole = signature(rule)
    return whole.replace(parameters=[x for x in whole.parameters.values() if x.name != "params"])


def optimizer_class(rule: type[Rule]) -> type[Optimizer]:
    """Return the class of an optimizer of refoptim, or of one written like those, for JAX.

    Raises:
        TypeError: ``rule`` is no optimizer, calls a closure, or takes sparse gradients only.
    """
    if not (isinstance(rule, type) and issubclass(rule, Rule)) or rule is Rule:
        raise TypeError(f"rule must be a class of optimizers such as refoptim.Adam, got {rule!r}")
    if issubclass(rule, ClosureOptimizer):
        raise TypeError(f"{rule.__name__} calls a closure several times in a step: use refoptim.interop.scipy.method")
    if issubclass(rule, _SparseAdam):
        raise TypeError(f"{rule.__name__} takes sparse gradients, and those of JAX are dense")
    known: Any = rule
    return _class(known)


@cache
def _class(rule: Any) -> type[Optimizer]:
    members = {
        "rule": rule,
        "__doc__": f"``refoptim.{rule.__name__}`` for JAX; ``Optimizer`` says how to use it.\n\n{rule.__doc__}",
        "__signature__": _settings(rule),
        "__module__": __name__,
    }
    return type(rule.__name__, (Optimizer,), members)


def as_optax(rule: type[Rule], **settings: Any) -> Any:
    """Return an optimizer of refoptim as an ``optax.GradientTransformation``.

    Its updates are the new parameters minus the old ones, so ``optax.apply_updates`` rounds twice: p + (q - p) is close
    to q, and not always q. ``update`` of the optimizer itself is exact. The transformation should be the last of a
    chain, and be given ``params``.

    Args:
        rule: the class, such as ``refoptim.AdamW``.
        settings: its hyperparameters; ``lr`` may be a schedule of optax, a function of the number of steps taken, or
            be traced, as ``optax.inject_hyperparams`` gives it.

    Raises:
        TypeError, ValueError, RuntimeError: the rule or a setting is wrong; ``update`` raises ValueError without
            ``params``.
    """
    import optax

    lr = settings.get("lr")
    lr = settings.pop("lr") if callable(lr) or _is_traced(lr) else None
    optimizer = optimizer_class(rule)(**settings)

    def update(updates: Tree, state: State, params: Tree | None = None) -> tuple[Tree, State]:
        if params is None:
            raise ValueError(f"{rule.__name__} changes the parameters themselves: call update(grads, state, params)")
        rate = lr(state.step) if callable(lr) else lr
        new, after = optimizer.update(params, updates, state, lr=rate)
        return jax.tree.map(_difference, new, params), after

    return optax.GradientTransformation(optimizer.init, update)


def _difference(new: Array, old: Array) -> Array:
    return new - old if jnp.issubdtype(old.dtype, jnp.inexact) else jnp.zeros_like(old)


AdaBelief = optimizer_class(_adabelief.AdaBelief)
Adadelta = optimizer_class(_adadelta.Adadelta)
Adafactor = optimizer_class(_adafactor.Adafactor)
Adagrad = optimizer_class(_adagrad.Adagrad)
Adam = optimizer_class(_adam.Adam)
Adam8bit = optimizer_class(_adam8bit.Adam8bit)
Adamax = optimizer_class(_adamax.Adamax)
AdamW = optimizer_class(_adamw.AdamW)
AdamW8bit = optimizer_class(_adamw8bit.AdamW8bit)
Adan = optimizer_class(_adan.Adan)
AdEMAMix = optimizer_class(_ademamix.AdEMAMix)
ADOPT = optimizer_class(_adopt.ADOPT)
ASGD = optimizer_class(_asgd.ASGD)
FTRL = optimizer_class(_ftrl.FTRL)
LAMB = optimizer_class(_lamb.LAMB)
LARS = optimizer_class(_lars.LARS)
Lion = optimizer_class(_lion.Lion)
MARS = optimizer_class(_mars.MARS)
Muon = optimizer_class(_muon.Muon)
NAdam = optimizer_class(_nadam.NAdam)
NovoGrad = optimizer_class(_novograd.NovoGrad)
Prodigy = optimizer_class(_prodigy.Prodigy)
RAdam = optimizer_class(_radam.RAdam)
RMSprop = optimizer_class(_rmsprop.RMSprop)
Rprop = optimizer_class(_rprop.Rprop)
ScheduleFreeAdamW = optimizer_class(_schedule_free_adamw.ScheduleFreeAdamW)
ScheduleFreeRAdam = optimizer_class(_schedule_free_radam.ScheduleFreeRAdam)
ScheduleFreeSGD = optimizer_class(_schedule_free_sgd.ScheduleFreeSGD)
SGD = optimizer_class(_sgd.SGD)
SOAP = optimizer_class(_soap.SOAP)
Sophia = optimizer_class(_sophia.Sophia)
StableAdamW = optimizer_class(_stable_adamw.StableAdamW)
Yogi = optimizer_class(_yogi.Yogi)
