"""How much of a long series of trials is made: some of it always, all of it in the slow tests."""

from __future__ import annotations

from collections import Counter

import pytest

EACH = pytest.mark.parametrize("each", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
"""Runs a test with every fifth trial, and with every one in the slow tests; every how many it is told as ``each``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tests all but every n-th of the tests of one function that ``pytest.mark.sweep(n)`` marks."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("sweep")
        if mark is not None:
            kind = item.nodeid.partition("[")[0]
            if seen[kind] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[kind] += 1
