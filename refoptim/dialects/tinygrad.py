"""The optimizers of tinygrad, by the names of torch.

Their state, and with it the step, is float32.
Source: https://docs.tinygrad.org/nn, tried beside tinygrad itself on a processor.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adam", "AdamW"]

WITNESS = "tinygrad on a processor, in float32, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam)
AdamW = preset(__name__, refoptim.AdamW, "DecayInStep")
