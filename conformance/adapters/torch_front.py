"""refoptim on tensors of torch: the classes of ``refoptim.interop.torch``, seen through what torch sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import refoptim
from refoptim.numerics.arith import Array

from .. import oracle
from ..cases import Case
from ..verify import EXACT
from . import installed


class Front(oracle.Torch):
    """An optimizer of torch whose steps are refoptim's reference."""

    promise = EXACT
    partial_state = False
    is_cautious = True

    def __init__(self) -> None:
        super().__init__(as_installed=True)
        self._room = import_module("refoptim.interop.torch")

    def versions(self) -> dict[str, str]:
        """Return the versions of refoptim, NumPy and torch."""
        return {"refoptim": refoptim.__version__, "numpy": installed("numpy"), "torch": oracle.torch().__version__}

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Nothing is out of reach."""
        return None

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        self._params = [oracle.to_torch(np.array(p)).requires_grad_() for p in parameters]
        self._build = partial(getattr(self._room, optimizer), self._params, **hyper)
        self._optimizer = self._build()
