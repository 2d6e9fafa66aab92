"""The pytest plugin: every case as a test of an implementation.

Name the implementation on the command line (``--refoptim-impl package.module:Class``) or in the settings
(``refoptim_impl = "package.module:Class"``), and every case in every storage type is collected as a test. Or write it
as the fixture ``refoptim_implementation``, and one test that asks for ``refoptim_check``::

    def test_conformance(refoptim_check):
        refoptim_check()

Without either nothing is collected and nothing is imported: this file is installed as a package of its own,
``refoptim_pytest``, so that pytest can load it without refoptim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the setting."""
    group = parser.getgroup("refoptim", "conformance of optimizers")
    group.addoption("--refoptim-impl", metavar="NAME", help="an implementation: package.module:Class, or torch-fused …")
    group.addoption("--refoptim-pattern", default="", metavar="GLOB", help="only these cases: adam-*, Adam, …")
    parser.addini("refoptim_impl", "an implementation whose conformance is tested: package.module:Class")


def named(config: pytest.Config) -> str:
    """Return the name of the implementation that is to be tested, if one is."""
    return str(config.getoption("--refoptim-impl") or config.getini("refoptim_impl") or "")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each case, if an implementation is named and no test is asked for by its node id."""
    if named(config) and not any("::" in argument for argument in config.args):
        suite = Suite.from_parent(session, name="refoptim")
        items.extend(suite.collect())


class Broken(Exception):
    """A promise is broken: what is compared says where and by how much."""


class Suite(pytest.Collector):
    """All cases for an implementation."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each case and storage type."""
        from refoptim.conformance import run, run_schedules

        asked = named(self.config), str(self.config.getoption("--refoptim-pattern"))
        try:
            run.check_arithmetic()
            run.versions(named(self.config))
            jobs = [*run.jobs(*asked), *run_schedules.jobs(*asked)]
        except RuntimeError as error:
            raise pytest.UsageError(_shown(str(error))) from error
        if not jobs:
            raise pytest.UsageError(
                f"--refoptim-pattern: no case matches {self.config.getoption('--refoptim-pattern')!r}"
            )
        for job in jobs:
            yield CaseItem.from_parent(self, name=f"{job.case.id}[{job.dtype}]", job=job)


class CaseItem(pytest.Item):
    """One case in one storage type."""

    def __init__(self, *, job: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.job = job

    def runtest(self) -> None:
        """Run the case and compare it with the golden."""
        check(self.job)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show what a broken promise says, and any other error in full."""
        return str(excinfo.value) if excinfo.errisinstance(Broken) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the test."""
        return self.path, None, f"refoptim: {self.name}"


def check(job: Any, whose: Any = None) -> None:
    """Run a case; skip what is not supported, fail where a promise is broken.

    Args:
        job: the case, on an implementation.
        whose: tells implementations of the same name apart.
    """
    from refoptim.conformance import run

    run.check_arithmetic()
    for result in run.perform(job) if isinstance(job, run.Job) else job.perform():
        if result.outcome == run.NOT_RUN:
            pytest.skip(_shown(result.reason))
        if not result.ok:
            raise Broken(describe(result, _mistake(job, whose, result)))


_MISTAKES: dict[tuple[Any, ...], str] = {}


def _mistake(job: Any, whose: Any, result: Any) -> str:
    """Say what the mistake of an optimizer is called, searched for once, on all its cases."""
    from refoptim.conformance import run
    from refoptim.conformance.diagnose.optimizers import diagnose_jobs

    if result.outcome != run.FAILS:
        return ""
    key = (job.implementation, whose, result.optimizer)
    if key not in _MISTAKES:
        jobs = [each._replace(make=job.make) for each in run.jobs("numpy", result.optimizer)]
        _MISTAKES[key] = "\n".join(map(str, diagnose_jobs(jobs)))
    return _MISTAKES[key]


def describe(result: Any, diagnosis: str = "") -> str:
    """Say what is broken, what mistake it is if that is known, where it begins, and what the case is."""
    from refoptim.conformance import report

    lines = [f"{result.optimizer}, case {result.case}, {result.dtype}: promised {result.promise or 'a result'}"]
    lines += diagnosis.splitlines()
    if result.shown is not None:
        lines.append(f"largest distance {result.distance}; first outside of it at {result.shown}")
    lines += [report.farthest(result), result.reason, *report.about(result.case), *result.traceback.splitlines()]
    return "\n".join(_shown(line) for line in lines if line)


def _shown(text: str) -> str:
    """Return a text of an implementation as a terminal can show it."""
    from refoptim.formats.visible import visible

    return visible(text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``refoptim_check`` once for each case and storage type."""
    if "refoptim_case" not in metafunc.fixturenames:
        return
    from refoptim.conformance import adapters, run, run_schedules

    pattern = str(metafunc.config.getoption("--refoptim-pattern"))
    jobs = [*run.jobs("numpy", pattern), *run_schedules.jobs_of("numpy", adapters.find("numpy"), pattern)]
    metafunc.parametrize("refoptim_case", jobs, ids=[f"{job.case.id}-{job.dtype}" for job in jobs])


@pytest.fixture
def refoptim_check(
    refoptim_case: Any, refoptim_implementation: Any, request: pytest.FixtureRequest
) -> Callable[[], None]:
    """Return what puts ``refoptim_implementation`` through a case."""
    from refoptim.conformance import adapters

    name = type(refoptim_implementation).__name__
    adapters.check(name, refoptim_implementation)
    own = {"implementation": name, "make": lambda: refoptim_implementation}
    drawn = {name: x for name, x in request.node.callspec.indices.items() if name != "refoptim_case"}
    whose = (type(refoptim_implementation), str(request.node.path), request.node.originalname, *sorted(drawn.items()))
    return lambda: check(refoptim_case._replace(**own), whose)
