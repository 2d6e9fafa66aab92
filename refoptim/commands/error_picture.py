"""Draws errors: a panel for each storage type, a line for each optimizer, a mark for each implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..conformance.accuracy import Row
from ..formats.visible import visible
from .drawing import figure

MARKS = "os^vD<>Xph*"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw mean errors as marks, and from each a line to the largest; the same rows give the same bytes.

    Raises:
        ValueError, ImportError: as ``drawing.figure``.
    """
    storages, optimizers, names = (_distinct(rows, key) for key in ("storage", "optimizer", "implementation"))
    columns = min(2, len(storages))
    lines = -(-len(storages) // columns)
    height = 0.8 + lines * (0.7 + 0.3 * len(optimizers))
    with figure(path, 1.5 + 4 * columns, height) as picture:
        panels = picture.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for axes, storage in zip(panels, storages, strict=False):
            _panel(axes, storage, [x for x in rows if x.storage == storage], optimizers, names)
        for axes in panels[len(storages) :]:
            axes.set_visible(False)
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], **_mark(i)) for i in range(len(names))]
        picture.legend(
            handles, [*map(visible, names)], loc="outside upper center", ncols=4, frameon=False, fontsize="small"
        )


def _distinct(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, key) for row in rows))


def _mark(i: int) -> dict[str, Any]:
    return {"color": f"C{i % 10}", "marker": MARKS[i % len(MARKS)], "markersize": 4, "linewidth": 0.8}


def _panel(axes: Any, storage: str, rows: Sequence[Row], optimizers: Sequence[str], names: Sequence[str]) -> None:
    """Draw one storage type; an error that is infinite stands at the right edge."""
    for row in rows:
        i = names.index(row.implementation)
        y = optimizers.index(row.optimizer) + 0.8 * ((i + 0.5) / len(names) - 0.5)
        if math.isfinite(row.mean_ulp):
            axes.plot([row.mean_ulp, row.largest_ulp], [y, y], markevery=[0], **_mark(i))
        else:
            axes.annotate("∞", (1, y), xycoords=("axes fraction", "data"), color=f"C{i % 10}", ha="right", va="center")
    axes.set_xscale("log")
    axes.set_yticks(range(len(optimizers)), optimizers, fontsize="small")
    axes.set_ylim(len(optimizers) - 0.5, -0.5)
    axes.set_title(storage, fontsize="medium")
    axes.set_xlabel("mean error, and largest, in ULP", fontsize="small")
    axes.grid(axis="x", alpha=0.3)
