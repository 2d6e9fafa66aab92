"""What a kernel file says of its rule: the fields of its record, its hyperparameters and its state arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..numerics.codes import parts_of
from ..step.rule import Rule, function_of, has_own, module_of


@dataclass(frozen=True)
class Kernel:
    """The kernels of one rule.

    Attributes:
        stem: the file is ``kernels/<stem>.cu``.
        name: what the names of its entries begin with.
        record: the names of the scalars of a step, in the order of the struct.
        hypers: the names of the hyperparameters, in the order of the struct, with the number of values of each.
        state: the names of the state arrays, in the order in which the kernel takes them.
        sums: how many sums over elements a step needs, if the file is of those that ``harness/summed.cuh`` serves.
        sums_over_all: how many sums over all parameters it needs.
        numbers: how many of the state arrays, the last, are one number each.
        only_read: the names of those behind them that it reads and does not write.
        coded: whether state may be kept in 8 bits.
        masks_sums: whether those sums are of directions that a cautious step masks.
        cautious: whether its steps are, which ``harness/cautious.cuh`` serves.
    """

    stem: str
    name: str
    record: tuple[str, ...]
    hypers: tuple[tuple[str, int], ...]
    state: tuple[str, ...]
    sums: int = 0
    sums_over_all: int = 0
    numbers: int = 0
    only_read: tuple[str, ...] = ()
    coded: bool = False
    masks_sums: bool = False
    cautious: bool = False

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the state arrays in a kernel's table: after codes the scales and the table of each."""
        parts = (part for name in self.state for part in parts_of(name)) if self.coded else ()
        return (*self.state, *parts)


def kernel_of(rule: type[Rule]) -> Kernel | None:
    """Return the kernels of a rule, None if there are none; a preset of another rule has that one's."""
    if not rule.has_kernels:
        return None
    owner = function_of(rule.update) if has_own(rule, "update") else rule
    own = (rule.measure, rule.sums, rule.measured, rule.sums_over_all, rule.encode, rule.decode)
    if not (_is_ours(owner.__module__) and _are_ours(rule.update, *own)):
        return None
    stem = owner.__module__.rpartition(".")[2]
    kernel = _read(stem, owner.__qualname__.partition(".")[0])
    return replace(kernel, cautious=True) if kernel and rule.is_cautious else kernel


def counts(rule: type[Rule]) -> bool:
    """Tell whether the kernels of a rule, if there are some, can compute the scalars of its steps."""
    return _are_ours(rule.scalars, rule.advance, rule.registers)


def _are_ours(*methods: Any) -> bool:
    return all(map(_is_ours, map(module_of, methods)))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __package__.partition(".")[0]


@cache
def _read(stem: str, name: str) -> Kernel | None:
    source = Path(import_module("refoptim.kernels").__path__[0], f"{stem}.cu")
    if not source.is_file():
        return None
    _, _, text = source.read_text(encoding="utf-8").partition(f"struct {name} ")
    record, hypers = _body(text, "Record"), _body(text, "Hypers")
    update = re.search(r"void\s+update\(\s*const (?:Record<T>|R)& s, X& p, X g(.*?)\) {", text, re.DOTALL)
    state = tuple(re.findall(r"X& (\w+?)_?\b", update[1] if update else ""))  # one that is called s is s_ there
    entries = re.search(
        rf"^(?:ENTRIES|SUMMED|(CODED)_ENTRIES)\(\w+, {name}, (\d+)(?:, (\d+), (\d+))?\)", text, re.MULTILINE
    )
    if entries and int(entries[2]) != len(state):
        raise RuntimeError(f"{source.name}: {name} has {entries[2]} state arrays, but its update takes {len(state)}")
    over_all = re.search(rf"^OVER_ALL\(\w+, {name}, \d+, (\d+)\)", text, re.MULTILINE)
    measured = re.search(r"void\s+measured\((.*?)\) {", text, re.DOTALL)
    numbers = re.findall(r"double& (\w+)", measured[1] if measured else "")
    return Kernel(
        stem=stem,
        name=name.lower(),
        record=tuple(re.findall(r"(\w+)[,;]", record)),
        hypers=tuple((x, int(n or 1)) for x, n in re.findall(r"(\w+)(?:\[(\d+)\])?[,;]", hypers)),
        state=(*state, *numbers),
        sums=int((entries and entries[3]) or 0),
        sums_over_all=int(over_all[1]) if over_all else 0,
        numbers=len(numbers),
        only_read=tuple(re.findall(r"X (\w+)", update[1])) if update and entries else (),
        coded=bool(entries and entries[1]),
        masks_sums=f"\nCAUTIOUS_SUMS({name.lower()}, {name}, " in text,
    )


def _body(text: str, struct: str) -> str:
    found = re.search(rf"struct {struct} {{(.*?)}};", text, re.DOTALL)
    return found[1] if found else ""
