"""What all ranks must have in common, compared by one number, and what differs where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

from ..step.groups import Group
from .comm import Communicator, RankError, raise_together

Facts: TypeAlias = dict[str, Any]
"""Plain data by what it is."""

OWN = frozenset({"params", "fused", "foreach"})
"""Settings of a group that ranks may differ in: no result depends on them."""


def settings(groups: Sequence[Group]) -> Facts:
    """Return the settings of groups."""
    return {f"{key} of group {i}": _plain(x) for i, g in enumerate(groups) for key, x in g.items() if key not in OWN}


def parameters(groups: Sequence[Group]) -> Facts:
    """Return what ranks must have in common of the parameters of groups."""
    return {"parameters": [(p.shape, p.dtype.name, p.master) for group in groups for p in group["params"]]}


def _plain(x: Any) -> Any:
    """Return the number that an array holds, and what something says of itself."""
    if hasattr(x, "item") and math.prod(getattr(x, "shape", ())) == 1:
        x = x.item()
    return x if isinstance(x, (bool, int, float, str, type(None))) else repr(x)


def digest(facts: Facts) -> int:
    """Return a number that differs where facts do."""
    return int.from_bytes(blake2b(repr(sorted(facts.items())).encode(), digest_size=7).digest(), "big")


def agree(comm: Communicator, error: BaseException | None, facts: Facts) -> None:
    """Let all ranks go on, or all raise: where one has an error, or where they differ.

    Raises:
        RankError: another rank has an error, or says something else.
        BaseException: the error of this rank.
    """
    own = digest(facts) if error is None and comm.size > 1 else 0
    failed, most, least = comm.agree([error is not None, own, -own])
    if failed:
        raise_together(comm, error)
    if most != -least:
        _tell(comm.gather(facts))


def _tell(all_facts: Sequence[Facts]) -> None:
    """Raise the RankError that says what differs first."""
    for rank, facts in enumerate(all_facts):
        found = _difference(all_facts[0], facts)
        if found:
            raise RankError(f"rank {rank} differs from rank 0 in {found}", rank)
    raise RankError("the ranks differ")


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    for key in (*one, *(key for key in other if key not in one)):
        x, y = one.get(key, "nothing"), other.get(key, "nothing")
        if repr(x) != repr(y):
            if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)) and len(x) == len(y):
                i = next(i for i, (a, b) in enumerate(zip(x, y, strict=True)) if repr(a) != repr(b))
                return f"{key}[{i}]: {y[i]!r}, and {x[i]!r} on rank 0"
            return f"{key}: {y!r}, and {x!r} on rank 0"
    return ""
