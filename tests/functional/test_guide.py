"""The programs of the page on derivatives that need torch or JAX."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from helpers import ROOT

TEXT = (ROOT / "docs" / "guide" / "derivatives.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(# Not run here.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_there_are_two() -> None:
    assert [needed for program in PROGRAMS for needed in re.findall(r"^import (torch|jax)$", program, re.M)] == [
        "torch",
        "jax",
    ]


@pytest.mark.parametrize("program", PROGRAMS, ids=["torch", "jax"])
def test_programs_run(program: str) -> None:
    needed = "torch" if "import torch" in program else "jax"
    if find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    exec(compile(program, "derivatives.md", "exec"), {"__name__": "guide"})
