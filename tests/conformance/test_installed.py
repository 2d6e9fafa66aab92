"""How far torch as installed is from refoptim: the table of the page on goldens is what the goldens say."""

from __future__ import annotations

import json
import re
from collections import defaultdict

from click.testing import CliRunner

from helpers import ROOT
from refoptim.commands.main import main

PAGE = (ROOT / "docs" / "contract" / "goldens.md").read_text(encoding="utf-8")


def table() -> list[str]:
    """Return a row for each optimizer: equal cases of all, and the largest relative difference of any number."""
    outcome = CliRunner().invoke(main, ["conformance", "--engine", "numpy", "--json"])
    found: dict[str, dict[str, list[tuple[bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for x in json.loads(outcome.stdout)["results"]:
        if (
            x["golden"] == "torch-installed"
            and not x["case"].endswith("-edges")
            and x["dtype"] in ("float32", "float64")
        ):
            found[x["optimizer"]][x["dtype"]].append((x["exact"], x["relative"]))
    pairs = {name: (x["float32"], x["float64"]) for name, x in found.items() if x["float32"]}
    return [f"| {name} | {cell(narrow)} | {cell(wide)} |" for name, (narrow, wide) in pairs.items()]


def cell(runs: list[tuple[bool, float]]) -> str:
    return f"{sum(exact for exact, _ in runs)} of {len(runs)}, {max(relative for _, relative in runs):.0e}"


def test_the_table_of_torch_as_installed() -> None:
    rows = re.findall(r"^\| \w+ \| \d+ of .*$", PAGE, re.MULTILINE)
    computed = table()
    assert len(rows) >= 14
    assert rows == computed, "\n".join(computed)
