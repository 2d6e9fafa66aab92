"""The AdamW of llm.c.

Source: https://github.com/karpathy/llm.c, llmc/adamw.cuh.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["AdamW"]

WITNESS = "the formula of its source, in NumPy"

AdamW = preset(__name__, refoptim.AdamW, "DecayInStep", lr=3e-4, betas=(0.9, 0.95), weight_decay=0.0)
