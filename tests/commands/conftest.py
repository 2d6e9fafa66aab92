"""Fixtures for tests of commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from refoptim.conformance import goldens


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy all goldens to where they may be broken."""
    folder = shutil.copytree(goldens.folder(), tmp_path / "golden")
    monkeypatch.setattr(goldens, "folder", lambda: folder)
    return Path(folder)
