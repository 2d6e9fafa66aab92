"""Reports of the conformance suite: a page that stands alone, and JUnit's XML."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from refoptim.conformance import cases, report, run
from refoptim.conformance.run import Result

from helpers.implementations import CASES, Late, named, results


class Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def sample() -> list[Result]:
    evil = "<script>alert(1)</script>"
    broken = [r for r in results(named(Late), "sgd-plain") if r.ran]
    error = Result(f'x"{evil}', evil, evil, "float32", "reference", run.ERROR, reason=f"\x00]]>{evil}")
    return [*broken, error, replace(broken[0], outcome=run.DEVIATES, flags=("DecoupledDecay",), reason="known")]


def test_the_page_stands_alone() -> None:
    text = report.page(sample(), {"<b>": {"x": "<i>"}}, "refoptim '<u>'")
    tags = Page(text).tags
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "img", "iframe", "b>", "i", "u"}
    assert not [a for _, a in tags if set(a) & {"src", "href", "onload"}]
    assert "http" not in text
    assert "url(" not in text
    assert "light dark" in text
    assert cases.flags()["DecoupledDecay"].partition(" ")[0] in text
    points = [a["points"] or "" for tag, a in tags if tag == "polyline"]
    assert len(points) == 2
    assert len(points[0].split()) == CASES["sgd-plain"].steps
    heights = [float(point.split(",")[1]) for point in points[0].split()]
    assert len(set(heights[:6])) == 1
    assert heights[0] > heights[6]


def test_a_cell_gives_the_flags_of_its_worst_case_and_of_the_others_apart() -> None:
    def deviates(ulp: int, *flags: str) -> Result:
        blank = Result("x", "SGD", "sgd-plain", "float32", "reference", run.DEVIATES)
        return replace(blank, max_ulp=ulp, ulps=(ulp,), steps=(1,), flags=flags)

    a, b, c = deviates(3, "A"), deviates(9, "B"), replace(deviates(99, "C"), outcome=run.FAILS, flags=())
    assert report.Cell([a, b]).text == "9 ULP: B; elsewhere: A"
    assert report.Cell([b]).text == "9 ULP: B"
    assert report.Cell([a, b, c]).text == "99 ULP; elsewhere: A + B"


def test_junit_counts() -> None:
    found = [*sample(), Result("x", "SGD", "sgd-plain", "float16", "reference", run.NOT_RUN, reason="no")]
    root = ElementTree.fromstring(report.junit(found).encode())
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == dict(
        tests="4", failures="1", errors="1", skipped="1"
    )
    assert [len(entry) for entry in root] == [1, 1, 0, 1]


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        report.write(path, "new \ud800")
    assert [x.name for x in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
