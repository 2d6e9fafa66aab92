"""Adam and AdamW as torch had them before 1.3.

Source: https://github.com/pytorch/pytorch/blob/v1.2.0/torch/optim/adam.py and adamw.py.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["Adam", "AdamW"]

WITNESS = "the formulas of torch 1.2, in NumPy"

Adam = preset(__name__, refoptim.Adam, "EpsUnscaled")
AdamW = preset(__name__, refoptim.AdamW, "EpsUnscaled")
