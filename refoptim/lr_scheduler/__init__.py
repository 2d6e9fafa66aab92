"""Schedulers: torch.optim.lr_scheduler's and those of other libraries, one file each beside their bases."""

from __future__ import annotations

from .base import EPOCH_DEPRECATION_WARNING as EPOCH_DEPRECATION_WARNING
from .base import LRScheduler
from .by_name import get_scheduler
from .chained_scheduler import ChainedScheduler
from .constant_lr import ConstantLR
from .constant_warmup_lr import ConstantWarmupLR
from .cosine_annealing_lr import CosineAnnealingLR
from .cosine_annealing_warm_restarts import CosineAnnealingWarmRestarts
from .cosine_cycles_lr import CosineCyclesLR
from .cosine_decay_restarts_lr import CosineDecayRestartsLR
from .cosine_restarts_warmup_lr import CosineRestartsWarmupLR
from .cosine_warmup_lr import CosineWarmupLR
from .cosine_warmup_rate_lr import CosineWarmupRateLR
from .cyclic_lr import CyclicLR
from .exponential_lr import ExponentialLR
from .inverse_sqrt_lr import InverseSqrtLR
from .lambda_lr import LambdaLR
from .linear_lr import LinearLR
from .linear_warmup_lr import LinearWarmupLR
from .multi_step_lr import MultiStepLR
from .multiplicative_lr import MultiplicativeLR
from .noam_lr import NoamLR
from .one_cycle_lr import OneCycleLR
from .piecewise_interpolate_lr import PiecewiseInterpolateLR
from .polynomial_lr import PolynomialLR
from .polynomial_warmup_lr import PolynomialWarmupLR
from .reduce_lr_on_plateau import ReduceLROnPlateau
from .sequential_lr import SequentialLR
from .step_lr import StepLR
from .warmup_cosine_decay_lr import WarmupCosineDecayLR
from .warmup_stable_decay_lr import WarmupStableDecayLR

_LRScheduler = LRScheduler

WIDER = (
    "ConstantWarmupLR",
    "CosineCyclesLR",
    "CosineDecayRestartsLR",
    "CosineRestartsWarmupLR",
    "CosineWarmupLR",
    "CosineWarmupRateLR",
    "InverseSqrtLR",
    "LinearWarmupLR",
    "NoamLR",
    "PiecewiseInterpolateLR",
    "PolynomialWarmupLR",
    "WarmupCosineDecayLR",
    "WarmupStableDecayLR",
)
"""Those that torch does not have."""

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "ConstantWarmupLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CosineCyclesLR",
    "CosineDecayRestartsLR",
    "CosineRestartsWarmupLR",
    "CosineWarmupLR",
    "CosineWarmupRateLR",
    "CyclicLR",
    "ExponentialLR",
    "InverseSqrtLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "LinearWarmupLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "NoamLR",
    "OneCycleLR",
    "PiecewiseInterpolateLR",
    "PolynomialLR",
    "PolynomialWarmupLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineDecayLR",
    "WarmupStableDecayLR",
    "get_scheduler",
]
