"""Keeps what the tests on a GPU found: hooks of pytest that write docs/gpu.json after ``pytest -m gpu``."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from refoptim.commands import gpu_report

_found: dict[str, str] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Take note of the outcome of a test on a GPU; a failure before or after it counts too."""
    if "test_gpu.py" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        worse = _found.get(report.nodeid) == "failed"
        _found[report.nodeid] = "failed" if worse else report.outcome


def pytest_sessionfinish(session: Any) -> None:
    """Write the report of a run in which tests on a GPU were asked for and some of them ran."""
    counts = Counter(_found.values())
    worker = hasattr(session.config, "workerinput")
    if worker or session.config.option.markexpr != "gpu" or not (counts["passed"] or counts["failed"]):
        return
    failed = sorted(name.rpartition("::")[2] for name, outcome in _found.items() if outcome == "failed")
    tests = {"passed": counts["passed"], "skipped": counts["skipped"], "failed": failed}
    gpu_report.write("tests", json.loads(json.dumps(tests)))
