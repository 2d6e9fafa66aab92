"""The 32-bit optimizers of bitsandbytes as its code for processors has them, by the names of torch.

``bitsandbytes_cuda`` has those that CUDA computes in another order. All is float32.
Source: https://github.com/bitsandbytes-foundation/bitsandbytes, tried beside bitsandbytes itself on a processor.
"""

from __future__ import annotations

import refoptim

from .change import AXES
from .preset import preset

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]

WITNESS = "bitsandbytes on a processor, in float32, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "DampeningIgnored", AXES["SGD", "NesterovIgnored"][1])
Adam = preset(__name__, refoptim.Adam, "DecoupledDecay", "AmsgradIgnored")
AdamW = preset(__name__, refoptim.AdamW, "AmsgradIgnored")
Adagrad = preset(__name__, refoptim.Adagrad)
RMSprop = preset(__name__, refoptim.RMSprop, "MomentumIgnored")
