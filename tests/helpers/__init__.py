"""What tests share, each thing in one place; an assertion that fails here shows its values, as one in a test does."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
"""The checkout that these tests are of."""

pytest.register_assert_rewrite(*(f"helpers.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*")))
