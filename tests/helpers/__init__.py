"""What tests share, each thing in one place."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout that these tests are of."""
