"""refoptim on NumPy arrays."""

from __future__ import annotations

import refoptim

from ..cases import Case
from ..reference import Reference
from ..verify import EXACT
from . import installed


class NumPy(Reference):
    """refoptim's reference engine."""

    promise = EXACT
    partial_state = False

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Nothing is out of reach."""
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of refoptim and NumPy."""
        return {"refoptim": refoptim.__version__, "numpy": installed("numpy")}
