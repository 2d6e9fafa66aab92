"""Runs the script that hashes all there is, in one environment or another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from helpers import digest
from refoptim.engines import host


def run(environment: dict[str, str], *options: str) -> dict[str, str]:
    """Run the script that hashes all there is."""
    done = subprocess.run(
        [sys.executable, digest.__file__, *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@cache
def here(*options: str) -> dict[str, str]:
    """Run it as things are."""
    return run({}, *options)


def results(found: dict[str, str]) -> dict[str, str]:
    return {key: x for key, x in found.items() if key not in digest.SENSORS}


def needs_kernels() -> None:
    """Skip a test where there are no kernels for this computer."""
    if host.missing():
        pytest.skip(f"no kernels for this computer, {host.missing()}")
