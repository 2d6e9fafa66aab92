"""Tables of differences from torch, whose rows are cards on narrow screens: the last column would be out of sight."""

from __future__ import annotations

from typing import Any

from docutils import nodes

COLUMNS = ["torch 2.13", "refoptim"]
"""The titles of such a table, beside what differs; the style sheet writes them before the cells of a card."""


def titles(table: nodes.table) -> list[str]:
    """Return the titles of a table's columns."""
    return [entry.astext() for head in table.findall(nodes.thead) for entry in head.findall(nodes.entry)]


def mark(_: Any, document: nodes.document) -> None:
    """Put each table of differences into a container that the style sheet knows."""
    for table in list(document.findall(nodes.table)):
        if titles(table)[1:] == COLUMNS:
            cards = nodes.container("", classes=["cards", "differences"])
            table.replace_self(cards)
            cards += table


def setup(app: Any) -> dict[str, bool]:
    """Run after a page was read."""
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
