"""torch's schedulers are a witness with correctly rounded powers and cosines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from refoptim.conformance.oracle import rounded_schedules


@pytest.fixture(autouse=find_spec("torch") is not None)
def rounded() -> Iterator[None]:
    """Replace torch's cosines and logarithms while a test runs."""
    with rounded_schedules():
        yield
