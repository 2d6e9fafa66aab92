"""Schedulers by the names that transformers has for them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from ..optimizers.base import Optimizer
from .base import LRScheduler
from .constant_warmup_lr import ConstantWarmupLR
from .cosine_restarts_warmup_lr import CosineRestartsWarmupLR
from .cosine_warmup_lr import CosineWarmupLR
from .cosine_warmup_rate_lr import CosineWarmupRateLR
from .inverse_sqrt_lr import InverseSqrtLR
from .linear_warmup_lr import LinearWarmupLR
from .polynomial_warmup_lr import PolynomialWarmupLR
from .reduce_lr_on_plateau import ReduceLROnPlateau
from .warmup_stable_decay_lr import WarmupStableDecayLR

NAMES: dict[str, type[LRScheduler]] = {
    "linear": LinearWarmupLR,
    "cosine": CosineWarmupLR,
    "cosine_with_restarts": CosineRestartsWarmupLR,
    "polynomial": PolynomialWarmupLR,
    "constant": ConstantWarmupLR,
    "constant_with_warmup": ConstantWarmupLR,
    "inverse_sqrt": InverseSqrtLR,
    "reduce_lr_on_plateau": ReduceLROnPlateau,
    "cosine_with_min_lr": CosineWarmupLR,
    "cosine_warmup_with_min_lr": CosineWarmupRateLR,
    "warmup_stable_decay": WarmupStableDecayLR,
}
"""What each name builds; greedy is not built."""


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> LRScheduler:
    """Build a scheduler by the name that transformers has for it: ``get_scheduler("cosine", optimizer, 10, 100)``.

    Args:
        name: linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt,
            reduce_lr_on_plateau, cosine_with_min_lr, cosine_warmup_with_min_lr or warmup_stable_decay.
        optimizer: whose groups' ``lr`` are set.
        num_warmup_steps: the steps of the warm-up, which schedules that have none do not look at.
        num_training_steps: the steps of the whole run, likewise; warmup_stable_decay needs it or ``num_stable_steps``.
        scheduler_specific_kwargs: further arguments of the scheduler, as transformers takes them.
        kwargs: the same, as keywords.

    Raises:
        ValueError: there is no such name, or an argument that it needs is missing.
        TypeError: an argument is none of this scheduler.
    """
    if name not in NAMES:
        raise ValueError(f"there is no scheduler {name!r}: choose one of {', '.join(NAMES)}")
    more = {**(scheduler_specific_kwargs or {}), **kwargs}
    given = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    if name == "warmup_stable_decay":
        more = _with_stable_steps(more, num_warmup_steps, num_training_steps)
    if name == "constant":
        given["num_warmup_steps"] = 0
    if name.endswith("_with_min_lr") and more.get("min_lr") is more.get("min_lr_rate") is None:
        raise ValueError("One of min_lr or min_lr_rate should be set")
    return NAMES[name](optimizer, **_taken(name, given), **more)


def _taken(name: str, given: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the numbers of steps that a scheduler takes, or raise ValueError."""
    parameters = signature(NAMES[name]).parameters
    for key, value in given.items():
        if key in parameters and parameters[key].default is Parameter.empty and value is None:
            raise ValueError(f"{name} requires `{key}`, please provide that argument.")
    return {key: value for key, value in given.items() if key in parameters}


def _with_stable_steps(more: dict[str, Any], warmup: int | None, total: int | None) -> dict[str, Any]:
    """Compute ``num_stable_steps`` unless it is given."""
    if more.get("num_stable_steps") is not None:
        return more
    if total is None:
        raise ValueError("Either num_training_steps or num_stable_steps must be specified.")
    if more.get("num_decay_steps") is None:
        raise ValueError("warmup_stable_decay requires `num_decay_steps`, please provide that argument.")
    return {**more, "num_stable_steps": total - (warmup or 0) - more["num_decay_steps"]}
