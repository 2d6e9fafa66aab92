"""The page of ports, rule by rule: what ``docs/check/others.md`` found in each library, turned around."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import md
from refoptim.conformance.spec import SCHEDULERS

from refoptim.commands.describe import optimizers, stem

FOUND = Path(__file__).parents[1] / "check" / "others.md"

VERDICTS = ("same bits", "same rule", "another rule", "unknown")

INTRO = """Who has which rule, and how far it is from refoptim's: [the tables of each library](../check/others.md),
turned around. Those say in how many cases a library agrees, and to how many units in the last place; "same rule" is the
same but for rounding. What differs stands in parentheses, under names that
[the dialects](index.md#what-the-differences-are) explain, and for schedules [their page](../check/schedules.md).
Where it is `StepShared` alone, steps are counted per group, and results are the same while every parameter has a
gradient in every step."""

NOBODY = "None of the tables has {}."


class Found(NamedTuple):
    """What was found: in which library, of which optimizer or schedule, the verdict, and what differs."""

    owner: str
    name: str
    verdict: str
    differs: str


def found() -> list[Found]:
    """Return all rows of all libraries."""
    sections = re.split(r"^## ", FOUND.read_text(encoding="utf-8"), flags=re.M)[1:]
    rows = [(text.partition("\n")[0], *re.findall(r"^\| (\w+) \| (.*?) \| (.*?) \|", text, re.M)) for text in sections]
    return [Found(owner, *row) for owner, *own in rows for row in own]


def page() -> str:
    """Return the page."""
    names = {x.__name__: f"../optimizers/{stem(x)}.md" for x in optimizers()}
    schedules = {name: f"../lr_scheduler/{stem(x)}.md" for name, x in SCHEDULERS.items()}
    parts = [section("Optimizers", names), section("Schedules", schedules)]
    return md.wide(md.sections("How far others are, rule by rule", INTRO, *parts))


def section(title: str, pages: dict[str, str]) -> str:
    """Return a table with a row for each rule, and the names of those that nobody else was asked for."""
    every = found()
    rows = {name: [x for x in every if x.name == name] for name in pages}
    cells = [(f"[{name}]({pages[name]})", *by_verdict(own)) for name, own in rows.items() if own]
    alone = [name for name, own in rows.items() if not own]
    return md.section(title, md.table(("", *VERDICTS), cells), NOBODY.format(", ".join(alone)) if alone else "")


def by_verdict(rows: Iterable[Found]) -> list[str]:
    """Return the libraries under each verdict."""
    rows = list(rows)
    return [", ".join(told(x) for x in rows if x.verdict == verdict) or "–" for verdict in VERDICTS]


def told(row: Found) -> str:
    """Return the name of a library, as a link to what was found in it, and what differs there."""
    link = f"[{row.owner}](../check/others.md#{row.owner.replace('_', '-')})"
    return link if row.differs == "–" else f"{link} ({row.differs})"
