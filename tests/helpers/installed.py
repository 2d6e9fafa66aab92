"""How far torch as installed is from refoptim: the table of the page on goldens is what a run of the goldens says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from helpers import ROOT

PAGE = (ROOT / "docs" / "contract" / "goldens.md").read_text(encoding="utf-8")


def written() -> list[str]:
    """Return the rows of the page."""
    return re.findall(r"^\| \w+ \| \d+ of .*$", PAGE, re.MULTILINE)


def table(results: Iterable[dict[str, Any]]) -> list[str]:
    """Return a row for each optimizer: equal cases of all, and the largest relative difference of any number."""
    found: dict[str, dict[str, list[tuple[bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for x in results:
        plain = not x["case"].endswith("-edges") and x["dtype"] in ("float32", "float64")
        if x["implementation"] == "numpy" and x["golden"] == "torch-installed" and plain:
            found[x["optimizer"]][x["dtype"]].append((x["exact"], x["relative"]))
    pairs = {name: (x["float32"], x["float64"]) for name, x in found.items() if x["float32"]}
    return [f"| {name} | {cell(narrow)} | {cell(wide)} |" for name, (narrow, wide) in pairs.items()]


def cell(runs: list[tuple[bool, float]]) -> str:
    """Return how many are equal, and the largest difference."""
    return f"{sum(exact for exact, _ in runs)} of {len(runs)}, {max(relative for _, relative in runs):.0e}"
