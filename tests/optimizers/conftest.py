"""Fixtures for tests of optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refoptim.numerics import tree


@pytest.fixture
def summing_torch(torch: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let torch sum in the order that refoptim defines, and take roots that are correctly rounded."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.asarray(x))

    monkeypatch.setattr(torch.Tensor, "dot", lambda x, y: tensor(tree.dot(x.numpy(), y.numpy())))
    monkeypatch.setattr(torch.Tensor, "sum", lambda x: tensor(tree.total(lambda y: y, x.numpy())))
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: tensor(np.sqrt(x.numpy())))
    return torch
