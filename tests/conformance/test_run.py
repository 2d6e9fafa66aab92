"""Runs of the conformance suite: what holds, what is broken, what deviates, and what is told of it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from refoptim.conformance import adapters, cases, promises, report, run
from refoptim.conformance.adapters import fused
from refoptim.conformance.adapters.keras import choose_backend
from refoptim.conformance.promises import CLOSE, EXACT, ULP
from refoptim.conformance.reference import Reference
from refoptim.conformance.run import Result

from helpers import ROOT
from helpers.implementations import Late, Loses, Plain, Prints, named
from helpers.kernels import NEEDS_KERNELS
from refoptim.engines import cuda, host

CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}


def results(name: str, pattern: str = "", dtypes: tuple[str, ...] = ()) -> list[Result]:
    return [result for job in run.jobs(name, pattern, dtypes) for result in run.perform(job)]


def goldens_of(found: list[Result]) -> dict[str, set[str]]:
    """Return by storage type the goldens that runs were compared with; all promises must hold."""
    assert [r for r in found if r.promise and r.outcome != run.HOLDS] == []
    return {dtype: {r.golden for r in found if r.dtype == dtype} for dtype in {r.dtype for r in found}}


FULL = {"torch-ieee", "torch-installed", "reference"}


@NEEDS_KERNELS
@pytest.mark.parametrize("pattern", ["adam-coupled", "sgd-plain", "adafactor-slow-lr", "muon-gaps", "sparse-adam-lr"])
def test_kernels_are_held_against_the_goldens(pattern: str) -> None:
    """In 16 bits, which kernels round once, against the reference that does so too."""
    for dtype, found in goldens_of(results("host", pattern)).items():
        assert found == ({"reference-store"} if dtype in ("float16", "bfloat16") else FULL), dtype


@NEEDS_KERNELS
def test_kernels_that_round_each_operation_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in their place does so."""
    monkeypatch.setattr(fused.Host, "make", Reference.make)
    found = results("host", "adam-coupled")
    broken = {r.dtype for r in found if r.outcome == run.FAILS}
    assert broken == {"float16", "bfloat16"} & {r.dtype for r in found}
    assert broken


@NEEDS_KERNELS
def test_wrong_kernels_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are launched, and do nothing."""
    monkeypatch.setattr(host.Host, "launch", lambda self, *x, **more: None)
    found = results("host", "adam-coupled", ("float32",))
    assert {r.outcome for r in found if r.promise} == {run.FAILS}


@NEEDS_KERNELS
@pytest.mark.parametrize("pattern", ["adam-coupled", "adagrad-rows", "asgd-"])
@pytest.mark.usefixtures("gpu")
def test_arrays_go_to_the_gpu_and_back(pattern: str) -> None:
    """The stand-in for CuPy runs the kernels of this computer."""
    found = [r for r in results("cuda", pattern) if r.ran]
    assert set(goldens_of(found)) >= {"float32", "float64"}
    assert all(r.exact for r in found if r.promise)
    assert run.versions("cuda")["GPU"]


def test_an_implementation_written_by_hand_is_exact() -> None:
    found = [r for r in results(named(Plain), "sgd") if r.ran]
    assert [(r.case, r.dtype, r.outcome, r.exact, r.promise) for r in found] == [
        ("sgd-plain", "float64", run.HOLDS, True, "EXACT")
    ]


def test_a_wrong_implementation_is_located() -> None:
    (r,) = [r for r in results(named(Late), "sgd-plain") if r.ran]
    assert (r.outcome, r.ok, r.max_ulp) == (run.FAILS, False, 1)
    assert r.first is not None
    assert (r.first.step, r.first.tensor, r.first.element, r.first.ulp) == (7, "param.1", [2, 3], 1)
    expected, found = (struct.unpack(">d", bytes.fromhex(x))[0] for x in (r.first.expected_bits, r.first.found_bits))
    assert found == np.nextafter(expected, np.inf)
    assert r.absolute >= found - expected
    assert r.ulps[:6] == (0,) * 6
    assert r.ulps[6] == 1


@pytest.mark.parametrize(
    ("promise", "outcome"),
    [(EXACT, run.FAILS), (ULP(1), run.HOLDS), (CLOSE(1e-15, 1e-15), run.HOLDS), (None, run.MEASURED)],
)
def test_promises_decide(promise: Any, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "promise", promise)
    assert [r.outcome for r in results(named(Late), "sgd-plain") if r.ran] == [outcome]


def test_missing_state_is_noticed() -> None:
    (r, *_) = results(named(Loses), "adam-coupled", ("float32",))
    assert r.outcome == run.FAILS
    assert "has no state." in r.reason
    assert "exp_avg_sq" in r.reason


def test_where_refoptim_is_not_the_golden_recorded_steps_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["sgd-plain"]
    monkeypatch.setattr(run, "_reference", lambda *key: run.Run("", [], {}))
    golden = run.expected("torch-ieee", "sgd", case, "float64")
    assert golden.steps == case.record
    blank = Result("x", "SGD", case.id, "float64", "torch-ieee", run.NOT_RUN)
    good, late = (run.execute(cls(), case, "float64") for cls in (Plain, Late))
    assert run.compare(blank, good, golden, EXACT, True).exact
    found = run.compare(blank, late, golden, EXACT, True)
    assert found.outcome == run.FAILS
    assert found.first is not None
    assert found.first.step == min(step for step in case.record if step >= 7)


def test_what_parts_between_recorded_steps_is_not_exact() -> None:
    case = CASES["sgd-plain"]
    late = run.execute(Late(), case, "float64")
    golden = run.Run("", [1, 2], {key: x[:2] for key, x in run.execute(Plain(), case, "float64").tensors.items()})
    blank = Result("x", "SGD", case.id, "float64", "torch-ieee", run.NOT_RUN)
    found = run.compare(blank, late, golden, EXACT, False)
    assert (found.outcome, found.exact, found.reason) == (run.FAILS, False, "parts between the recorded steps")


def test_an_error_is_a_result() -> None:
    class Broken(Plain):
        def step(self, grads: Any) -> None:
            raise ArithmeticError("no such thing")

    job = run.jobs(named(Plain), "sgd-plain", ("float64",))[0]._replace(make=Broken)
    (r,) = run.perform(job)
    assert (r.outcome, r.ok, r.reason) == (run.ERROR, False, "ArithmeticError: no such thing")


@pytest.mark.parametrize(("raised", "expected"), [(SystemExit(0), run.ERROR), (KeyboardInterrupt(), None)])
def test_an_implementation_cannot_end_the_run(raised: BaseException, expected: str | None) -> None:
    class Leaves(Plain):
        def step(self, grads: Any) -> None:
            raise raised

    job = run.jobs(named(Plain), "sgd-plain", ("float64",))[0]._replace(make=Leaves)
    if expected is None:
        with pytest.raises(KeyboardInterrupt):
            run.perform(job)
    else:
        assert [(r.outcome, r.ok, r.reason) for r in run.perform(job)] == [(expected, False, "SystemExit: 0")]


KNOWN = promises.Deviation("sgd-*", "*", ("DecoupledDecay",), "because")
RAISES = promises._deviation("sgd-* * raises because", "x.txt")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (run.FAILS, run.DEVIATES),
        (run.HOLDS, run.PASSES),
        (run.MEASURED, run.DEVIATES),
        (run.NOT_RUN, run.NOT_RUN),
    ],
)
def test_listed_deviations_excuse_and_their_absence_is_told(outcome: str, expected: str) -> None:
    r = Result("x", "SGD", "sgd-plain", "float32", "reference", outcome, steps=(1,), ulps=(3,))
    assert run.excused(r, KNOWN).outcome == expected
    assert run.excused(r, None) is r


@pytest.mark.parametrize("outcome", [run.FAILS, run.ERROR])
def test_an_error_is_excused_only_where_one_is_listed(outcome: str) -> None:
    r = Result("x", "SGD", "sgd-plain", "float32", "reference", outcome, reason="TypeError: what was raised")
    assert run.excused(r, KNOWN) is r
    found = run.excused(r, RAISES)
    assert (found.outcome, found.flags, found.reason) == (run.DEVIATES, (), "because: TypeError: what was raised")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conformance" / "deviations").glob("*.txt")), ids=lambda path: path.stem
)
def test_deviations_are_of_cases_that_exist(path: Path) -> None:
    known = promises.deviations(path.stem)
    assert known
    assert path.stem in adapters.BUILT_IN
    used = {promises.deviation(known, case, dtype) for case in CASES.values() for dtype in case.dtypes}
    assert not set(known) - used, "lines that fit nothing"


@pytest.mark.parametrize("line", ["adam-* float32 EpsInsideRoot", "adam-* * NoSuchFlag because"])
def test_wrong_deviations_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"a line needs|do not exist"):
        promises._deviation(line, "x.txt")


def test_the_table_of_promises() -> None:
    for engine in adapters.ENGINES:
        for dtype in ("float16", "bfloat16", "float32", "float64", "complex64"):
            assert promises.promised(engine, "torch-ieee", "Adam", dtype) == EXACT
            assert promises.promised(engine, "reference", "Adafactor", dtype) == EXACT
            assert promises.promised(engine, promises.STORED, "Muon", dtype) == EXACT
            assert promises.promised(engine, "torch-installed", "Adam", dtype) is None
        assert promises.promised(engine, "torch-ieee", "Adafactor", "float32") != EXACT
    assert promises.promised("torch-fused-cuda", "reference", "Adam", "float32") is not None
    assert promises.promised("optax", "reference", "Adam", "float16") is None
    assert [str(x) for x in (EXACT, ULP(3), CLOSE(0.5, 0.25))] == ["EXACT", "within 3 ULP", "within 0.25 + 0.5 * |x|"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Take away the kernels for this computer, and CuPy."""
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "_host.so")
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda.machine.cache_clear()
    yield
    cuda.machine.cache_clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("host", "engine host is not available: its kernels were not built when refoptim was installed: install"),
        ("cuda", "engine cuda is not available: kernels on a GPU need CuPy: pip install"),
        ("tensorfloat", "no implementation 'tensorfloat'"),
        (":X", "no implementation ':X': expected package.module:Class"),
        ("no_such_module:X", "no_such_module cannot be imported"),
        ("json:X", "json has no X"),
        ("json:JSONDecoder", "is no implementation: it has no method make"),
    ],
)
def test_what_is_not_there_is_said(name: str, message: str, bare: None) -> None:
    with pytest.raises(adapters.NotAvailable, match=message):
        adapters.find(name)


@pytest.mark.parametrize("method", ["make", "set", "step", "resume", "parameters", "state"])
def test_every_method_that_a_case_calls_is_asked_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, method, None)
    with pytest.raises(adapters.NotAvailable, match=f"Plain is no implementation: it has no method {method}"):
        adapters.find(named(Plain))


def leaves(*arguments: Any) -> Any:
    raise SystemExit(0)


def raises(self: Any) -> Any:
    raise TypeError("a reason")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("__init__", lambda self, needed: None, r"Plain cannot be used: TypeError: .* 'needed'"),
        ("__init__", leaves, "Plain cannot be used: SystemExit: 0"),
        ("versions", raises, "Plain cannot be used: TypeError: a reason"),
        ("versions", lambda self: ["1.0"], r"Plain: versions\(\) must return a dict, got \['1.0'\]"),
        ("promise", 1e-6, "Plain: promise must be EXACT, .* or None, got 1e-06"),
        ("promise", property(raises), "Plain cannot be used: TypeError: a reason"),
    ],
)
def test_what_cannot_be_used_is_said(
    attribute: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Plain, attribute, value)
    done = command("--impl", named(Plain), "--pattern", "sgd-plain")
    assert done.exit_code == 2
    assert re.search(message, " ".join(done.output.split())), done.output


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "1 +", "import no_such_thing", "{}['key']"])
def test_a_module_that_cannot_be_imported_is_said(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_fails.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(adapters.NotAvailable, match="module_that_fails cannot be imported: "):
        adapters.find("module_that_fails:X")


def test_keras_gets_a_backend_that_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text("import no_such_backend")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "none")
    with pytest.raises(
        adapters.NotAvailable, match=r"keras cannot be imported: .*'no_such_backend'; set KERAS_BACKEND"
    ):
        run.versions("keras")
    monkeypatch.setattr("refoptim.conformance.adapters.keras.find_spec", lambda name: name == "torch" or None)
    for before, after in (("none", "none"), (None, "torch")):
        monkeypatch.setenv("KERAS_BACKEND", before) if before else monkeypatch.delenv("KERAS_BACKEND")
        choose_backend()
        assert os.environ["KERAS_BACKEND"] == after


def test_what_an_implementation_prints_stays_out_of_the_document(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Prints), "--pattern", "sgd-plain", "--json")
    assert json.loads(done.stdout)["ok"]
    assert "a step" in done.stderr


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(adapters.NotAvailable, match="not installed: optax"):
        adapters.find("optax")


def test_distances_are_those_counted_by_hand() -> None:
    """-0 and +0 are neighbours, one subnormal further is the next; a NaN is as far as can be."""
    case = CASES["sgd-plain"]
    blank = Result("x", "SGD", case.id, "float32", "reference", run.NOT_RUN)
    tiny = np.float32(1e-45)
    golden = run.Run("a", [1, 2], {"param.0": np.array([[0.0, 1.0], [tiny, 2.0]], np.float32)})
    theirs = run.Run("b", [1, 2], {"param.0": np.array([[-0.0, 1.0], [-tiny, 2.0]], np.float32)})
    found = run.compare(blank, theirs, golden, None, True)
    assert found.ulps == (1, 3)
    assert found.first is not None
    assert (found.first.step, found.first.element, found.max_ulp) == (1, [0], 3)
    nan = run.Run("b", [1, 2], {"param.0": np.array([[0.0, np.nan], [tiny, 2.0]], np.float32)})
    assert run.compare(blank, nan, golden, CLOSE(1, 1), True).distance == "NaN"
    assert run.compare(blank, nan, golden, CLOSE(1, 1), True).outcome == run.FAILS


def test_flushed_subnormals_are_not_close() -> None:
    blank = Result("x", "SGD", "sgd-plain", "float32", "reference", run.NOT_RUN)
    golden = run.Run("a", [1], {"param.0": np.array([[1e-40, 1.0, 2e-38]], np.float32)})
    for x, outcome in ((0.0, run.FAILS), (1.5e-40, run.HOLDS), (2e-38, run.HOLDS)):
        theirs = run.Run("b", [1], {"param.0": np.array([[x, 1.0, 2e-38]], np.float32)})
        assert run.compare(blank, theirs, golden, CLOSE(1e-6, 1e-6), True).outcome == outcome


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


# The command.


@pytest.fixture
def command() -> Callable[..., Any]:
    testing = pytest.importorskip("click.testing", reason="the command line needs click and rich")
    from refoptim.commands.main import main

    return lambda *arguments: testing.CliRunner().invoke(main, ["conformance", *arguments])


def test_all_promises_hold(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("--json", "--report", str(tmp_path / "r.html"), "--junit", str(tmp_path / "j.xml"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["ok"]
    counted = {(r["golden"], r["distance"]) for r in document["results"] if r["golden"] == "reference"}
    assert counted <= {("reference", "EXACT"), ("reference", "not run")}
    exact = {r["optimizer"] for r in document["results"] if r["golden"] == "torch-ieee" and r["distance"] == "EXACT"}
    assert len(exact) >= 13
    engines = {"numpy", *(["host"] if not host.missing() else []), *(["cuda"] if not cuda.missing() else [])}
    assert set(document["versions"]) == engines
    assert {"CosineAnnealingLR", "ReduceLROnPlateau"} <= {r["optimizer"] for r in document["results"]}
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
    assert "All promises hold." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_command_fails_where_a_promise_is_broken(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Late), "--pattern", "SGD-PLAIN", "--dtype", "float64")
    assert done.exit_code == 1
    assert "FAILS: sgd-plain float64" in done.output
    assert "step 7, param.1 [2, 3]" in done.output
    assert "\x1b" not in done.output


def test_the_command_says_what_is_wrong(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, bare: None
) -> None:
    for arguments, message in [
        (("--engine", "host"), "engine host is not available: its kernels were not built"),
        (("--engine", "cuda"), "engine cuda is not available: kernels on a GPU need CuPy"),
        (("--impl", "a:"), "'--impl': expected package.module:Class, got 'a:'"),
        (("--impl", ":X"), "'--impl': expected package.module:Class, got ':X'"),
        (("--impl", "nothing"), "no implementation 'nothing'"),
        (("--pattern", "no such case"), "no case matches"),
        (("--impl", named(Plain), "--pattern", "adam-coupled"), "nothing could be run: plain descent in float64 alone"),
        (("--pattern", "sgd-plain", "--report", "/no/such/folder/x.html"), "cannot write the report"),
    ]:
        done = command(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output

    def flushed() -> None:
        raise RuntimeError("float32 sums lose subnormals")

    monkeypatch.setattr(run, "check_arithmetic", flushed)
    done = command("--pattern", "sgd-plain")
    assert (done.exit_code, "lose subnormals" in done.output) == (2, True)


def test_without_ml_dtypes_bfloat16_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    (r,) = results("numpy", "sgd-plain", ("bfloat16",))
    assert (r.outcome, r.reason) == (run.NOT_RUN, "bfloat16 needs ml_dtypes")


# The plugin.

CONFTEST = f"""
import sys
from importlib.util import find_spec
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT)]!r}
import refoptim
if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append({str(ROOT)!r})
pytest_plugins = ["refoptim.conformance.plugin"]
"""


def pytest_in(folder: Path, *arguments: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST + (folder / "more.txt").read_text())
    options = ("-p", "no:refoptim", "-p", "no:cacheprovider", "-W", "error", "-rA")
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def counts(output: str) -> dict[str, int]:
    return {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output.splitlines()[-1])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more.txt").write_text("")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def test_the_plugin_collects_nothing_unless_asked(folder: Path) -> None:
    assert counts(pytest_in(folder)) == {"passed": 1}


def test_the_plugin_loads_without_refoptim() -> None:
    code = "import sys; import plugin; sys.exit('numpy' in sys.modules or 'refoptim' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "conformance", check=True)


def test_every_case_is_a_test_of_a_named_implementation(folder: Path) -> None:
    output = pytest_in(folder, "--refoptim-impl", "helpers.implementations:Late", "--refoptim-pattern", "sgd-plain")
    assert counts(output) == {"passed": 1, "failed": 1, "skipped": 5}
    assert "step 7, param.1 [2, 3]" in output
    assert "FusedMultiplyAdd: " in output


def test_the_setting_and_k_work(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nrefoptim_impl = numpy\n")
    found = len([dtype for case in CASES.values() if case.id.startswith("adamax") for dtype in case.dtypes])
    output = pytest_in(folder, "-k", "adamax")
    assert sum(counts(output).values()) == found, output
    assert "failed" not in counts(output)


def test_a_fixture_gives_every_case(folder: Path) -> None:
    (folder / "more.txt").write_text(
        "\nimport pytest\nfrom helpers.implementations import Plain\n\n"
        "@pytest.fixture\ndef refoptim_implementation():\n    return Plain()\n"
    )
    (folder / "test_own.py").write_text("def test_conformance(refoptim_check):\n    refoptim_check()\n")
    output = pytest_in(folder, "--refoptim-pattern", "sgd-plain")
    assert counts(output) == {"passed": 1, "skipped": 5}, output


def test_a_fixture_without_the_methods_is_refused(folder: Path) -> None:
    text = "\nimport pytest\n\n@pytest.fixture\ndef refoptim_implementation():\n    return 1\n"
    (folder / "more.txt").write_text(text)
    (folder / "test_own.py").write_text("def test_conformance(refoptim_check):\n    refoptim_check()\n")
    output = pytest_in(folder, "--refoptim-pattern", "sgd-plain")
    assert "int is no implementation: it has no method make" in output


def test_a_pattern_that_fits_no_case_is_a_usage_error(folder: Path) -> None:
    output = pytest_in(folder, "--refoptim-impl", "numpy", "--refoptim-pattern", "no-such")
    assert "--refoptim-pattern: no case matches 'no-such'" in output
    assert "passed" not in output


def test_a_test_asked_for_by_its_node_id_comes_alone(folder: Path) -> None:
    assert counts(pytest_in(folder, "--refoptim-impl", "numpy", "test_own.py::test_own")) == {"passed": 1}
    found = counts(pytest_in(folder, "--refoptim-impl", "numpy", "--refoptim-pattern", "sgd-plain", "test_own.py"))
    assert sum(found.values()) == 1 + len(CASES["sgd-plain"].dtypes)


def test_an_unknown_implementation_is_a_usage_error(folder: Path) -> None:
    assert "no implementation 'nobody'" in pytest_in(folder, "--refoptim-impl", "nobody")
