"""What the schedule-free optimizers share: the weights of the average of their iterates."""

from __future__ import annotations

from ..numerics.followed import divisor, larger, rounded
from ..numerics.power import power
from ..step.rule import Registers

WITHOUT_WEIGHTS = {"weight_sum": 0.0, "lr_max": -1.0}
"""The registers before the first step."""


def warmed_up(k: int, lr: float, warmup_steps: float) -> float:
    """Return the learning rate of step ``k``."""
    return lr * (k / warmup_steps if k <= warmup_steps else 1.0)


def weight(k: int, lr_max: float, r: float, weight_lr_power: float) -> float:
    """Return the weight of the iterate of step ``k``."""
    return power(k, r) * power(lr_max, weight_lr_power)


def weighed(k: int, lr: float, r: float, weight_lr_power: float, registers: Registers) -> Registers:
    """Return the sum of the weights and the largest learning rate after step ``k``, which has the rate ``lr``."""
    weight_sum, lr_max = registers["weight_sum"], registers["lr_max"]
    lr_max = rounded(larger(lr, lr_max), lr_max.dtype)
    return {"weight_sum": weight_sum + weight(k, lr_max, r, weight_lr_power), "lr_max": lr_max}


def share(k: int, r: float, weight_lr_power: float, after: Registers) -> float:
    """Return the share of the iterate of step ``k`` in the average, by the registers after it; 0 without weights."""
    found: float = weight(k, after["lr_max"], r, weight_lr_power) / divisor(after["weight_sum"])
    return found
