"""Sums over all parameters of a step: taken, and told to its buckets, before any of them is updated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ..step.parameter import Parameter
from ..step.plan import Bucket, first_registers
from ..step.rule import Hypers, Registers, Rule, added, computed, renewed, told

Totals: TypeAlias = dict[int, tuple[float, ...]]
"""What parameters add to the sums, by their numbers in the order of the groups."""


def totals(plan: Sequence[Bucket], numbers: Mapping[Parameter, int], of: Callable[[Bucket], Any]) -> Totals:
    """Return what the parameters of a plan add, those of groups that take part; ``of`` says it of a bucket."""
    found: Totals = {}
    for bucket in plan:
        if bucket.rule.takes_part(bucket.h):
            found |= zip((numbers[task.parameter] for task in bucket.tasks), of(bucket), strict=True)
    return found


def joined(parts: Sequence[Totals]) -> Totals:
    """Join what ranks have found; +0 stands for what another one holds."""
    zeros = {i: (0.0,) * len(x) for part in parts for i, x in part.items()}
    return {i: tuple(map(sum, zip(*(part.get(i, x) for part in parts), strict=True))) for i, x in zeros.items()}


def tell(plan: Sequence[Bucket], found: Totals) -> None:
    """Let the buckets of groups that take part have what the sums say."""
    sums = added(found[i] for i in sorted(found))
    for bucket in plan:
        if sums and bucket.rule.takes_part(bucket.h):
            new, bucket.registers = told(bucket.rule, bucket.h, bucket.registers, sums)
            bucket.s = renewed(bucket.s, new, computed(bucket.rule, bucket.tasks[0].updated.dtype))


def shared_after(rule: type[Rule], h: Hypers, before: Mapping[str, Any], found: Totals) -> Registers:
    """Return the registers that all parameters share after a step, those that the first group which takes part says."""
    sums, registers = added(found[i] for i in sorted(found)), first_registers(rule, rule.registers(h), before)
    return told(rule, h, registers, sums)[1] if sums else registers
