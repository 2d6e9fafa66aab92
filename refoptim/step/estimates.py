"""Estimates that a step is given beside the gradients: checked as they are, with messages that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

NAMES = (("a gradient", "an estimate"), ("gradient", "estimate"), ("grads", "estimates"))
"""What a message about gradients says, and what it says of estimates."""


@contextmanager
def about_estimates() -> Iterator[None]:
    """Let what checks gradients check estimates inside the block: its errors name these."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        for old, new in NAMES:
            text = text.replace(old, new)
        raise type(error)(text) from None
