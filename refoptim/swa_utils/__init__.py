"""Averages of weights: AveragedModel, the functions that average, SWALR, and fresh batch-norm statistics.

The names are those of ``torch.optim.swa_utils``; other modules of the package may change.
"""

from __future__ import annotations

from .averaged_model import AveragedModel
from .averages import get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_avg_fn, get_swa_multi_avg_fn
from .batch_norms import BatchNorm, HasBatchNorms, update_bn
from .swalr import SWALR

__all__ = [
    "SWALR",
    "AveragedModel",
    "BatchNorm",
    "HasBatchNorms",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
