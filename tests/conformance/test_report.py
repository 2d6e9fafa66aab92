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
    assert not [a for _, a in tags if set(a) & {"src", "onload"}]
    links, places = ({a[key] for _, a in tags if key in a} for key in ("href", "id"))
    assert links and {str(link)[1:] for link in links if link in {f"#{place}" for place in places}}
    assert all(str(link).startswith("#") for link in links)
    assert "http" not in text
    assert "url(" not in text
    assert "light dark" in text
    assert cases.flags()["DecoupledDecay"].partition(" ")[0] in text
    points = [a["points"] or "" for tag, a in tags if tag == "polyline"]
    assert len([tag for tag, _ in tags if tag == "svg"]) == 1, "one picture for an optimizer"
    assert len(points) == 2
    assert points[0].startswith("288.0,"), "step 7 of 20, on a logarithmic axis from 36 to 424; nothing differs before"
    assert 0 < len(points[0].split()) <= CASES["sgd-plain"].steps - 6
    assert text.index("0 of 2 promises hold") < text.index("Verdicts") < text.index("<table>")


def test_a_diagnosis_stands_where_its_optimizer_does() -> None:
    found = sample()
    known = {(found[0].implementation, "SGD"): report.Diagnosis("its last bit is <late>", ("Late",))}
    assert "its last bit is &lt;late&gt;" in report.page(found, {}, diagnoses=known)
    assert "its last bit is &lt;late&gt;" in report.junit(found, known)
    assert "late&gt;" not in report.page(found, {}) + report.junit(found)


def test_a_cell_says_what_came_of_how_many() -> None:
    blank = Result("x", "SGD", "sgd-plain", "float32", "reference", run.DEVIATES)
    a = replace(blank, max_ulp=3, ulps=(3,), steps=(1,))
    held, absent = replace(blank, outcome=run.HOLDS, exact=True), replace(blank, outcome=run.NOT_RUN)
    raised, fails = replace(blank, outcome=run.ERROR), replace(a, outcome=run.FAILS)
    assert report.Cell([held, absent]).text == "EXACT"
    assert report.Cell([held, replace(a, outcome=run.MEASURED)]).text == "3 ULP"
    assert report.Cell([absent]).text == run.NOT_RUN
    assert report.Cell([held, raised, raised, absent]).text == "2 of 3 raised"
    assert report.Cell([a, held, raised, fails]).text == "1 of 4 raised, 1 of 4 fail, 1 of 4 deviate"


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
