"""Changes of a rule: what a dialect of an optimizer is put together from.

A change is a class that stands before an optimizer's in the order of inheritance and makes one thing another: some
scalars of a step, some words of its array half, the state it begins with. Changes of different things stand one upon
another. ``declare`` enters a change as an axis on which implementations of some rules differ; ``dialect`` builds the
optimizer that has some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.rule import Hypers, Record, Registers, Rule

C = TypeVar("C", bound="type[Change]")

Words = dict[str, Any]
"""Other meanings of some names that an array half uses."""


class Change(Optimizer):
    """The base of all changes: it makes nothing another.

    Attributes:
        moving: the scalars that it adds, or makes depend on the step or the learning rate.
    """

    moving: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        """Return the words of the array half that mean something else."""
        return {}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        updated: tuple[Array, ...] = with_words(super().update, cls.words(s, p, g, *state))(s, p, g, *state)
        return updated


class MeasuredChange(Change):
    """The base of changes of a rule that sums over elements."""

    @classmethod
    def measuring(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        """Return the names of ``measure`` that mean something else."""
        return {}

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        measured: dict[str, Any] = with_words(super().measure, cls.measuring(s, p, g, *state))(s, p, g, *state)
        return measured


def with_words(function: Any, words: Mapping[str, Any]) -> Any:
    """Return a function, or a class's method, with the same code to which some global names mean something else.

    They mean that to the functions of its module too, which it may call.
    """
    if not words:
        return function
    f = getattr(function, "__func__", function)
    names = {**f.__globals__, **words}
    beside = {name: x for name, x in names.items() if isinstance(x, FunctionType) and x.__module__ == f.__module__}
    names |= {name: _copy(x, names) for name, x in beside.items() if name not in words}
    copy = _copy(f, names)
    names[f.__name__] = copy
    return copy if f is function else copy.__get__(function.__self__)


def _copy(f: FunctionType, names: dict[str, Any]) -> FunctionType:
    """Return a function whose global names are others."""
    copy = FunctionType(f.__code__, names, f.__name__, f.__defaults__, f.__closure__)
    copy.__kwdefaults__ = f.__kwdefaults__
    return copy


def changed(record: Any, **values: Any) -> Any:
    """Return a record with other values."""
    return SimpleNamespace(**{**vars(record), **values})


class Axis(NamedTuple):
    """One way in which implementations of a rule differ from it.

    Attributes:
        optimizer: the name of the optimizer.
        flag: the name of the difference; ``flags.FLAGS`` says what it means.
        change: the class that makes it.
        touches: the things that it makes others; two axes that share one do not stand together.
        needs: the flags without one of which it changes nothing.
    """

    optimizer: str
    flag: str
    change: type[Change]
    touches: tuple[str, ...]
    needs: tuple[str, ...] = ()


AXES: dict[tuple[str, str], list[Axis]] = {}
"""The axes of an optimizer under a flag: mostly one; of a lost state, one per name."""


def declare(
    flag: str, rules: Iterable[type[Optimizer]], *touches: str, needs: tuple[str, ...] = ()
) -> Callable[[C], C]:
    """Enter a class as an axis of some optimizers under a flag."""

    def entered(change: C) -> C:
        for rule in rules:
            found = Axis(rule.__name__, flag, change, touches, needs)
            AXES.setdefault((rule.__name__, flag), []).append(found)
        return change

    return entered


def by_scalars(
    flag: str,
    rules: Iterable[type[Optimizer]],
    *touches: str,
    change: Callable[[Any, int, dict[str, Any]], Any],
    needs: tuple[str, ...] = (),
    varying: Iterable[str] = (),
) -> None:
    """Enter a change of some scalars of a step: ``change(h, k, scalars)`` returns those that are others."""

    @declare(flag, rules, *touches, needs=needs)
    class Scalars(Change):
        moving = frozenset(varying)

        @classmethod
        def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
            right = super().scalars(h, k, registers)
            return {**right, **change(h, k, right)}


def by_words(flag: str, rules: Iterable[type[Optimizer]], *touches: str, words: Callable[..., Words]) -> None:
    """Enter a change of words of the array half: ``words(s, p, g, *state)`` returns their meanings."""

    @declare(flag, rules, *touches)
    class Worded(Change):
        @classmethod
        def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
            return super().words(s, p, g, *state) | words(s, p, g, *state)


def by_update(flag: str, rules: Iterable[type[Optimizer]], *touches: str, wrap: Callable[..., Any]) -> None:
    """Enter a change around the array half: ``wrap(update, s, p, g, *state)`` calls ``update(s, p, g, *state)``."""

    @declare(flag, rules, *touches)
    class Wrapped(Change):
        @classmethod
        def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
            updated: tuple[Array, ...] = wrap(super().update, s, p, g, *state)
            return updated


def with_settings(change: Callable[[Hypers], Mapping[str, Any]]) -> type[Change]:
    """Return a change by which a rule computes with other hyperparameters than it was given."""

    class Settings(Change):
        @classmethod
        def variant(cls, h: Hypers) -> type[Rule]:
            return super().variant(changed(h, **change(h)))

        @classmethod
        def shapes(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
            return super().shapes(changed(h, **change(h)), shape)

        @classmethod
        def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
            return super().arrays(changed(h, **change(h)), shape)

        @classmethod
        def registers(cls, h: Hypers) -> dict[str, float]:
            return super().registers(changed(h, **change(h)))

        @classmethod
        def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
            return super().advance(changed(h, **change(h)), k, registers)

        @classmethod
        def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
            return super().scalars(changed(h, **change(h)), k, registers)

        @classmethod
        def takes_part(cls, h: Hypers) -> bool:
            return super().takes_part(changed(h, **change(h)))

        @classmethod
        def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
            return super().measured_over_all(changed(h, **change(h)), registers, *totals)

    return Settings
