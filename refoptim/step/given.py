"""Gradients that are given to a step: in the order of the parameters, by their names, or as a tree of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache
from operator import attrgetter
from reprlib import repr as short
from typing import Any

from .groups import Group
from .parameter import is_one_array
from .plan import parameters
from .trees import duplicate, is_left_out, leaves

ADVICE = "make the optimizer of refoptim.named_arrays(params), or of (name, array) pairs"


def in_order(groups: Sequence[Group], grads: Any) -> list[Any] | tuple[Any, ...] | None:
    """Return gradients in the order of the groups and of the parameters in them; None for none.

    Args:
        groups: the groups of an optimizer.
        grads: an iterable of gradients in this order, as it is; or a dict of them by the names of the parameters, or
            a tree whose paths are those names. None stands for a parameter that has no gradient in this step.

    Raises:
        TypeError: ``grads`` is none of these, or is a dict or a tree and a parameter has no name.
        ValueError: a parameter has no gradient, and no None either, or a gradient belongs to no parameter.
    """
    if grads is None:
        return None
    if is_one_array(grads) or isinstance(grads, (str, set, frozenset)) or not isinstance(grads, Iterable):
        raise TypeError(
            f"grads must be an iterable of gradients in order, or a dict of them by name, got {type(grads).__name__}"
        )
    if isinstance(grads, Mapping):
        return _by_name(groups, grads)
    given = grads if isinstance(grads, (list, tuple)) else list(grads)
    if any(map(_holds_leaves, set(map(type, given)))):
        return _by_name(groups, given)
    _check_places(groups, given)
    return given


def _holds_leaves(kind: type) -> bool:
    """Tell whether objects of a type are parts of a tree; a sparse matrix may be a dict too."""
    return issubclass(kind, (list, tuple, Mapping)) and not hasattr(kind, "tocoo")


def _by_name(groups: Sequence[Group], tree: Any) -> list[Any]:
    names = _names(groups, tree)
    if type(tree) is dict and len(tree) == len(names):
        with suppress(KeyError):
            return list(map(tree.__getitem__, names))
    given = [(path, grad) for path, grad, _ in leaves(tree)]
    found = dict(given)
    if len(found) < len(given):
        raise ValueError(f"grads holds two gradients for {duplicate(path for path, _ in given)!r}")
    missing = [name for name in names if name not in found]
    for path in found.keys() - set(names):
        if not is_left_out(found[path]):
            nearest = get_close_matches(path, missing or names, n=1, cutoff=0.0)
            raise ValueError(
                f"grads holds a gradient for {path!r}, which is the name of no parameter: the nearest is {nearest[0]!r}"
            )
    if missing:
        raise ValueError(f"grads must hold a gradient (or None) for every parameter, but lacks {missing[0]!r}")
    return list(map(found.__getitem__, names))


def _names(groups: Sequence[Group], tree: Any) -> list[str]:
    """Return the names of all parameters: those that a group gives, else those of the Parameters; or raise.

    ``tree`` is what needs them.
    """
    try:
        columns = [(group["params"], _own_names(group)) for group in groups]
    except (AttributeError, KeyError, TypeError):
        parameters(groups)  # says what is wrong with them
        raise
    names: list[Any] = []
    for i, (params, own) in enumerate(columns):
        if len(own) != len(params):
            raise ValueError(f"param_names of group {i} must be {len(params)} names, got {len(own)}")
        if None in own:
            raise TypeError(f"{_need(tree)}, and parameter {own.index(None)} of group {i} has no name: {ADVICE}")
        names += own
    if len(set(names)) < len(names):
        raise ValueError(f"grads by name need names that differ, but two parameters are named {duplicate(names)!r}")
    return names


def _need(tree: Any) -> str:
    """Say in a message why gradients need names."""
    if isinstance(tree, Mapping):
        return "a dict of gradients goes by the names of parameters"
    i, part = next((i, x) for i, x in enumerate(tree) if _holds_leaves(type(x)))
    return f"grads[{i}] is a {type(part).__name__} and no array, a tree of gradients goes by the names of parameters"


def _own_names(group: Group) -> list[Any]:
    return list(group.get("param_names") or map(attrgetter("name"), group["params"]))


def _check_places(groups: Sequence[Group], given: Sequence[Any]) -> None:
    """Raise ValueError where a list of gradients can be read in two ways.

    That is where the names are places in a list, as ``named_arrays`` gives them, and the groups have another order.
    """
    columns = [group.get("param_names") or () for group in groups if isinstance(group, dict)]
    if not any(names and str(names[0]).isdecimal() for names in columns):
        return
    names, places = [name for names in columns for name in names], _places(len(given))
    if names != places and set(names) == set(places):
        raise ValueError(
            "grads in a list could be meant in the order of that list, by whose places the parameters are named, or in "
            f"the order of the groups, {short(names)}: give them by name, dict(enumerate(grads)) for the former"
        )


@cache
def _places(n: int) -> list[str]:
    return list(map(str, range(n)))


@contextmanager
def explained(groups: Sequence[Group], given: Any) -> Iterator[None]:
    """Say more of an error where a list of gradients would fit the parameters in another order than the groups'."""
    try:
        yield
    except ValueError as error:
        if "must have shape" in str(error) and _is_shuffled(groups, given):
            raise ValueError(
                f"{error} (a list of gradients goes through the groups one after another; by name, order is free)"
            ) from None
        raise


def _is_shuffled(groups: Sequence[Group], given: Any) -> bool:
    """Tell whether gradients in a list have the shapes of the parameters of several groups, but in another order."""
    if len(groups) < 2 or not isinstance(given, (list, tuple)):
        return False
    params = [p for group in groups for p in group["params"]]
    here, there = ([tuple(getattr(x, "shape", ())) for x in column] for column in (params, given))
    return here != there and sorted(here) == sorted(there)


def loss_and_gradients(value: Any) -> tuple[Any, Any]:
    """Return what a closure returned, and None; or its two parts if it is a pair of the loss and gradients."""
    if isinstance(value, tuple) and len(value) == 2 and (isinstance(value[1], Iterable) or is_one_array(value[1])):
        return value
    return value, None
