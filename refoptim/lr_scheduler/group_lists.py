"""Lists with one entry per group: an entry belongs to its group, wherever that stands now.

A group is told by its dict. Where dicts were replaced by copies, it is told by its parameters, and by whether it holds
``initial_lr``: a dict that describes the same parameters anew is a new group. Where all groups were replaced by copies
with arrays of their own, those of another optimizer, it is told by its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from ..step.groups import Group


def are_first(known: Sequence[Group], groups: Sequence[Group]) -> bool:
    """Tell whether the first of ``groups`` are the known ones."""
    return len(known) <= len(groups) and all(map(is_, known, groups))


def places(known: Sequence[Group], groups: Sequence[Group]) -> list[int | None]:
    """Return for each group which of the known ones it is, None for one that is new."""
    numbers = {id(group): j for j, group in enumerate(known)}
    found = [numbers.get(id(group)) for group in groups]
    free = [j for j in range(len(known)) if j not in found]
    for i, group in enumerate(groups):
        if found[i] is None:
            found[i] = next((j for j in free if _is_copy(group, known[j])), None)
            free = [j for j in free if j != found[i]]
    return list(range(len(known))) if _are_copies(known, groups) and set(found) <= {None} else found


def _are_copies(known: Sequence[Group], groups: Sequence[Group]) -> bool:
    """Tell whether two lists of scheduled groups are alike, but for what they hold."""
    return all("initial_lr" in group for group in groups) and _shapes(known) == _shapes(groups)


def _shapes(groups: Sequence[Group]) -> list[list[tuple[int, ...]]]:
    return [[p.shape for p in group["params"]] for group in groups]


def _is_copy(group: Group, known: Group) -> bool:
    if ("initial_lr" in group) != ("initial_lr" in known):
        return False
    return group["params"] is known["params"] or not _arrays(group).isdisjoint(_arrays(known))


def _arrays(group: Group) -> set[int]:
    return {id(p.data) for p in group["params"]}


def kept(name: str, values: list[Any], found: Sequence[int | None], known: int) -> list[Any]:
    """Return the entries of the groups that are still there, in their order, then those that belong to none yet.

    Of ``known`` groups ``values`` held an entry each; ``found`` says where each group of today was among them. A list
    that was made as long as there are groups by hand is left alone.
    """
    if len(values) < known:
        if len(values) == len(found):
            return values
        raise ValueError(f"{name} has {len(values)} values, but {known} parameter groups were scheduled")
    return [*(values[j] for j in found if j is not None), *values[known:]]


def seen(values: list[Any], before: list[Any]) -> list[Any]:
    """Return the only value of a list, or two that differ; what was seen before if it is empty, or if that differed."""
    return before if len(before) > 1 or not values else [values[0], *[x for x in values if x != values[0]][:1]]


def joined(name: str, values: list[Any], i: int, known: int, before: list[Any]) -> list[Any]:
    """Return a list with an entry for group ``i``, which was not among the ``known``.

    It is the first that belongs to no group yet, or the one that all groups share, or ValueError is raised.
    """
    if len(values) > known:
        return inserted([*values[:known], *values[known + 1 :]], i, values[known])
    common = seen(values, before)
    if len(common) != 1:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(values)} values, param_groups has {known + 1}: a group was added, give {name} for it too"
        )
    return inserted(values, i, common[0])


def inserted(values: Sequence[Any], i: int, value: Any) -> list[Any]:
    """Return a list with one more entry."""
    return [*values[:i], value, *values[i:]]
