"""The optimizers of Apex, by the names of torch.

Adam is FusedAdam with ``adam_w_mode=False``, AdamW is its default; the decay of FusedAdagrad is that of torch unless
``adagrad_w_mode`` is set, and that of FusedSGD unless ``wd_after_momentum`` is (flag ``DecayAfterMomentum``).
Source: https://github.com/NVIDIA/apex, csrc/multi_tensor_*.cu and apex/optimizers.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adagrad", "Adam", "AdamW"]

WITNESS = "the formulas of its source, in NumPy"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam, "StepShared")
AdamW = preset(__name__, refoptim.AdamW, "DecayInStep", "StepShared", weight_decay=0.0)
Adagrad = preset(__name__, refoptim.Adagrad)
