"""Writes the pages that are made of the code, before Sphinx reads them; what no longer exists is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import api_pages
import dialect_pages
import optimizer_pages
import scheduler_pages


def write(folder: Path, pages: dict[str, str]) -> None:
    """Make a folder hold these pages; those that are as they were are left alone, so that Sphinx need not read them."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")


def generate(app: Any) -> None:
    """Write all pages and draw all pictures."""
    for maker in (optimizer_pages, scheduler_pages, dialect_pages, api_pages):
        write(Path(app.srcdir) / maker.FOLDER, maker.pages())
    for name in scheduler_pages.COMMANDS:
        scheduler_pages.draw(name, Path(app.srcdir) / scheduler_pages.FOLDER)


def setup(app: Any) -> dict[str, bool]:
    """Run when a build begins."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
