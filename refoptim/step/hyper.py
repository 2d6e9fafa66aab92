"""Hyperparameters, declared once.

An optimizer declares each hyperparameter in the signature of its constructor, as ``Annotated[type, declaration]``: the
name and default stand in the signature, the interval and the sentence in the declaration. Checks, messages and tables
derive from there. The declarations that several optimizers share are at the end of this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from inspect import isfunction
from numbers import Integral
from numbers import Real as RealNumber
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import numpy as np

from ..numerics.arith import Array, Undecided
from ..numerics.followed import Followed

Scalar: TypeAlias = float | Array
"""A real number, or an array that holds one."""


@dataclass(frozen=True)
class Interval:
    """An interval of the real line in the usual notation, such as ``[0, 1)``."""

    text: str

    def __contains__(self, x: float) -> bool:
        low, high = _ends(self.text)
        try:
            above = x >= low if self.text[0] == "[" else x > low
            below = x <= high if self.text[-1] == "]" else x < high
        except Undecided:  # it may be
            return True
        return above and below


@cache
def _ends(interval: str) -> tuple[float, float]:
    low, high = map(float, interval[1:-1].split(","))
    return low, high


def is_number(value: Any, kind: type) -> bool:
    """Tell whether ``value`` is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def number(name: str, value: Any) -> Any:
    """Return a real number, or the only element of a real array, as a Python number; raise otherwise.

    A number that a library follows stays as it is.
    """
    if is_number(value, RealNumber):
        return _python(value)
    if isinstance(value, Followed):
        return value
    shape = getattr(value, "shape", None)
    if shape is None or isinstance(value, (np.generic, np.ma.MaskedArray)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if math.prod(shape) != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(shape)}")
    element = value.item()
    if getattr(value.dtype, "kind", "f") == "O" or not is_number(element, RealNumber):
        raise TypeError(f"{name} must hold a real number, got dtype {value.dtype}")
    return _python(element)


def _python(value: Any) -> float:
    """Return a real number as a Python number; one that is too large for a double is infinite."""
    try:
        x = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return int(value) if isinstance(value, Integral) else x


@dataclass(frozen=True)
class Hyper:
    """A declaration: one sentence of documentation, and whether None is allowed."""

    doc: str
    optional: bool = False

    def resolve(self, name: str, value: Any) -> Any:
        """Return ``value`` as a rule uses it, or raise."""
        return None if value is None and self.optional else self._resolve(name, value)

    def _resolve(self, name: str, value: Any) -> Any:
        raise NotImplementedError

    @property
    def range(self) -> str:
        """The allowed values, in words."""
        return self._range() + (" or None" if self.optional else "")

    def _range(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Flag(Hyper):
    """True or False."""

    def _resolve(self, name: str, value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be {self.range}, got {value!r}")
        return bool(value)

    def _range(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Choice(Hyper):
    """One of some strings."""

    options: tuple[str, ...] = ()
    stem: str = "Invalid {name}: {value}"

    def _resolve(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise ValueError(f"{self.stem.format(name=name, value=value)} ({name} must be {self.range})")
        return value

    def _range(self) -> str:
        return "one of " + ", ".join(map(repr, self.options))


@dataclass(frozen=True)
class Real(Hyper):
    """A real number in an interval; ``stem`` begins the message of an error, as torch's does."""

    stem: str = "Invalid {name} value: {value}"
    interval: Interval = Interval("[0, inf)")

    def _resolve(self, name: str, value: Any) -> float:
        try:
            x: float = number(name, value)
        except TypeError as error:
            raise TypeError(f"{error} {self._allowed(name)}") from None
        if x not in self.interval:
            raise ValueError(f"{self.stem.format(name=name, value=x)} {self._allowed(name)}")
        return x

    def _allowed(self, name: str) -> str:
        return f"({name} must be in {self.range})"

    def _range(self) -> str:
        return self.interval.text


@dataclass(frozen=True)
class Count(Real):
    """An integer in an interval."""

    def _resolve(self, name: str, value: Any) -> int:
        if not is_number(value, Integral):
            raise TypeError(f"{name} must be an integer, got {value!r} {self._allowed(name)}")
        return int(super()._resolve(name, value))


@dataclass(frozen=True)
class Several(Hyper):
    """A tuple of numbers, each with a declaration of its own."""

    items: tuple[Hyper, ...] = ()

    def _resolve(self, name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)) or len(value) != len(self.items):
            raise ValueError(
                f"{name} must be a tuple of exactly {len(self.items)} values, got {value!r} "
                f"(its values must be in {self.range})"
            )
        return tuple(item.resolve(f"{name}[{i}]", x) for i, (item, x) in enumerate(zip(self.items, value, strict=True)))

    def _range(self) -> str:
        return ", ".join(item.range for item in self.items)


def settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor from its ``locals()``."""
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__")}


@cache
def declared(cls: type) -> dict[str, Hyper]:
    """Return the hyperparameters that the constructors of ``cls`` and its bases declare, by name."""
    found: dict[str, Hyper] = {}
    for base in reversed(cls.__mro__):
        constructor = vars(base).get("__init__")
        hints = get_type_hints(constructor, include_extras=True) if isfunction(constructor) else {}
        for name, hint in hints.items():
            # Before Python 3.11, a default of None puts the annotation inside an Optional.
            parts = (hint, *get_args(hint))
            found.update((name, x) for part in parts for x in get_args(part) if isinstance(x, Hyper))
    return found


def _beta(index: int) -> Real:
    return Real("", stem=f"Invalid beta parameter at index {index}: {{value}}", interval=Interval("[0, 1)"))


BETAS = (_beta(0), _beta(1))
THREE_BETAS = (*BETAS, _beta(2))
"""The intervals of two and of three decay rates."""

INSIDE = Interval("(0, 1)")
"""What is a momentum, and may be divided by."""

POSITIVE = Interval("(0, inf)")
"""What may be divided by, or must not vanish."""

REALS = Interval("(-inf, inf)")
"""All real numbers."""

LearningRate = Annotated[Scalar, Real("the learning rate", stem="Invalid learning rate: {value}")]
Betas = Annotated[
    tuple[Scalar, Scalar],
    Several("decay rates of the running averages of the gradient and of its square", items=BETAS),
]
InnerBetas = Annotated[
    tuple[Scalar, Scalar],
    Several(
        "the share of the average where gradients are taken, and the decay rate of the running average of squares",
        items=(replace(_beta(0), interval=INSIDE), _beta(1)),
    ),
]
Epsilon = Annotated[
    Scalar, Real("is added to the denominator so that it is not zero", stem="Invalid epsilon value: {value}")
]
WeightDecay = Annotated[Scalar, Real("the weight decay, which enters where the formula has it")]
Momentum = Annotated[Scalar, Real("the momentum factor")]
AMSGrad = Annotated[bool, Flag("divide by the largest average of squares so far, the AMSGrad variant")]
Decoupled = Annotated[bool, Flag("shrink the parameter itself by 1 - lr * weight_decay, as AdamW does")]
Maximize = Annotated[bool, Flag("maximize the objective instead of minimizing it")]
Foreach = Annotated[
    bool | None,
    Flag("pack small tensors into one pass, with the same bits; None chooses, and packs them", optional=True),
]
Capturable = Annotated[bool, Flag("make the step safe to capture in a CUDA graph; on NumPy arrays it changes nothing")]
Cautious = Annotated[bool, Flag("move only where the direction agrees with the gradient, and the further there")]
Differentiable = Annotated[
    bool, Flag("replace arrays by new ones instead of writing into them, so that a step can be differentiated")
]
Fused = Annotated[bool | None, Flag("run the compiled kernel; None chooses by the array's type", optional=True)]
TrainMode = Annotated[
    bool,
    Flag("the parameters are where gradients are taken, which a step needs; train() and eval() move them and set this"),
]
WarmupSteps = Annotated[Scalar, Real("the steps over which the learning rate rises to lr, linearly")]
WeightPower = Annotated[Scalar, Real("the k-th iterate weighs k**r in the average")]
WeightLrPower = Annotated[Scalar, Real("it weighs the largest learning rate so far to this power, too")]
