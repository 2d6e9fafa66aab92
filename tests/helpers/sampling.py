"""How much of a long series of trials is made: some of it always, all of it in the slow tests."""

from __future__ import annotations

import pytest

EACH = pytest.mark.parametrize("each", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
"""Runs a test with every fifth trial, and with every one in the slow tests; every how many it is told as ``each``."""
