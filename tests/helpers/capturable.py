"""Settings, gradients and learning rates for steps that a GPU counts by itself, and the reference's run of them."""

from __future__ import annotations

from typing import Any

import numpy as np

import refoptim
from helpers import wider

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01},
    "Adam": {"weight_decay": 0.1, "amsgrad": True, "maximize": True},
    "AdamW": {"betas": (0.8, 0.95)},
    "NAdam": {"momentum_decay": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.1},
    "RAdam": {"betas": (0.8, 0.7), "weight_decay": 0.1},
    "Adamax": {"weight_decay": 0.1},
    "Adadelta": {"rho": 0.7, "weight_decay": 0.1},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.2},
    "RMSprop": {"centered": True, "momentum": 0.5, "weight_decay": 0.1},
    "Rprop": {},
    "ASGD": {"lambd": 0.1, "t0": 2, "weight_decay": 0.1},
    **{name: {key: x for key, x in wider.WIDER[name].items() if key != "lr"} for name in wider.ELEMENTWISE},
}
LRS = [0.1, 0.1, 0.03, 0.2, 0.07, 0.01]
SHAPES = [(7, 5), (3,), ()]


def drawn(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), np.float32) for shape in SHAPES]


def expected(name: str, lrs: list[float], skipped: tuple[int, ...] = ()) -> Any:
    """Run the NumPy reference."""
    optimizer = getattr(refoptim, name)(drawn(0), lr=lrs[0], **OPTIONS[name])
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        if step not in skipped:
            optimizer.step(grads=drawn(step + 1))
    return optimizer
