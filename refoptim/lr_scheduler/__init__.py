"""Schedulers: torch.optim.lr_scheduler's, one file each beside their base."""

from __future__ import annotations

from .base import LRScheduler
from .step import StepLR

_LRScheduler = LRScheduler

__all__ = ["LRScheduler", "StepLR"]
