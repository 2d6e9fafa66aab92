"""What users import by name is where it was."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import refoptim

OPTIMIZERS = (
    *("ASGD", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ConjugateGradient"),
    *("Muon", "NAdam", "Optimizer", "RAdam", "RMSprop", "Rprop", "SparseAdam"),
)
OTHERS = (
    *("Parameter", "SparseGrad", "clip_grad", "functional", "lr_scheduler", "swa_utils", "rounding", "named_arrays"),
    *("get_default_dtype", "set_default_dtype", "get_num_threads", "set_num_threads"),
    *("register_optimizer_step_pre_hook", "register_optimizer_step_post_hook", "swap_in_optimizer_params_and_state"),
)
SCHEDULERS = (
    *("LRScheduler", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR"),
    *("ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR"),
    *("ReduceLROnPlateau", "SequentialLR", "StepLR"),
    *("ConstantWarmupLR", "LinearWarmupLR", "CosineWarmupLR", "CosineRestartsWarmupLR", "PolynomialWarmupLR"),
    *(
        "CosineWarmupRateLR",
        "InverseSqrtLR",
        "WarmupStableDecayLR",
        "NoamLR",
        "WarmupCosineDecayLR",
        "PiecewiseInterpolateLR",
    ),
    *("CosineCyclesLR", "CosineDecayRestartsLR", "get_scheduler"),
)
AVERAGES = (
    *("AveragedModel", "SWALR", "BatchNorm", "HasBatchNorms", "update_bn"),
    *("get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn"),
)
PURE = (
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "conjugate_gradient", "lbfgs", "muon"),
    *("nadam", "radam", "rmsprop", "rprop", "sgd", "sparse_adam"),
)
PLACES = {
    "refoptim": (*OPTIMIZERS, *OTHERS, "__version__"),
    "refoptim.lr_scheduler": SCHEDULERS,
    "refoptim.swa_utils": AVERAGES,
    "refoptim.functional": PURE,
    "refoptim.clip_grad": ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"),
    "refoptim.amp": ("GradScaler",),
    "refoptim.transforms": (
        *(
            "Lookahead",
            "MultiSteps",
            "SAM",
            "adaptive_clip_grad_",
            "centralize_grad_",
            "clip_by_block_rms_",
            "clip_by_global_norm_",
        ),
        *("clip_grad_norm_", "clip_grad_value_", "param_groups"),
    ),
    "refoptim.numerics.power": ("power", "cos", "exp", "log"),
    "refoptim.conformance.adapters": ("Adapter", "NotAvailable", "Unsupported", "find"),
    "refoptim.optimizers.adam": ("Adam",),
    "refoptim_pytest": ("refoptim_check",),
}


@pytest.mark.parametrize("place", PLACES)
def test_names_are_where_they_were(place: str) -> None:
    if place == "refoptim_pytest":
        pytest.importorskip(place, reason="the plugin is there once refoptim is installed")
    module: Any = importlib.import_module(place)
    assert not [name for name in PLACES[place] if not hasattr(module, name)]


def test_every_optimizer_has_a_room() -> None:
    """``refoptim.optimizers.NAME`` of its stem, as documents and kernels name it."""
    rooms = {getattr(refoptim, name).__module__ for name in OPTIMIZERS if name != "Optimizer"}
    assert len(rooms) == len(OPTIMIZERS) - 1
    assert all(room.startswith("refoptim.optimizers.") for room in rooms)
