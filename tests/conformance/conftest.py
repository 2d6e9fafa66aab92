"""Fixtures for tests of the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refoptim.engines import cuda, host


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Take away the kernels for this computer, and CuPy."""
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "_host.so")
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda.machine.cache_clear()
    yield
    cuda.machine.cache_clear()


@pytest.fixture
def command() -> Callable[..., Any]:
    testing = pytest.importorskip("click.testing", reason="the command line needs click and rich")
    from refoptim.commands.main import main

    return lambda *arguments: testing.CliRunner().invoke(main, ["conformance", *arguments])
