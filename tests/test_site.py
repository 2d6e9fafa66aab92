"""The site: its pages are made of the code, it is built without a warning, and its links lead somewhere."""

from __future__ import annotations

import fcntl
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest

import refoptim
from refoptim.commands import describe
from refoptim.lr_scheduler import WIDER
from refoptim.step.hyper import declared
from refoptim.step.rule import has_sums, has_sums_over_all

NEEDED = ("sphinx", "myst_parser", "pydata_sphinx_theme", "latex2mathml", "matplotlib")
MISSING = [name for name in NEEDED if find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the site needs {', '.join(MISSING)}: pip install -e '.[docs]'")

DOCS = Path(__file__).parents[1] / "docs"
OPTIMIZERS = {cls.__name__: cls for cls in describe.optimizers()}
SCHEDULERS = [cls.__name__ for cls in describe.schedulers()] + ["SWALR"]
PROGRAMS = ("Adafactor", "ConjugateGradient", "LBFGS", "Muon")


@pytest.fixture(scope="module", autouse=True)
def extensions() -> Iterator[None]:
    """Let the extensions of the site be imported."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield
    sys.path.remove(str(DOCS / "_ext"))


def extension(name: str) -> Any:
    return importlib.import_module(name)


# Formulas.

EXPRESSIONS = {
    "g + weight_decay * p": r"g + \text{weight\_decay} \cdot p",
    "a - (b - c)": r"a - (b - c)",
    "a - b - c": r"a - b - c",
    "a * (b * c)": r"a \cdot (b \cdot c)",
    "a * b * c": r"a \cdot b \cdot c",
    "(a * b) * c": r"(a \cdot b) \cdot c",
    "p + ((1 - beta2) * g) * g": r"p + ((1 - \beta_{2}) \cdot g) \cdot g",
    "(a + b) - c": r"(a + b) - c",
    "(a / b) * c": r"\frac{a}{b} \cdot c",
    "a * (b / c)": r"a \cdot \frac{b}{c}",
    "a * b / c": r"\frac{a \cdot b}{c}",
    "-(a + b)": "-(a + b)",
    "(a / b) ** c": r"\left( \frac{a}{b} \right)^{c}",
    "sqrt(1 - beta2**k) + eps": r"\sqrt{1 - \beta_{2}^{k}} + \epsilon",
    "k**beta2_decay": r"k^{\text{beta2\_decay}}",
    "eta_min + T_max": r"\eta_{\text{min}} + T_{\text{max}}",
    "max(|g|, etas[1])": r"\text{max}(\left| g \right|, \text{etas}_{1})",
    "(g . y) / (d' . y)": r"\frac{\langle g, y\rangle }{\langle d', y\rangle }",
    "X @ X.T": r"X \, X^{\top}",
    "e // step_size": r"\left\lfloor \frac{e}{\text{step\_size}} \right\rfloor",
    "a >= 1e-10": r"a \ge 10^{-10}",
    "2.5e-10": r"2.5 \cdot 10^{-10}",
    "norm(g, axis=-1)": r"\text{norm}(g, \text{axis} = -1)",
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_keep_their_order(text: str) -> None:
    assert extension("formula").latex(text) == EXPRESSIONS[text]


@pytest.mark.parametrize("text", ["a step along d", "a +", "f(x)(y)", "a % b % 'c'", "[a, b]", "a if"])
def test_what_is_no_expression_is_left(text: str) -> None:
    assert extension("formula").latex(text) is None


def test_a_line_has_sides_and_remarks() -> None:
    formula = extension("formula")
    (line,) = formula.lines("exp_avg    = lerp(exp_avg, g, 1 - beta1)     if amsgrad,  while mu = 1;")
    assert line.main == (r"\text{exp\_avg}", r"\text{lerp}(\text{exp\_avg}, g, 1 - \beta_{1})", "")
    assert line.remarks == [("", "", "if amsgrad,"), ("", r"\mu = 1;", "while")]
    (line,) = formula.lines("    X = X transposed back")
    assert (line.indent, line.main) == (4, ("X", "", "X transposed back"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_formulas_of_optimizers_become_mathematics(name: str) -> None:
    """A line is translated unless it holds words alone."""
    formula, text = extension("formula"), describe.text(OPTIMIZERS[name]).formula
    written = [line for line in text.splitlines() if line.strip()]
    words = [line for line in written if re.fullmatch(r"repeat .*:", line)]
    assert formula.lost(text) == []
    assert formula.count(text) == len(written) - len(words) >= 3


@pytest.mark.parametrize("name", SCHEDULERS)
def test_formulas_of_schedulers_become_mathematics(name: str) -> None:
    text = describe.text(known_schedulers()[name]).formula
    assert text and extension("formula").lost(text) == []


def known_schedulers() -> dict[str, Any]:
    spec = importlib.import_module("refoptim.conformance.spec")
    return dict(spec.SCHEDULERS)


def test_a_formula_that_is_not_translated_is_found() -> None:
    assert extension("formula").lost("p = p - lr * * g\n\nx = y  if a +* b") == ["p = p - lr * * g"]


# Pages.


@cache
def pages(maker: str) -> dict[str, str]:
    return dict(extension(maker).pages())


def page(maker: str, name: str) -> str:
    return pages(maker)[f"{name}.md"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_page_of_an_optimizer_is_whole(name: str) -> None:
    cls = OPTIMIZERS[name]
    text = page("optimizer_pages", describe.stem(cls))
    found = describe.text(cls)
    assert all(f"\n{part}\n" in text for part in (found.paragraphs[0], found.formula))
    assert found.state.removeprefix("State: ") in text and found.sources.partition(": ")[2] in text
    for key, hyper in declared(cls).items():
        if key in cls.__init__.__annotations__:
            assert f"| `{key}` | " in text and hyper.doc in text
    titles = re.findall(r"^## (.*)", text, re.MULTILINE)
    order = ["Formula", "Use", "Hyperparameters", "State", "The twins", "What is promised", "Golden cases", "Papers"]
    assert [title for title in titles if title != "Peers that differ"] == order


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twins_stand_side_by_side(name: str) -> None:
    twins = extension("twins")
    pairs = {pair.name: pair for pair in twins.pairs(OPTIMIZERS[name])}
    if not OPTIMIZERS[name].has_kernels:
        assert {"scalars", "measure", "update"} <= {*pairs} and not [x for x in pairs.values() if x.twin]
        return
    assert [pair for pair in pairs.values() if pair.twin]
    if "update" in vars(twins.rule(OPTIMIZERS[name])):
        assert pairs["update"].room.startswith("def update(cls, s: Record")
        assert re.search(r"static void\s+update\(\s*const (Record<T>|R)& s", pairs["update"].twin)
    if has_sums(OPTIMIZERS[name]):
        assert "static void measured(Record<double>& s" in " ".join(pairs["measured"].twin.split())
        assert re.search(r"static Several<X, \d>\s+sums\(", pairs["sums"].twin)
    elif has_sums_over_all(OPTIMIZERS[name]):
        assert re.search(r"static Several<X, \d>\s+sums_over_all\(", pairs["sums_over_all"].twin)
        assert not pairs["measured_over_all"].twin
    elif name not in PROGRAMS:
        assert pairs["scalars"].room.startswith("def scalars(cls, h: Hypers")
        assert "static Record<double> scalars(const Hypers& h" in pairs["scalars"].twin
        assert all(pair.twin and pair.twin.rstrip().endswith("}") for pair in pairs.values())
    assert bool(twins.program(OPTIMIZERS[name])) == (name in PROGRAMS)


def test_a_preset_shows_the_room_of_its_rule() -> None:
    text = page("optimizer_pages", "adamw")
    assert "decoupled_weight_decay=True)" in text and "def update(cls, s: Record" in text and "struct" not in text


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_example_of_an_optimizer_runs(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(extension("optimizer_pages").example(OPTIMIZERS[name]), scope)
    w = np.asarray(getattr(scope["w"], "data", scope["w"]))
    start = np.array([[1.0, -2.0], [0.5, 4.0], [3.0, 3.0]])[: len(w)]
    assert np.sum(w**2) < np.sum(start**2)


def test_promises_are_told_as_they_are() -> None:
    kinds = {name: extension("optimizer_pages").promised(cls)[0] for name, cls in OPTIMIZERS.items()}
    assert {name: kind for name, kind in kinds.items() if kind != "EXACT"} == {
        "Adafactor": "TREE",
        "LBFGS": "TREE",
        "ConjugateGradient": "TREE",
        "Muon": "CLOSE",
        "SOAP": "CLOSE",
        **dict.fromkeys(["LAMB", "LARS", "MARS", "NovoGrad", "Prodigy", "StableAdamW"], "TREE"),
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_golden_cases_are_found_by_the_command(name: str) -> None:
    text = page("optimizer_pages", describe.stem(OPTIMIZERS[name]))
    cases = extension("optimizer_pages").own_cases(OPTIMIZERS[name])
    named = re.findall(r"^refoptim conformance --pattern '(\S+)'$", text, re.MULTILINE)
    assert len(named) == bool(cases)
    assert all(fnmatch(case.id, named[0]) and f"| `{case.id}` | {case.comment} | " in text for case in cases)


def test_peers_that_differ_are_named_with_their_reason() -> None:
    text = page("optimizer_pages", "nadam").partition("## Peers that differ")[2]
    assert "| optax | `MomentumDecayIgnored`, `MuProductInDouble` | The momentum has no schedule (optax)" in text
    assert "Peers" not in page("optimizer_pages", "sparse_adam")


def test_every_scheduler_has_a_page_and_a_picture() -> None:
    commands, gallery = extension("scheduler_pages").COMMANDS, page("scheduler_pages", "index")
    assert set(commands) == set(known_schedulers()) == set(SCHEDULERS)
    for name, cls in known_schedulers().items():
        text = page("scheduler_pages", describe.stem(cls))
        assert f"]({name}.svg)" in text and f"-o {name}.svg" in text
        assert f"[![{name}]({name}.svg) {name}]({describe.stem(cls)}.md)" in gallery
        assert all(f"| `{x.name}` | " in text for x in describe.arguments(cls))


def test_the_index_says_which_schedulers_are_torchs() -> None:
    torchs, _, others = page("scheduler_pages", "index").partition("## Schedules that torch does not have")
    for name, cls in known_schedulers().items():
        link = f" {name}]({describe.stem(cls)}.md)"
        assert (link in torchs, link in others) == (name not in WIDER, name in WIDER)
        assert (f"| [{name}]({describe.stem(cls)}.md) | " in others) == (name in WIDER)


def test_the_index_says_which_optimizers_are_torchs() -> None:
    torchs, _, others = page("optimizer_pages", "index").partition("## Optimizers that torch does not have")
    for name, cls in OPTIMIZERS.items():
        link = f"[{name}]({describe.stem(cls)}.md)"
        assert (f"- {link}: " in torchs, f"| {link} | " in others) == (cls.of_torch, not cls.of_torch)
    assert " | lion-pytorch's `Lion` |" in others and re.search(r"\(conjugate_gradient.md\) \| .* \| – \|", others)


def test_every_verdict_on_a_library_is_found_rule_by_rule() -> None:
    others = (DOCS / "check" / "others.md").read_text(encoding="utf-8")
    text = page("dialect_pages", "ports")
    (lion,) = re.findall(r"^\| \[Lion\]\(../optimizers/lion.md\) \| (.*) \|$", text, re.MULTILINE)
    same, rule, another, unknown = lion.split(" | ")
    assert same == "[lion_pytorch](../check/others.md#lion-pytorch)" and another == unknown == "–"
    assert "[timm](../check/others.md#timm)" in rule and "[keras](../check/others.md#keras)" in rule
    assert "[sklearn](../check/others.md#sklearn) (`EpsUnscaled`)" in text
    libraries = re.findall(r"^## (\S+)$", others, re.MULTILINE)
    rows = re.findall(r"^\| \w+ \| (?:same|another|unknown)", others, re.MULTILINE)
    assert text.count("](../check/others.md#") == len(rows) > 5 * len(libraries)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_example_of_a_scheduler_runs(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(extension("scheduler_pages").example(name), scope)
    assert scope["scheduler"].last_epoch == 50
    assert type(scope["scheduler"]).__name__ == name


# The site as it is built.


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Build the site of a copy of its sources, once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site.log").exists():
            shutil.copytree(DOCS, shared / "docs", ignore=shutil.ignore_patterns("optimizers", "lr_scheduler", "api"))
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", shared / "docs", shared / "site"]
            done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
            (shared / "site.log").write_text(f"{done.returncode}\n{done.stderr}", encoding="utf-8")
    code, _, said = (shared / "site.log").read_text(encoding="utf-8").partition("\n")
    assert code == "0", said
    return shared / "site"


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        if tag == "a" and found.get("href"):
            self.links.add(found["href"] or "")
        elif tag != "a":
            self.loaded |= {found[key] or "" for key in ("src", "href") if found.get(key)}


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    pages = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {path.resolve(): Page(path) for path in pages}


def test_every_public_name_has_an_anchor(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    anchors = {name for kind in inventory.data.values() for name in kind}
    api = extension("api_pages")
    public = [f"{api.home(module, name)}.{name}" for module in api.modules() for name in api.names(module)]
    methods = [f"refoptim.Optimizer.{name}" for name in vars(refoptim.Optimizer) if not name.startswith("_")]
    assert len(public) >= 80 and len(methods) > 8
    more = ["refoptim_pytest.refoptim_check", "refoptim.conformance.adapters.Adapter.make", "refoptim.Parameter.shape"]
    assert not {*public, *methods, *more} - anchors


def test_links_within_the_site_lead_somewhere(built: dict[Path, Page]) -> None:
    lost = []
    for path, found in built.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = built[target].ids if target in built else None
            if not target.exists() or (known is not None and parts.fragment and parts.fragment not in known):
                lost.append(f"{path.name}: {link}")
    assert len(built) > 50 and not lost


def test_pages_load_nothing_from_elsewhere(built: dict[Path, Page]) -> None:
    loaded = [(path, link) for path, found in built.items() for link in found.loaded]
    assert len(loaded) > 100
    assert not [(path.name, link) for path, link in loaded if urlsplit(link).netloc]
    assert not [(path.name, link) for path, link in loaded if not (path.parent / unquote(urlsplit(link).path)).exists()]


def test_the_pages_show_mathematics_pictures_and_twins(site: Path) -> None:
    for cls in OPTIMIZERS.values():
        text = (site / "optimizers" / f"{describe.stem(cls)}.html").read_text(encoding="utf-8")
        assert text.count("<math ") >= extension("formula").count(describe.text(cls).formula)
        assert ('class="twins' in text) == cls.has_kernels and "Annotated" not in text and "<merror" not in text
    for name in SCHEDULERS:
        picture = ElementTree.parse(site / "_images" / f"{name}.svg").getroot()
        assert name in "".join(picture.itertext())


def test_tables_of_differences_become_cards(site: Path) -> None:
    text = (site / "torch" / "differences.html").read_text(encoding="utf-8")
    written = (DOCS / "torch" / "differences.md").read_text(encoding="utf-8").count("| torch 2.13 | refoptim |")
    assert text.count("cards differences") == text.count("<table") == written >= 5
    assert "cards differences" not in (site / "check" / "others.html").read_text(encoding="utf-8")


def test_search_works_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "optimizers/adafactor" in index and "decoupled_weight_decay" in index
