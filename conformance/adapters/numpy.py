"""refoptim on NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import refoptim
from refoptim.numerics.arith import Array

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


class Library(NumPy):
    """Muon with the matrix products of NumPy."""

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Muon alone multiplies matrices."""
        return None if case.optimizer == "Muon" else "there are no matrix products"

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        super().make(optimizer, {**hyper, "products": "library"}, parameters)
