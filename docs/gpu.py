"""Write docs/built/gpu_runs.md from docs/gpu.json, the last reports of what was run on a GPU: python docs/gpu.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refoptim.commands import gpu_report

HERE = Path(__file__).parent

HEAD = """# Runs on a GPU

Kernels are tested without one ([how](kernels.md#how-they-are-held-to-the-reference)). What only a GPU can show is
tested by `pytest -m gpu`: that it computes the reference's bits, for every rule, storage and setting, subnormal numbers
and captured graphs included. It leaves a report in `docs/gpu.json`, and so does
`refoptim bench gpu --report docs/gpu.json`, which measures: [speed](bench.md) says what. This page is written by
`python docs/gpu.py`.
"""

NEVER = "Not yet run on a GPU."

TITLES = {"tests": "Tests", "bench": "Speed"}


def page(reports: dict[str, Any]) -> str:
    """Return the text of the page."""
    sections = [section(kind, reports.get(kind)) for kind in TITLES]
    return "\n".join([HEAD, *(sections if reports else [NEVER + "\n"])])


def section(kind: str, report: dict[str, Any] | None) -> str:
    """Return what a report says."""
    if report is None:
        return f"## {TITLES[kind]}\n\n{NEVER}\n"
    where = "\n".join(f"| {name} | {'unknown' if x is None else x} |" for name, x in report["where"].items())
    found = tests(report["found"]) if kind == "tests" else table(report["found"])
    return f"## {TITLES[kind]}\n\n{found}\n\n| | |\n|---|---|\n{where}\n"


def tests(found: dict[str, Any]) -> str:
    """Return the outcome of tests; those that failed are named."""
    failed = found["failed"]
    line = f"{found['passed']} passed, {len(failed)} failed, {found['skipped']} were skipped."
    return "\n".join([line, *(["", *(f"- `{name}` failed" for name in failed)] if failed else [])])


def table(rows: list[dict[str, Any]]) -> str:
    """Return measurements as a table, a row each."""
    names = list(rows[0]) if rows else []
    lines = [names, ["---"] * len(names), *([cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "Nothing was measured."


def cell(x: Any) -> str:
    """Return a figure, or whether a target holds, as text; what was not measured is a dash."""
    return {None: "-", True: "yes", False: "no"}[x] if x is None or isinstance(x, bool) else str(x)


def main() -> None:
    """Write the page."""
    text = page(gpu_report.read(HERE / "gpu.json"))
    (HERE / "built" / "gpu_runs.md").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
