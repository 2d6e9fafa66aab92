"""The settings that transformers' Adafactor has and torch's has not: by its formula, and beside transformers itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dialects.formulas import adafactor
from refoptim.dialects.transformers import Adafactor

EPS = (1e-4, 1e-2)

OWN: dict[str, dict[str, Any]] = {
    "default": {},
    "warmup": {"warmup_init": True},
    "fixed": {"relative_step": False, "lr": 0.05},
    "unscaled": {"relative_step": False, "lr": 0.05, "scale_parameter": False},
    "averaged": {"beta1": 0.7},
    "averaged and decayed": {"beta1": 0.7, "relative_step": False, "lr": 0.05, "weight_decay": 0.3},
    "unscaled and decayed": {"scale_parameter": False, "weight_decay": 0.3},
    "warmed and averaged": {"warmup_init": True, "beta1": 0.9, "weight_decay": 0.2},
}

settings = pytest.mark.parametrize("own", OWN.values(), ids=OWN)


def gradients(shape: tuple[int, ...]) -> list[Any]:
    return [np.random.default_rng(k).normal(size=shape) for k in range(8)]


def ours(shape: tuple[int, ...], own: dict[str, Any]) -> Any:
    p = np.random.default_rng(9).normal(size=shape)
    optimizer = Adafactor([p], eps=EPS, d=1.2, **own)
    for g in gradients(shape):
        optimizer.step(grads=[g])
    return p


@settings
def test_own_settings_are_those_of_the_formula(own: dict[str, Any]) -> None:
    rate = own.get("lr") if own.get("relative_step") is False else None
    more = {name: x for name, x in own.items() if name not in ("lr", "relative_step", "beta1")}
    start = np.random.default_rng(9).normal(size=(3, 4))
    expected = adafactor(start, gradients((3, 4)), rate, EPS, own.get("beta1"), clip_threshold=1.2, **more)
    assert np.allclose(ours((3, 4), own), expected, rtol=1e-12, atol=1e-14)
    assert np.abs(expected - start).max() > 1e-6


@settings
@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 3, 4)])
def test_own_settings_are_those_of_transformers(shape: tuple[int, ...], own: dict[str, Any]) -> None:
    reason = "transformers is not installed: its formula is tested"
    theirs: Any = pytest.importorskip("transformers.optimization", reason=reason)
    import torch

    p = torch.nn.Parameter(torch.from_numpy(np.random.default_rng(9).normal(size=shape)))
    optimizer = theirs.Adafactor([p], eps=EPS, clip_threshold=1.2, **own)
    for g in gradients(shape):
        p.grad = torch.from_numpy(g)
        optimizer.step()
    assert np.allclose(ours(shape, own), p.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_init=True requires relative_step=True"):
        Adafactor([np.ones(3)], relative_step=False, warmup_init=True)
    with pytest.raises(ValueError, match="beta1"):
        Adafactor([np.ones(3)], beta1=1.5)
