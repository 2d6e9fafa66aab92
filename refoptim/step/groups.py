"""Parameter groups: made from what a user passes, and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from reprlib import repr as short
from typing import Any, TypeAlias

from ..numerics import array_types as types
from ..numerics.arith import Array
from .parameter import Parameter, as_parameter, is_one_array
from .trees import ADVICE, is_tree

Params: TypeAlias = Iterable[Array | Parameter | tuple[str, Array | Parameter] | dict[str, Any]]
"""What an optimizer is made of: arrays, Parameters, ``(name, parameter)`` pairs, or dicts that describe groups."""

Group: TypeAlias = dict[str, Any]


def as_groups(params: Any) -> list[Any]:
    """Turn the ``params`` argument of an optimizer into descriptions of groups."""
    if isinstance(params, (Parameter, str, Mapping)) or is_one_array(params) or not isinstance(params, Iterable):
        raise TypeError(
            f"params argument given to the optimizer should be an iterable of arrays or dicts, "
            f"but got {type(params).__name__}{_advice(params)}"
        )
    _refuse_set(params)
    groups: list[Any] = list(params)
    if not groups:
        raise ValueError("optimizer got an empty parameter list")
    return groups if isinstance(groups[0], dict) else [{"params": groups}]


def _advice(x: Any) -> str:
    """Say what to do with a tree of arrays, or with a group alone, in a message that refuses it."""
    if isinstance(x, Mapping) and "params" in x:
        return ": groups come in a list"
    return f": {ADVICE}" if is_tree(x) else ""


def _refuse_set(params: Any) -> None:
    if isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of arrays in sets "
            "will change between runs. Please use a list instead."
        )


def make_group(described: Any, defaults: Mapping[str, Any]) -> Group:
    """Make a group of a description: Parameters in a list, names apart, missing settings taken from ``defaults``."""
    if not isinstance(described, dict):
        raise TypeError(f"param_group must be a dict, but got {type(described)}")
    if "params" not in described:
        raise ValueError(f"param_group must have the key 'params', got {short(list(described))}{_advice(described)}")
    check_keys(described, "a parameter group")
    parameters, names = _parameters(described["params"])
    group: Group = {"params": parameters}
    if names:
        group["param_names"] = names
    if "param_names" in described:
        check_names(described["param_names"], len(parameters), "a parameter group", names)
    return group | {key: x for key, x in described.items() if key != "params"} | _missing(described, defaults)


def _missing(described: Group, defaults: Mapping[str, Any]) -> Group:
    return {key: x for key, x in defaults.items() if key not in described}


def _parameters(params: Any) -> tuple[list[Parameter], list[str]]:
    """Return Parameters and their names, all or none of which are given."""
    _refuse_set(params)
    if isinstance(params, (str, Mapping)):
        raise TypeError(f"the params of a group must be arrays in a list, got {type(params).__name__}{_advice(params)}")
    if isinstance(params, Parameter) or is_one_array(params) or not isinstance(params, Iterable):
        params = [params]
    members: list[Any] = list(params)
    named = [isinstance(x, tuple) for x in members]
    if any(named) and not all(named):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    if not any(named):
        return [_member("", x) for x in members], []
    for pair in members:
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"a named parameter must be a pair of a str and an array, got {short(pair)}{_advice(pair)}")
    names = [name for name, _ in members]
    check_names(names, len(names), "a parameter group")
    return [_member(name, x) for name, x in members], names


def _member(name: str, x: Any) -> Parameter:
    """Return what is to be optimized as a Parameter; what is wrong with it comes with its name, if it has one."""
    try:
        return as_parameter(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{name}: {error}{_advice(x)}" if name else f"{error}{_advice(x)}") from None


def check_keys(described: Mapping[Any, Any], where: str) -> None:
    """Raise TypeError unless all settings have names."""
    for key in described:
        if not isinstance(key, str):
            raise TypeError(f"the settings of {where} must have names, got {key!r}")


def check_spelling(keys: Iterable[str], own: Collection[str], others: Collection[str], where: str) -> None:
    """Raise ValueError if a key that is no setting is close to one: a letter or two off, or in capitals.

    ``own`` are the settings that are meant, ``others`` names that may stand there all the same.
    """
    for key in keys:
        meant = None if key in own or key in others else _close(key, own)
        if meant:
            raise ValueError(f"{where} has the key {key!r}, which is no setting: did you mean {meant!r}?")


def _close(key: str, names: Iterable[str]) -> str | None:
    """Return the name that a key is a slip of; what adds a word or a number to a name, such as ``eps2``, is none."""
    if key[-1:].isdecimal():
        return None
    alike = [x for x in names if abs(len(x) - len(key)) <= 2]
    found = get_close_matches(key.lower(), alike, n=1, cutoff=0.82)
    return next(iter(found or (x for x in alike if _is_one_slip(key.lower(), x))), None)


def _is_one_slip(key: str, name: str) -> bool:
    """Tell whether a letter of a name is missing, wrong or too much, or two are swapped; in ``lr`` none is wrong."""
    shorter_keys, shorter_names = _without_a_letter(key), _without_a_letter(name)
    if len(name) < 3:
        return len(name) == 2 and (name in shorter_keys or key == name[::-1])
    return not {key, *shorter_keys}.isdisjoint({name, *shorter_names})


def _without_a_letter(text: str) -> list[str]:
    return [text[:i] + text[i + 1 :] for i in range(len(text))]


def check_names(names: Any, n: int, where: str, same: Sequence[str] = ()) -> None:
    """Raise ValueError unless ``names`` are those of ``n`` parameters, and the ``same`` if these are given."""
    listed = isinstance(names, (list, tuple)) and all(isinstance(x, str) for x in names)
    if not listed or len(names) != n or len(set(names)) < n or list(names) != list(same or names):
        raise ValueError(f"param_names of {where} must be {n} names that differ, got {names!r}")


def check_members(group: Group, others: Sequence[Group]) -> None:
    """Raise ValueError if a parameter stands in a group twice or in two, or if only some groups give names."""
    for other in others:
        if ("param_names" in other) != ("param_names" in group):
            given = "with" if "param_names" in group else "without"
            raise ValueError(
                "all optimizer param groups should be with/without names. "
                f"cannot add param group {given} names to the optimizer"
            )
    first = len(group["params"])
    pair = sharing([*group["params"], *(p for other in others for p in other["params"])])
    if pair is not None and max(pair) < first:
        raise ValueError(
            "optimizer contains a parameter group with duplicate parameters: "
            f"parameters {min(pair)} and {max(pair)} of the group share memory"
        )
    if pair is not None:
        raise ValueError(
            "some parameters appear in more than one parameter group: "
            f"parameter {min(pair)} of the group shares memory with one of another group"
        )


def check_once(groups: Sequence[Group]) -> None:
    """Raise ValueError if a parameter stands twice in groups that were changed by hand, or two share memory."""
    pair = sharing([p for group in groups for p in group["params"]])
    if pair is None:
        return
    places = [f"parameter {j} of group {i}" for i, group in enumerate(groups) for j in range(len(group["params"]))]
    first, second = (places[i] for i in sorted(pair))
    raise ValueError(
        f"some parameters appear in more than one parameter group: {first} and {second} are one, or share memory"
    )


def sharing(params: Sequence[Parameter]) -> tuple[int, int] | None:
    """Return the numbers of two parameters that share memory, or are one, if there are such."""
    first: dict[int, int] = {}
    for i, p in enumerate(params):
        if first.setdefault(id(p), i) != i:
            return first[id(p)], i
    arrays = {i: p.data for i, p in enumerate(params) if types.is_array(p.data)}
    pair = types.sharing(list(arrays.values()))
    numbers = list(arrays)
    return pair and (numbers[pair[0]], numbers[pair[1]])
