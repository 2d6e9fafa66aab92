"""The CPU optimizers of DeepSpeed, by the names of torch.

Adam is DeepSpeedCPUAdam with ``adamw_mode=False``, AdamW is its default. Adagrad is DeepSpeedCPUAdagrad.
Source: https://github.com/deepspeedai/DeepSpeed, csrc/adam/cpu_adam_impl.cpp and csrc/adagrad/cpu_adagrad.cpp.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["Adagrad", "Adam", "AdamW"]

WITNESS = "the formulas of its source, in NumPy"

Adam = preset(__name__, refoptim.Adam, "AmsgradIgnored")
AdamW = preset(__name__, refoptim.AdamW, "AmsgradIgnored", weight_decay=0.0)
Adagrad = preset(__name__, refoptim.Adagrad)
