"""LARS where a norm is infinite or NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import FUSED

torch = pytest.importorskip("torch")


def ratio(p: Any, g: Any, lr: float, decay: float) -> Any:
    """Return timm's ratio, by the functions that it calls."""
    w, n = torch.linalg.norm(torch.from_numpy(p)), torch.linalg.norm(torch.from_numpy(g))
    found = 0.001 * w / (n + w * decay + 1e-8)
    one = torch.ones_like(w)
    return torch.clamp(torch.where(w > 0, torch.where(n > 0, found, one), one) / lr, max=1.0).numpy()


@FUSED
@pytest.mark.parametrize("first", [1.0, np.inf, np.nan, 1e200])
@pytest.mark.parametrize("lr", [0.1, 1e-5])
def test_a_ratio_is_clipped_as_torch_clamps(fused: bool | None, first: float, lr: float) -> None:
    p, g = np.array([first, 1.0]), np.array([first, 3.0])
    expected = p - lr * (ratio(p, g, lr, 0.1) * (g + 0.1 * p))
    refoptim.LARS([p], lr=lr, weight_decay=0.1, trust_clip=True, fused=fused).step(grads=[g])
    assert np.allclose(p, expected, rtol=1e-14, atol=0, equal_nan=True)
