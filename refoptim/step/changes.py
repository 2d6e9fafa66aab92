"""Changes that are all made, or none: nothing that a signal handler raises comes between them.

Whoever changes something that must not be left half done first works out everything that is to be written, and makes
all memory that this needs. What is left is a list of changes, each a ``partial`` of a function written in C, such as
``partial(setitem, array, ..., values)`` or ``partial(state.update, counts)``. ``make`` runs them within one call of a
function written in C: Python runs signal handlers, and raises what they raise, between its own instructions only, so
an exception comes before the first change or after the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import length_hint
from typing import Any, TypeAlias

from ..numerics.array_types import Place, at, is_current

Change: TypeAlias = "partial[Any]"
"""A call that changes something, of a function written in C."""

NO_MEMORY = (MemoryError, SystemError)
"""What is raised where memory runs out: NumPy's functions raise the latter where there is none for their own use."""

_call: Any = partial.__call__
_run_through = deque[Any](maxlen=0).extend


def make(changes: Iterable[Change]) -> None:
    """Make changes in their order; what keeps one from being made is raised, and those after it are not made."""
    _run_through(map(_call, changes))


def make_insisting(changes: Sequence[Change], prepare: Callable[[], Any]) -> None:
    """Make changes, and one for which there is no memory once more after ``prepare``; it has changed nothing then."""
    coming = iter(changes)
    try:
        _run_through(map(_call, coming))
    except NO_MEMORY:
        prepare()
        failed = len(changes) - length_hint(coming) - 1
        make(changes[failed:])


def for_all(function: Any, *columns: Iterable[Any]) -> Change:
    """Return the change that a function of C makes when it is called with the items of some columns, row by row."""
    return partial(_run_through, map(function, *columns))


def there(where: Place | None, changes: list[Change]) -> list[Change]:
    """Make the GPU of a place the current one around changes, if there are such and it is another one."""
    if where is None or is_current(where) or not changes:
        return changes
    device = at(where)
    return [partial(device.__enter__), *changes, partial(device.__exit__, None, None, None)]
