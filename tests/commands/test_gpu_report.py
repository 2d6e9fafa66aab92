"""Reports of runs on a GPU, and the page that shows them, which says nothing of a GPU while there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import ROOT
from helpers import gpu_report as hooks
from refoptim.commands import gpu_report

DOCS = ROOT / "docs"


def page(reports: dict[str, Any]) -> str:
    spec = importlib.util.spec_from_file_location("gpu_page", DOCS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page(reports))


def test_the_page_is_that_of_the_reports() -> None:
    written = (DOCS / "built" / "gpu_runs.md").read_text(encoding="utf-8")
    assert written == page(gpu_report.read()), "run: python docs/gpu.py"


def test_without_reports_nothing_is_claimed() -> None:
    text = page({})
    assert text.endswith("\nNot yet run on a GPU.\n")
    assert "passed" not in text


@pytest.fixture
def gpu(fake_cupy: Any, compiled: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stand-in, which tells what a GPU tells of itself."""
    properties = {"name": b"Imaginary 9000", "totalGlobalMem": 5 << 29}
    runtime = fake_cupy.cuda.runtime
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda device: properties, raising=False)
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: 13010, raising=False)
    return fake_cupy


def test_a_report_names_the_gpu_and_the_versions(gpu: Any, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    gpu_report.write("tests", {"passed": 3, "skipped": 1, "failed": ["test_a[x]"]}, path)
    gpu_report.write("bench", [{"rule": "Adam", "share": 0.5}], path)
    gpu_report.write("tests", {"passed": 4, "skipped": 0, "failed": []}, path)
    reports = gpu_report.read(path)
    assert reports["tests"]["found"]["passed"] == 4
    assert (
        reports["tests"]["where"].items()
        >= {
            "device": "Imaginary 9000",
            "compute capability": 9.0,
            "memory in GiB": 2.5,
            "CUDA of the driver": "13.1",
            "CUDA of CuPy": "13.2",
            "NVRTC": "13.5",
            "CuPy": gpu.__version__,
        }.items()
    )
    assert {"date", "commit", "driver", "refoptim", "Python", "NumPy"} <= reports["tests"]["where"].keys()
    text = page(reports)
    assert "4 passed, 0 failed, 0 were skipped." in text
    assert "| device | Imaginary 9000 |" in text
    assert "| Adam | 0.5 |" in text
    assert "Not yet run" not in text
    assert page({"tests": reports["tests"]}).endswith("## Speed\n\nNot yet run on a GPU.\n")


def test_a_gpu_that_no_longer_answers_loses_no_report(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: int) -> Any:
        raise RuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceProperties", fail)
    path = tmp_path / "gpu.json"
    gpu_report.write("tests", {"passed": 3, "skipped": 1, "failed": ["test_a[x]"]}, path)
    report = gpu_report.read(path)["tests"]
    assert report["where"]["device"] == "does not answer: cudaErrorIllegalAddress"
    assert report["found"]["failed"] == ["test_a[x]"]


def test_failures_are_named() -> None:
    report = {"where": {"device": "Imaginary 9000"}, "found": {"passed": 2, "skipped": 0, "failed": ["test_a[x]"]}}
    assert "2 passed, 1 failed, 0 were skipped.\n\n- `test_a[x]` failed\n" in page({"tests": report})


RUNS: dict[str, tuple[str, list[tuple[str, str, str]], Any]] = {
    "all passed": (
        "gpu",
        [("a", "setup", "passed"), ("a", "call", "passed"), ("b", "setup", "skipped")],
        {"passed": 1, "skipped": 1, "failed": []},
    ),
    "one failed": (
        "gpu",
        [("a", "call", "failed"), ("b", "call", "passed")],
        {"passed": 1, "skipped": 0, "failed": ["a"]},
    ),
    "one failed afterwards": (
        "gpu",
        [("a", "call", "passed"), ("a", "teardown", "failed"), ("b", "call", "passed")],
        {"passed": 1, "skipped": 0, "failed": ["a"]},
    ),
    "no GPU": ("gpu", [("a", "setup", "skipped"), ("b", "setup", "skipped")], None),
    "not asked for": ("", [("a", "call", "passed")], None),
}


@pytest.mark.parametrize("what", RUNS)
def test_a_run_on_a_gpu_leaves_a_report(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    marks, outcomes, expected = RUNS[what]
    written: list[Any] = []
    monkeypatch.setattr(hooks, "_found", {})
    monkeypatch.setattr(gpu_report, "write", lambda kind, found: written.append((kind, found)))
    for name, when, outcome in outcomes:
        hooks.pytest_runtest_logreport(SimpleNamespace(nodeid=f"tests/test_gpu.py::{name}", when=when, outcome=outcome))
    hooks.pytest_runtest_logreport(SimpleNamespace(nodeid="tests/test_x.py::c", when="call", outcome="passed"))
    config = SimpleNamespace(option=SimpleNamespace(markexpr=marks))
    hooks.pytest_sessionfinish(SimpleNamespace(config=config))
    assert written == ([] if expected is None else [("tests", expected)])
    hooks.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace(option=config.option, workerinput={})))
    assert len(written) == (expected is not None)
