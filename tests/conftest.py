"""Test settings: torch, where it is installed, starts as the IEEE witness, and the package is found in a checkout."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

os.environ["ATEN_CPU_CAPABILITY"] = "default"

import refoptim

if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(str(Path(__file__).parents[1]))
