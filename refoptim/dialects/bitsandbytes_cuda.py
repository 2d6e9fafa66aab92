"""The Adam and AdamW of bitsandbytes as its CUDA kernels have them: the decay follows the update.

The other optimizers are those of ``bitsandbytes``.
Source: https://github.com/bitsandbytes-foundation/bitsandbytes, csrc/kernels.cu, kOptimizer32bit2State.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["Adam", "AdamW"]

WITNESS = "the formula of its source, in NumPy"

Adam = preset(__name__, refoptim.Adam, "DecayAfterUpdate", "AmsgradIgnored")
AdamW = preset(__name__, refoptim.AdamW, "DecayAfterUpdate", "AmsgradIgnored")
