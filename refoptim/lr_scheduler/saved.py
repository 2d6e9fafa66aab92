"""What a state dict of a scheduler must be before anything is read from it, and what its entries must be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..step.hyper import Count, Hyper, Interval, Real
from .plain import NON_FINITE

DEEPEST = 100
"""How deep lists and dicts of a state dict may stand in one another."""

LARGEST = 1023
"""How many bits an integer of a state dict may have, so that it fits into a double."""

FINITE = Real("", stem="{name} of a state dict must be finite: {value}", interval=Interval("(-inf, inf)"))
UNSIGNED = Real("", stem="{name} of a state dict must be finite and not negative: {value}")
NOT_NAN = Real("", stem="{name} of a state dict is nan: {value}", interval=Interval("[-inf, inf]"))
COUNT = Count("", interval=Interval("[0, inf)"))


@dataclass(frozen=True)
class ListOf(Hyper):
    """A list, each of whose entries has a declaration."""

    item: Hyper = FINITE

    def _resolve(self, name: str, value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} of a state dict must be a list, got {value!r}")
        return [self.item.resolve(f"{name}[{i}]", x) for i, x in enumerate(value)]

    def _range(self) -> str:
        return f"a list of numbers in {self.item.range}"


class Start(Hyper):
    """The epoch at which a group came, and the learning rate with which it came."""

    def _resolve(self, name: str, value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise TypeError(f"{name} of a state dict must be a pair of an epoch and a learning rate, got {value!r}")
        return [Count("", interval=Interval("[-1, inf)")).resolve(name, value[0]), FINITE.resolve(name, value[1])]

    def _range(self) -> str:
        return "an epoch and a learning rate"


STARTS = ListOf("", item=Start(""))


def refuse_other(
    name: str, own: Collection[str], state: Any, optional: Collection[str], known: Collection[str], rates: set[str]
) -> None:
    """Raise unless a state dict has the entries of the scheduler ``name``, whose attributes are ``own``.

    ``optional`` may be missing, ``known`` may stand there too, and one of ``rates`` must.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"a state dict must be a dict, got {type(state).__name__}")
    missing = sorted(set(own) - state.keys() - set(optional))
    unknown = sorted(state.keys() - set(own) - set(known), key=str)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}"
        raise ValueError(f"loaded state dict is not one of {name}: it {what}")
    if state.keys().isdisjoint(rates):
        raise ValueError(f"loaded state dict is not one of {name}: it lacks '_last_lr'")


def check_sane(state: Any) -> None:
    """Raise ValueError if values stand too deep in one another, or if an integer is too large for a double."""
    met: set[int] = set()
    level = [state]
    for _ in range(DEEPEST):
        for x in level:
            if isinstance(x, int) and x.bit_length() > LARGEST:
                raise ValueError("a state dict must hold integers that fit into a double")
        nested = [x for x in level if isinstance(x, (list, tuple, Mapping)) and id(x) not in met]
        met.update(map(id, nested))
        level = [item for x in nested for item in (x.values() if isinstance(x, Mapping) else x)]
        if not level:
            return
    raise ValueError(f"a state dict must not be nested deeper than {DEEPEST} lists and dicts")


def number_of(value: Any) -> Any:
    """Return a saved number that is not finite as a float; anything else as it is."""
    return float(value) if isinstance(value, str) and value in NON_FINITE else value


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Let what goes wrong while a state dict is read say that the state dict is wrong."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"loaded state dict is not one of {name}: {what}") from error
