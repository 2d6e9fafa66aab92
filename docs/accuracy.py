"""Write the tables of docs/contract/accuracy.md: refoptim accuracy --json | python docs/accuracy.py"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "contract/accuracy.md"

BEGIN, END = "<!-- begin of the tables -->", "<!-- end of the tables -->"

ULP = "Mean and, in parentheses, largest error in ULP"
WAY = "Largest error relative to the distance travelled"


def tables(document: dict[str, Any]) -> str:
    """Return both tables in Markdown."""
    rows = document["rows"]

    def ulp(row: dict[str, Any]) -> str:
        return f"{number(row['mean_ulp'])} ({number(row['largest_ulp'])})"

    def way(row: dict[str, Any]) -> str:
        return number(row["relative"])

    return f"## {ULP}\n\n{table(rows, ulp)}\n\n## {WAY}\n\n{table(rows, way)}"


def table(rows: list[dict[str, Any]], cell: Callable[[dict[str, Any]], str]) -> str:
    """Return a table with a line for each optimizer and storage type and a column for each implementation."""
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        lines.setdefault((row["optimizer"], row["storage"]), {})[row["implementation"]] = cell(row)
    text = [["optimizer", "storage", *names], ["---"] * (2 + len(names))]
    text += [[*key, *(cells.get(name, "") for name in names)] for key, cells in lines.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in text)


def number(x: float | str) -> str:
    """Return a number in three digits."""
    return f"{float(x):.3g}".replace("inf", "∞")


def main() -> None:
    """Put the tables where the page has them."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n\n{tables(json.load(sys.stdin))}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
