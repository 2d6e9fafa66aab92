"""A report of a run as one HTML page that needs nothing else, and as JUnit XML.

The page holds a summary, a verdict for each optimizer, the matrix, for each optimizer a picture of its drift over the
steps and the cases that part, the flags that name known deviations, and the versions. Every text is escaped; there is
no script and nothing is loaded.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from refoptim.formats.files import replace, require_folder
from refoptim.formats.visible import visible

from .cases import Case, flags, load, stems
from .run import DEVIATES, ERROR, FAILS, HOLDS, MEASURED, NOT_RUN, PASSES, Result
from .verdicts import Verdict, verdicts

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


class Diagnosis(NamedTuple):
    """The name of a mistake: what is said of it, in some lines, its flags, and all that is known as JSON holds it."""

    text: str
    flags: tuple[str, ...] = ()
    details: Mapping[str, Any] = {}


Diagnoses = Mapping[tuple[str, str], Diagnosis]
"""What is known of the mistakes, by implementation and optimizer."""

NONE: Diagnoses = {}


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
        """What came of how many cases: EXACT or a distance only where none failed, deviated or raised."""
        ran = [r for r in self.results if r.outcome != NOT_RUN]
        if not ran:
            return NOT_RUN
        words = {ERROR: "raised", FAILS: "fail", PASSES: "pass unexpectedly", DEVIATES: "deviate"}
        counts = {word: sum(r.outcome == outcome for r in ran) for outcome, word in words.items()}
        told = [f"{n} of {len(ran)} {word}" for word, n in counts.items() if n]
        good = [r for r in ran if r.outcome in (HOLDS, MEASURED)]
        far = max(good, key=lambda r: (not r.exact, r.max_ulp), default=None)
        return ", ".join(told or ([far.distance] if far else []))


def about(case: str) -> list[str]:
    """Return lines on a case: what happens in it, and its hyperparameters; nothing for a schedule."""
    found = _case_of().get(case)
    if found is None:
        return []
    hyper = ", ".join(f"{name}={value}" for name, value in found.hyper.items()) or "all at their defaults"
    return [f"  {case}: {found.comment}", f"  hyperparameters: {hyper}"]


@cache
def _case_of() -> dict[str, Case]:
    return {case.id: case for stem in stems() for case in load(stem)}


def farthest(result: Result) -> str:
    """Return a line on the largest difference, where it is not the one that is shown."""
    return f"  farthest: {result.largest}" if result.largest and result.largest != result.shown else ""


def summary(results: Sequence[Result]) -> str:
    """Say how many promises hold, and what else came of the rest."""
    promised = [r for r in results if r.promise and r.ran]
    held = sum(r.outcome == HOLDS for r in promised)
    rest = Counter(r.outcome for r in results if r.outcome not in (HOLDS, FAILS))
    return ", ".join([f"{held} of {len(promised)} promises hold", *(f"{n} {outcome}" for outcome, n in rest.items())])


def verdict(results: Iterable[Result]) -> str:
    """Say whether all is well, and if not how many promises are broken."""
    broken = sum(not r.ok for r in results)
    if broken == 1:
        return "1 promise is broken"
    return f"{broken} promises are broken" if broken else "all is well: all promises hold"


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


def page(
    results: Sequence[Result], versions: Versions, command: str = "refoptim conformance", diagnoses: Diagnoses = NONE
) -> str:
    """Return the page: a summary, verdicts with links, the matrix, and a section and a picture for each optimizer."""
    kind = "good" if all(r.ok for r in results) else "bad"
    found = verdicts(results)
    body = [
        f"<h1>Conformance</h1><p class='{kind}'>{verdict(results).capitalize()}.</p>",
        f"<p>{_text(summary(results).capitalize())}.</p>",
        f"<p><code>{_text(command)}</code></p>",
        _versions(versions),
        "<h2>Verdicts</h2>",
        _index(found, diagnoses),
        "<h2>Optimizer × storage × implementation</h2>",
        _matrix(results),
        "<h2>Where runs part from the goldens</h2>",
        *(_chapter(v, results) for v in found),
        _flags(results),
    ]
    head = f"<meta charset='utf-8'><title>refoptim conformance</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"


def _anchor(v: Verdict) -> str:
    return _text(f"{v.implementation}-{v.optimizer}".replace(" ", "-"))


def _index(found: Sequence[Verdict], diagnoses: Diagnoses) -> str:
    """Return the verdicts as a list, each a link to its chapter, with the name of the mistake if it has one."""
    lines = []
    for v in (v for v in found if v.ran or v.raised or v.unlike):
        known = diagnoses.get((v.implementation, v.optimizer))
        named = f"<br>{_text(known.text)}" if known else ""
        title = _text(f"{v.optimizer}, {v.implementation}")
        lines.append(f"<li><a href='#{_anchor(v)}'>{title}</a>: {_text(v.line)}{named}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _chapter(v: Verdict, results: Sequence[Result]) -> str:
    """Return what parts of an optimizer on an implementation: one picture, and what is said of each case."""
    own = [r for r in results if (r.implementation, r.optimizer) == (v.implementation, v.optimizer)]
    notable = _notable(own)
    if not notable:
        return ""
    title = _text(f"{v.optimizer}, {v.implementation}")
    return f"<h3 id='{_anchor(v)}'>{title}</h3>{picture(own)}" + "".join(map(_section, notable))


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
    rows = {key: row for key, row in rows.items() if any(cell.outcome != NOT_RUN for cell in row.values())}
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
    lines += [str(r.shown)] if r.shown else []
    lines += [line for line in (farthest(r).strip(), r.reason, *map(str.strip, about(r.case))) if line]
    text = "".join(f"<p>{_text(line)}</p>" for line in lines)
    meaning = _meanings({flag: flags()[flag] for flag in r.flags})
    trace = f"<pre>{html.escape(visible(r.traceback, chr(10)))}</pre>" if r.traceback else ""
    return f"<section><h4>{title}</h4>{text}{meaning}{trace}</section>"


def _meanings(found: Mapping[str, str]) -> str:
    return "".join(f"<p><b>{_text(flag)}</b>: {_text(meaning)}</p>" for flag, meaning in found.items())


def picture(results: Sequence[Result]) -> str:
    """Draw the drift of all runs of an optimizer over the steps, both axes logarithmic, as one SVG."""
    drawn = [r for r in results if any(0 < x < math.inf for x in r.drift)]
    values = [x for r in drawn for x in r.drift if 0 < x < math.inf]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(r.steps[-1] if r.steps else len(r.drift) for r in drawn)
    base = HEIGHT - 20
    across = (WIDTH - 2 * MARGIN) / max(1e-9, math.log10(max(2, last)))
    up = (HEIGHT - 34) / max(1, high - low)
    lines = "".join(_curve(r, low, up, across) for r in drawn)
    return (
        f"<svg role='img' aria-label='drift over steps' width='{WIDTH}' height='{HEIGHT}' fill='currentColor'>"
        f"<line class='axis' x1='{MARGIN}' y1='{base}' x2='{WIDTH - MARGIN}' y2='{base}'/>{lines}"
        f"<text x='0' y='12'>1e{high}</text><text x='0' y='{base}'>1e{low}</text>"
        f"<text x='{MARGIN}' y='{HEIGHT - 5}'>step 1</text>"
        f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - 5}' text-anchor='end'>{last}</text></svg>"
    )


def _curve(r: Result, low: int, up: float, across: float) -> str:
    """Draw one run; steps without a difference, or with none that has a size, are left out."""
    steps = r.steps or range(1, len(r.drift) + 1)
    points = [
        f"{MARGIN + math.log10(max(1, step)) * across:.1f},{HEIGHT - 20 - (math.log10(x) - low) * up:.1f}"
        for step, x in zip(steps, r.drift, strict=True)
        if 0 < x < math.inf
    ]
    if not points:
        return ""
    x, y = points[0].split(",")
    title = f"<title>{_text(f'{r.case}, {r.dtype}')}</title>"
    line = f"<polyline class='line {CLASSES[r.outcome]}' points='{' '.join(points)}'>{title}</polyline>"
    return line + f"<circle cx='{x}' cy='{y}' r='2'/>"


def _flags(results: Iterable[Result]) -> str:
    used = sorted({flag for r in results for flag in r.flags})
    rows = "".join(f"<dt><b>{_text(flag)}</b></dt><dd>{_text(flags()[flag])}</dd>" for flag in used)
    return f"<h2>Flags</h2><dl>{rows}</dl>" if used else ""


def junit(results: Sequence[Result], diagnoses: Diagnoses = NONE) -> str:
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
            detail = ElementTree.SubElement(entry, tag, message=visible(r.reason or f"{r.distance}: {r.shown}"))
            known = diagnoses.get((r.implementation, r.optimizer)) if tag != "skipped" else None
            lines = [known.text if known else "", *about(r.case), r.traceback] if tag != "skipped" else []
            detail.text = "\n".join(visible(line, "\n") for line in lines if line)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    """Return a text as HTML."""
    return html.escape(visible(text))


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all, into a folder that exists."""
    require_folder(path)
    replace(path, text.encode())
