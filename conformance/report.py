"""A report of a run as one HTML page that needs nothing else, and as JUnit XML.

The page holds the matrix, each case that parts from its golden with a picture of its error over the steps, the flags
that name known deviations, and the versions. Every text is escaped; there is no script and nothing is loaded.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from refoptim.formats.files import replace, require_folder
from refoptim.formats.visible import visible

from .cases import flags
from .run import DEVIATES, ERROR, FAILS, HOLDS, MEASURED, NOT_RUN, PASSES, Result, in_ulps

Versions = Mapping[str, Mapping[str, str]]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; color: CanvasText; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); padding: .2rem .8rem; text-align: left; }
.good { color: light-dark(#16702c, #6fd08a); } .bad { color: light-dark(#b3121d, #ff8a8f); font-weight: 600; }
.known { color: light-dark(#8a5a00, #e6b450); } .none { opacity: .55; }
svg { display: block; margin: .4rem 0; } svg text { fill: currentColor; font-size: 11px; }
.line { fill: none; stroke: currentColor; stroke-width: 1.5; } .axis { stroke: currentColor; opacity: .35; }
section { margin-bottom: 1.4rem; } h3 { margin-bottom: .2rem; } code { font-size: 13px; }
"""

CLASSES = {HOLDS: "good", MEASURED: "", DEVIATES: "known", FAILS: "bad", PASSES: "known", NOT_RUN: "none", ERROR: "bad"}

WIDTH, HEIGHT, MARGIN = 460, 120, 36


class Cell:
    """All results of one optimizer in one storage type on one implementation against one golden."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results
        order = (ERROR, FAILS, PASSES, DEVIATES, MEASURED, HOLDS, NOT_RUN)
        self.outcome = min((r.outcome for r in results), key=order.index)
        ran = [r for r in results if r.ran]
        chosen = [r for r in ran if r.outcome == self.outcome] or ran
        self.worst = max(chosen, key=lambda r: (not r.exact, r.max_ulp), default=results[0])

    @property
    def text(self) -> str:
        """EXACT, or the largest distance and where the worst case first parts."""
        if not self.worst.ran or self.worst.exact:
            return self.worst.distance
        first = f", from step {self.worst.first.step} of {self.worst.case}" if self.worst.first else ""
        here = self.worst.flags if self.worst.outcome == DEVIATES else ()
        elsewhere = {flag for r in self.results for flag in r.flags if r.outcome == DEVIATES} - set(here)
        flagged = f": {' + '.join(here)}" if here else ""
        return (
            self.worst.distance
            + first
            + flagged
            + (f"; elsewhere: {' + '.join(sorted(elsewhere))}" if elsewhere else "")
        )


def catches(result: Result) -> list[str]:
    """Return lines on the mistakes that a case is there to catch, where its promise is broken."""
    lines = [f"  {flag}: {meaning}" for flag, meaning in result.catches.items()]
    return ["this case catches:", *lines] if lines else []


def verdict(results: Iterable[Result]) -> str:
    """Say whether all promises hold, and how many do not."""
    broken = sum(not r.ok for r in results)
    if broken == 1:
        return "1 promise is broken"
    return f"{broken} promises are broken" if broken else "all promises hold"


def column(result: Result) -> str:
    """Name the column of a result: the implementation, and the golden if it is not refoptim's."""
    return result.implementation if result.golden == "reference" else f"{result.implementation} / {result.golden}"


def matrix(results: Iterable[Result]) -> tuple[list[str], dict[tuple[str, str], dict[str, Cell]]]:
    """Return the columns, and by optimizer and storage type the cells of a row."""
    grouped: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for r in results:
        grouped.setdefault((r.optimizer, r.dtype), {}).setdefault(column(r), []).append(r)
    columns = list(dict.fromkeys(name for row in grouped.values() for name in row))
    return columns, {key: {name: Cell(found) for name, found in row.items()} for key, row in grouped.items()}


def page(results: Sequence[Result], versions: Versions, command: str = "refoptim conformance") -> str:
    """Return the page."""
    kind = "good" if all(r.ok for r in results) else "bad"
    body = [
        f"<h1>Conformance</h1><p class='{kind}'>{verdict(results).capitalize()}.</p>",
        f"<p><code>{_text(command)}</code></p>",
        _versions(versions),
        "<h2>Optimizer × storage × implementation</h2>",
        _matrix(results),
        "<h2>Where runs part from the goldens</h2>",
        *(_section(r) for r in _notable(results)),
        _flags(results),
    ]
    head = f"<meta charset='utf-8'><title>refoptim conformance</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"


def _versions(versions: Versions) -> str:
    rows = [
        f"<li>{_text(name)}: {_text(', '.join(f'{key} {x}' for key, x in found.items()))}</li>"
        for name, found in versions.items()
    ]
    return f"<ul>{''.join(rows)}</ul>"


def _matrix(results: Iterable[Result]) -> str:
    columns, rows = matrix(results)
    head = "".join(f"<th>{_text(name)}</th>" for name in ("optimizer", "storage", *columns))
    lines = []
    for (optimizer, dtype), cells in rows.items():
        line = "".join(_cell(cells.get(name)) for name in columns)
        lines.append(f"<tr><td>{_text(optimizer)}</td><td>{_text(dtype)}</td>{line}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td class='none'></td>"
    return f"<td class='{CLASSES[cell.outcome]}'>{_text(cell.text)}</td>"


def _notable(results: Sequence[Result]) -> list[Result]:
    """Return what fails, then what deviates as known, then what was measured and differs."""
    order = [ERROR, FAILS, PASSES, DEVIATES, MEASURED]
    found = [r for r in results if r.outcome in order and not (r.outcome == MEASURED and r.exact)]
    return sorted(found, key=lambda r: order.index(r.outcome))


def _section(r: Result) -> str:
    name = _text(f"{r.case}, {r.dtype}, {column(r)}")
    title = f"{name}: <span class='{CLASSES[r.outcome]}'>{_text(r.outcome)}</span>"
    promise = f"Promised: {r.promise}. " if r.promise else ""
    lines = [f"{promise}Largest distance: {r.distance}."] if r.ran else []
    lines += [str(r.first)] if r.first else []
    lines += [r.reason] if r.reason else []
    text = "".join(f"<p>{_text(line)}</p>" for line in lines)
    meaning = _meanings({flag: flags()[flag] for flag in r.flags})
    caught = f"<p>This case catches:</p>{_meanings(r.catches)}" if r.catches else ""
    return f"<section><h3>{title}</h3>{text}{meaning}{caught}{picture(r)}</section>"


def _meanings(found: Mapping[str, str]) -> str:
    return "".join(f"<p><b>{_text(flag)}</b>: {_text(meaning)}</p>" for flag, meaning in found.items())


def picture(r: Result) -> str:
    """Draw the distance in ULP over the steps, on a logarithmic scale, as SVG."""
    if not r.ulps:
        return ""
    top = max(1.0, math.log2(max(r.ulps) + 1))
    across = (WIDTH - 2 * MARGIN) / max(1, r.steps[-1] - r.steps[0])
    heights = [HEIGHT - 20 - (HEIGHT - 34) * math.log2(ulp + 1) / top for ulp in r.ulps]
    places = [MARGIN + (step - r.steps[0]) * across for step in r.steps]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2'/>" for x, y in zip(places, heights, strict=True))
    base = HEIGHT - 20
    return (
        f"<svg role='img' aria-label='distance over steps' width='{WIDTH}' height='{HEIGHT}' fill='currentColor'>"
        f"<line class='axis' x1='{MARGIN}' y1='{base}' x2='{WIDTH - MARGIN}' y2='{base}'/>"
        f"<polyline class='line' points='{points}'/>{dots}"
        f"<text x='0' y='12'>{_text(in_ulps(max(r.ulps)))}</text><text x='0' y='{base}'>0</text>"
        f"<text x='{MARGIN}' y='{HEIGHT - 5}'>step {r.steps[0]}</text>"
        f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - 5}' text-anchor='end'>{r.steps[-1]}</text></svg>"
    )


def _flags(results: Iterable[Result]) -> str:
    used = sorted({flag for r in results for flag in r.flags})
    rows = "".join(f"<dt><b>{_text(flag)}</b></dt><dd>{_text(flags()[flag])}</dd>" for flag in used)
    return f"<h2>Flags</h2><dl>{rows}</dl>" if used else ""


def junit(results: Sequence[Result]) -> str:
    """Return the results as JUnit XML: a test case for each comparison."""
    failures, errors = (sum(r.outcome == outcome for r in results) for outcome in (FAILS, ERROR))
    skipped = sum(r.outcome == NOT_RUN for r in results)
    counts = {"tests": len(results), "failures": failures, "errors": errors, "skipped": skipped}
    attributes = {"name": "refoptim conformance", **{key: str(n) for key, n in counts.items()}}
    suite = ElementTree.Element("testsuite", attributes)
    for r in results:
        name = visible(f"{r.case}[{r.dtype}]")
        entry = ElementTree.SubElement(suite, "testcase", classname=visible(column(r)), name=name)
        tag = {FAILS: "failure", ERROR: "error", NOT_RUN: "skipped"}.get(r.outcome)
        if tag:
            ElementTree.SubElement(entry, tag, message=visible(r.reason or f"{r.distance}: {r.first}"))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    """Return a text as HTML."""
    return html.escape(visible(text))


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all, into a folder that exists."""
    require_folder(path)
    replace(path, text.encode())
