"""What is done to gradients before a step, to groups before an optimizer is made of them, and what works around one."""

from __future__ import annotations

from ..clip_grad import clip_grad_norm_, clip_grad_value_
from .gradients import adaptive_clip_grad_, centralize_grad_, clip_by_block_rms_, clip_by_global_norm_
from .lookahead import Lookahead
from .multi_steps import MultiSteps
from .recipes import param_groups
from .sam import SAM

__all__ = [
    "SAM",
    "Lookahead",
    "MultiSteps",
    "adaptive_clip_grad_",
    "centralize_grad_",
    "clip_by_block_rms_",
    "clip_by_global_norm_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "param_groups",
]
