"""What an update rule is.

A rule is a class of a few pure functions; an engine runs it and a ``functional`` name calls it, neither knowing which
rule it is. Array names, hyperparameters and formulas stand in the rule's own file under ``optimizers/``.

``arrays(h, shape)``
    the state arrays of a parameter of that shape: name and initial value. None means that the first update makes it.
``scalars(h, k, registers)``
    everything step ``k`` = 1, 2 … needs besides arrays, computed once in double precision: every power, root and
    quotient of hyperparameters. It becomes the record ``s``, each number rounded once to the arithmetic type.
``update(s, p, g, *state)``
    the array half, in the words of ``arith``: the new parameter and the new state arrays, in the order of ``arrays``.
``sums(s, p, g, *state)``
    only where the update needs sums over elements: the arrays, in the words too, that are summed over a parameter.
``measured(s, shape, *totals)``
    what those sums say of the step, in double precision: numbers that are added to the record before ``update``.
``sums_over_all(s, p, g, *state)``, ``measured_over_all(h, registers, *totals)``
    likewise for sums over the elements of all parameters that have a gradient and stand in a group that ``takes_part``.
    Those of each are taken in the order of ``tree``; then they are added in double, in the order of the groups, from
    +0. What they say comes before all else, in the place of scalars and of registers of the same names.
``measure(s, p, g, *state)``
    the two of them, in the order of ``tree``. A rule may have its own, that adds arrays to the record as well.
    ``s.exact`` holds the unrounded scalars for that. What it returns under the name of a state array is that array's
    new value, and ``update`` does not see that array.

A group may ask a rule that has ``cautious`` to be so. ``rule_of`` gives it a variant that measures, whatever else it
does, the share of elements whose direction agrees with the gradient: the ``caution`` of the record.
A rule that ``takes_estimates`` is given one more array by a step that has an estimate for the parameter: ``update``
gets it after the state, None where ``s.estimated`` is False. Such a rule measures nothing, and its state has first
values.
A rule ``in_single`` computes in float32 whatever the storage, and rounds once, when it stores. Of its state arrays
those that ``coded`` names are kept in 8 bits; ``update`` sees the numbers that they stand for.

``h`` holds the resolved hyperparameters of a group. ``registers`` are numbers kept per parameter beside the step count,
in the default dtype (float32 unless ``set_default_dtype`` changes it), or in double where the rule says so; ``advance``
gives their values after a step. Those that all parameters share (``shares_registers``) are the same in the state of
each, and a step that gives a gradient to some of them renews them for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, reduce
from numbers import Real
from operator import add
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ..numerics import tree
from ..numerics.arith import Array, DType, Undecided, arithmetic, div, neg
from ..numerics.array_types import on_gpu
from ..numerics.codes import SINGLE, Code, decoded, encoded
from .cautious import agreement
from .hyper import declared
from .sparse import SparseGrad

Hypers = Any
"""Resolved hyperparameters by attribute."""

Record = Any
"""The scalars of a step by attribute."""

Registers = dict[str, Any]

_default_dtype: list[DType] = [np.dtype("float32")]


def get_default_dtype() -> DType:
    """Return the dtype of the registers that rules keep per parameter (NAdam's mu_product, ASGD's eta and mu).

    Rules that keep doubles, as ScheduleFreeSGD, do not ask for it.
    """
    return _default_dtype[0]


def set_default_dtype(dtype: Any) -> None:
    """Keep the registers of new state in ``dtype``, float32 (as torch does by default) or float64."""
    for choice in (np.dtype("float32"), np.dtype("float64")):
        if dtype is not None and choice == dtype:
            _default_dtype[0] = choice
            return
    raise TypeError(f"the default dtype must be float32 or float64, got {dtype!r}")


class Rule:
    """An update rule; the module's text says what its functions mean."""

    of_torch: ClassVar[bool] = True
    """Whether torch.optim has the rule, so that names, defaults and bits are torch's."""

    has_kernels: ClassVar[bool] = True
    """Whether the room has a twin in ``kernels``; without one the functions of NumPy and CuPy run the rule."""

    varying: ClassVar[frozenset[str]] = frozenset()
    """The scalars, flags left out, that change from step to step or with the learning rate."""

    counts_steps: ClassVar[bool] = True
    """Whether the state of a parameter holds its step count."""

    double_registers: ClassVar[bool] = False
    """Whether the numbers kept per parameter are doubles, whatever the default dtype."""

    shares_registers: ClassVar[bool] = False
    """Whether they are the same for all parameters of an optimizer."""

    eager: ClassVar[bool] = False
    """Whether state is made with the optimizer, not in the first step."""

    numbers: ClassVar[tuple[str, ...]] = ()
    """State arrays that are one number each, the last of ``arrays``: ``measured`` is given them, and renews them."""

    takes_estimates: ClassVar[bool] = False
    """Whether a step may give an array per parameter beside the gradients."""

    is_cautious: ClassVar[bool] = False
    """Whether directions are masked; see ``rule_of``."""

    masks_sums: ClassVar[bool] = False
    """Whether ``sums`` are of masked directions, if any are: elements are counted before that, else after it."""

    in_single: ClassVar[bool] = False
    """Whether the rule computes in float32 whatever the storage, and may keep state in 8 bits."""

    @classmethod
    def check(cls, h: Hypers) -> None:
        """Raise ValueError if hyperparameters do not fit together."""

    @classmethod
    def check_step(cls, h: Hypers) -> None:
        """Raise RuntimeError if no step can be taken with hyperparameters that a group may have."""

    @classmethod
    def check_groups(cls, groups: Sequence[Hypers]) -> None:
        """Raise RuntimeError if no step can be taken with groups of such hyperparameters together."""

    @classmethod
    def variant(cls, h: Hypers) -> type[Rule]:
        """Return the rule that updates by some settings, where it is another than that of all others."""
        return cls

    @classmethod
    def without_kernels(cls, settings: Mapping[str, Any]) -> str:
        """Say which setting the kernels of the rule do not know, and which they do; nothing if they know all."""
        return ""

    @classmethod
    def check_parameter(cls, where: str, shape: tuple[int, ...], dtype: DType) -> None:
        """Raise if the rule cannot update a parameter of ``shape`` and ``dtype``, named by ``where`` in the message."""
        if dtype.kind == "c" and (has_sums(cls) or has_sums_over_all(cls) or cls.is_cautious):
            raise RuntimeError(f"{cls.__name__} does not support complex parameters: {where} has dtype {dtype}")

    @classmethod
    def accept(cls, h: Hypers, grad: Any) -> Any:
        """Return a gradient, perhaps sparse, in the form in which the rule takes it, or raise RuntimeError."""
        if isinstance(grad, SparseGrad):
            raise RuntimeError(f"{cls.__name__} does not support sparse gradients")
        return grad

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        """Name the state arrays and their initial values."""
        return {}

    @classmethod
    def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of those state arrays that are not shaped like the parameter."""
        return dict.fromkeys(cls.numbers, ())

    @classmethod
    def coded(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, Code]:
        """Name the state arrays that are kept in 8 bits."""
        return {}

    @classmethod
    def decode(cls, codes: Array, scale: Array, table: Array) -> Array:
        """Return the numbers of codes of shape (blocks, elements)."""
        return decoded(codes, scale, table)

    @classmethod
    def encode(cls, x: Array, table: Array) -> tuple[Array, Array]:
        """Return the codes and the scales of float32 numbers of shape (blocks, elements)."""
        return encoded(x, table)

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        """Name the numbers kept per parameter and their initial values."""
        return {}

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        """Return the registers after step ``k``."""
        return registers

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        """Compute the scalars of step ``k``, in double precision."""
        raise NotImplementedError

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        """Return the arrays, shaped like the parameter, whose sums over all elements the step needs."""
        return ()

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        """Compute what is added to the record of a parameter.

        Args:
            s: the scalars of the step, unrounded.
            shape: that of the parameter, (1,) where it is a number.
            totals: the sums, in the order of ``sums``; then the state arrays that are ``numbers``, whose new values are
                among what is returned.
        """
        return {}

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        """Compute what needs whole parameters; ``p`` has an axis, so that no state but ``numbers`` has none."""
        stages = [*([cls._summed] if has_sums(cls) else []), *([cls.counted] if cls.is_cautious else [])]
        found: dict[str, Any] = {}
        for stage in reversed(stages) if cls.masks_sums else stages:
            found |= stage(extended(s, found, p.dtype), p, g, *state)
        return found

    @classmethod
    def counted(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        """Count the elements whose direction agrees with the gradient."""
        half = cls.sums if cls.masks_sums else cls.update

        def run(s: Record, p: Array, g: Array, *state: Array) -> None:
            half(s, p, ascent(s, g), *state)

        return {"caution": agreement(run, s, p, g, *(x for x in state if x is None or x.ndim))}

    @classmethod
    def _summed(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        """Sum over elements, and measure by the sums."""
        walked = [x for x in state if x is None or x.ndim]
        numbers = dict(zip(cls.numbers, state[len(walked) :], strict=False))
        made = [x for x in walked if x is not None]

        def values(p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
            return cls.sums(s, p, ascent(s, g), *(state if len(made) == len(walked) else walked))

        totals = (*tree.totals(values, p, g, *made), *(x[()] for x in numbers.values()))
        found = cls.measured(s.exact, p.shape, *map(float, totals))
        renewed = {name: np.full_like(x, found[name], dtype=arithmetic(x.dtype)) for name, x in numbers.items()}
        return {**found, **renewed}

    @classmethod
    def takes_part(cls, h: Hypers) -> bool:
        """Tell whether the parameters of a group are among those that are summed over, and need what that says."""
        return has_sums_over_all(cls)

    @classmethod
    def sums_over_all(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        """Return the arrays, shaped like the parameter, whose sums over all parameters the step needs."""
        return ()

    @classmethod
    def totals_over_all(cls, s: Record, p: Array, g: Array, *state: Array | None) -> tuple[float, ...]:
        """Return what one parameter adds to the sums over all; arrays have an axis, or are None and yet to be made."""
        made = [x for x in state if x is not None]

        def values(p: Array, g: Array, *made: Array) -> tuple[Array, ...]:
            rest = iter(made)
            return cls.sums_over_all(s, p, ascent(s, unscaled(s, g)), *(x if x is None else next(rest) for x in state))

        return tuple(map(float, tree.totals(values, p, g, *made)))

    @classmethod
    def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
        """Compute scalars that take the place of those of ``scalars``, and registers after the step.

        Args:
            h: the hyperparameters of a group.
            registers: what ``advance`` returned.
            totals: the sums over all parameters, in the order of ``sums_over_all``.
        """
        return {}

    @classmethod
    def constants(cls, s: Record, shape: tuple[int, ...], dtype: DType) -> dict[str, Any]:
        """Name the numbers that a rule which measures uses and that scalars alone decide, rounded as it does."""
        return {}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        """Return the new parameter and the new state arrays."""
        raise NotImplementedError


def function_of(method: Any) -> Any:
    """Return the function of a method of a class, which need not be given the class."""
    return getattr(method, "__func__", method)


def has_own(rule: type[Rule], name: str) -> bool:
    """Tell whether a rule has a method of its own in place of that of all rules."""
    return function_of(getattr(rule, name)) is not function_of(getattr(Rule, name))


def module_of(method: Any) -> str:
    """Return the name of the module that defines a method: what wraps another may bear the name of that one's."""
    module: str = getattr(function_of(method), "__globals__", {}).get("__name__", "")
    return module


def register_dtype(rule: type[Rule]) -> DType:
    """Return the dtype of the numbers that a rule keeps per parameter."""
    return np.dtype(np.float64) if rule.double_registers else get_default_dtype()


def is_measured(rule: type[Rule]) -> bool:
    """Tell whether a rule needs sums over elements, or counts some, so that its arrays keep their shapes."""
    return has_sums(rule) or rule.is_cautious or has_own_measure(rule)


def has_own_measure(rule: type[Rule]) -> bool:
    """Tell whether a rule measures in a way of its own."""
    return has_own(rule, "measure")


def has_sums(rule: type[Rule]) -> bool:
    """Tell whether a rule says by ``sums`` what it sums up."""
    return has_own(rule, "sums")


def has_sums_over_all(rule: type[Rule]) -> bool:
    """Tell whether a rule says by ``sums_over_all`` what it sums up over all parameters."""
    return has_own(rule, "sums_over_all")


def told(
    rule: type[Rule], h: Hypers, registers: Registers, totals: Sequence[float]
) -> tuple[dict[str, Any], Registers]:
    """Return the scalars that sums over all parameters make new, and the registers after the step."""
    found = rule.measured_over_all(h, registers, *totals)
    number = register_dtype(rule).type
    after = {name: number(found[name]) if name in found else x for name, x in registers.items()}
    return {name: x for name, x in found.items() if name not in registers}, after


def added(totals: Iterable[Sequence[float]]) -> list[float]:
    """Add what parameters add to the sums over all, in their order, from +0; nothing comes of none."""
    return [reduce(add, column, 0.0) for column in zip(*totals, strict=True)]


def keeps_shapes(rule: type[Rule]) -> bool:
    """Tell whether a rule needs its arrays whole, in their shapes: not any of their elements alone."""
    return rule.in_single or is_measured(rule)


def needs_whole(rule: type[Rule]) -> bool:
    """Tell whether a rule needs to see the parameters whole: a part of one could not be updated by itself."""
    return keeps_shapes(rule) or has_sums_over_all(rule)


def rule_of(rule: type[Rule], h: Hypers) -> type[Rule]:
    """Return the rule that updates by some settings: the cautious variant of a rule, or the rule itself."""
    key: Any = rule.variant(h)
    return _cautious(key) if getattr(h, "cautious", False) else key


@cache
def _cautious(rule: type[Rule]) -> type[Rule]:
    """Return the variant of a rule that masks directions; of a few rows alone nothing can be counted."""
    members = {"is_cautious": True, "accept": vars(Rule)["accept"], "__module__": __name__, "__doc__": rule.__doc__}
    return type(f"cautious {rule.__name__}", (rule,), members)


def computed(rule: type[Rule], dtype: DType) -> DType:
    """Return the storage type as which a rule takes arrays of ``dtype``: it decides what its scalars are rounded to."""
    return SINGLE if rule.in_single else dtype


def resolve(rule: type, settings: Mapping[str, Any]) -> Hypers:
    """Check the hyperparameters of a rule and return them resolved, or raise TypeError or ValueError."""
    for name in declared(rule):
        if name not in settings:
            raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
    h = SimpleNamespace(**{name: x.resolve(name, settings[name]) for name, x in declared(rule).items()})
    lr: Any = settings.get("lr")
    if getattr(h, "capturable", False) and on_gpu(lr) and lr.dtype != np.float64:
        raise TypeError(f"a learning rate on a GPU must be a float64 array of one element, got dtype {lr.dtype}")
    _check_values(rule, h)
    _check_flags(h)
    return h


def _check_values(rule: Any, h: Hypers) -> None:
    """Raise ValueError if values do not fit together, as far as they are known."""
    try:
        rule.check(h)
    except Undecided:
        return


def unread(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put 1 for a learning rate that lies on a GPU: reading it would wait for all that the GPU has to do."""
    return {**settings, "lr": 1.0} if on_gpu(settings.get("lr")) else settings


def _check_flags(h: Hypers) -> None:
    """Raise RuntimeError if flags that say how to run a step exclude each other."""
    if not getattr(h, "fused", None):
        return
    if getattr(h, "differentiable", False):
        raise RuntimeError("`fused` does not support `differentiable`")
    if getattr(h, "foreach", None):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


@cache
def _holds_numbers(kind: type) -> bool:
    """Tell whether objects of a type are real numbers."""
    return issubclass(kind, Real) and not issubclass(kind, bool)


def record(scalars: Mapping[str, Any], dtype: DType) -> Record:
    """Round each number of a step once to the arithmetic type of ``dtype``; ``exact`` keeps the unrounded."""
    return SimpleNamespace(**_rounded(scalars, dtype), exact=SimpleNamespace(**scalars))


def _rounded(scalars: Mapping[str, Any], dtype: DType) -> dict[str, Any]:
    number = arithmetic(dtype).type
    kind: Callable[[Any], Any] = type
    return {name: number(x) if _holds_numbers(kind(x)) else x for name, x in scalars.items()}


def renewed(s: Record, new: Mapping[str, Any], dtype: DType) -> Record:
    """Return the record of the step after that of ``s``, with some scalars that are new."""
    exact = SimpleNamespace(**{**vars(s.exact), **new})
    return SimpleNamespace(**{**vars(s), **_rounded(new, dtype), "exact": exact})


def extended(s: Record, measured: Mapping[str, Any], dtype: DType) -> Record:
    """Add what a rule measured to the record of its step."""
    return SimpleNamespace(**{**vars(s), **vars(record(measured, dtype)), "exact": s.exact})


def step_scalars(rule: type[Rule], h: Hypers, k: int, registers: Registers, **more: Any) -> dict[str, Any]:
    """Compute the scalars of a step, with ``maximize``; raise ValueError where they overflow or divide by zero."""
    scalars = _defined(rule.scalars, h, k, registers)
    given = {"maximize": getattr(h, "maximize", False), "grad_scale": None, "estimated": False, "caution": False}
    return {**scalars, **given, **more}


class _Unseen:
    """Stands for the number of a step that nobody looks at: whatever is asked of it raises TypeError."""

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("the number of the step is looked at")

    __eq__ = __ne__ = __hash__ = __bool__ = __str__ = __repr__ = __getattribute__ = _refuse


def is_steady(rule: type[Rule], h: Hypers) -> bool:
    """Tell whether the scalars of every step are the same: the rule does not look at its number, nor keeps any."""
    k: Any = _Unseen()
    if has_own(rule, "advance"):
        return False
    try:
        scalars = rule.scalars(h, k, {})
    except Exception:  # the step itself says what is wrong
        return False
    return all(x is not k for x in scalars.values())


def checks_groups(rule: type[Rule]) -> bool:
    """Tell whether a rule has something to say of the settings of groups together."""
    return has_own(rule, "check_groups")


def next_registers(rule: type[Rule], h: Hypers, k: int, registers: Registers) -> Registers:
    """Return the registers after step ``k``; raise where they overflow or divide by zero."""
    if not registers and not has_own(rule, "advance"):
        return registers
    after = _defined(rule.advance, h, k, registers)
    for name, x in after.items():
        if _is_infinite(x) and not has_sums_over_all(rule):  # which are so where a gradient is
            raise overflow(x.dtype, f"{name} after step {k}", h)
    return after


def _is_infinite(x: Any) -> bool:
    try:
        return math.isinf(x)
    except Undecided:
        return False


def overflow(dtype: DType, name: str, h: Hypers | None = None) -> RuntimeError:
    """Return the error that says which number is too large for a type, with the settings that it comes of."""
    settings = "" if h is None else f" ({', '.join(f'{key}={x!r}' for key, x in vars(h).items())})"
    return RuntimeError(f"value cannot be converted to type {dtype} without overflow: {name}{settings}")


def _defined(f: Callable[..., dict[str, Any]], h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
    try:
        float(k)  # kernels count in doubles
        return f(h, k, registers)
    except ArithmeticError as error:
        raise ValueError(f"the scalars of step {k} have no value: {error} ({vars(h)})") from error


def apply(rule: type[Rule], s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
    """Run the array half of a rule on a gradient as it was given."""
    if s.maximize or s.grad_scale is not None:
        g = ascent(s, unscaled(s, g))
    if rule.takes_estimates and not s.estimated:
        state = (*state, None)
    return rule.update(s, p, g, *state)


def unscaled(s: Record, g: Array) -> Array:
    """Divide the gradient by the factor by which the loss was scaled, if it was."""
    return g if s.grad_scale is None else div(g, s.grad_scale)


def ascent(s: Record, g: Array) -> Array:
    """Turn the gradient round where the objective is maximized."""
    return neg(g) if s.maximize else g
