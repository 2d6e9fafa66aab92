"""The optimizers of MLX, by the names of torch.

Source: https://ml-explore.github.io/mlx, tried beside MLX itself on a processor.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "RMSprop"]

WITNESS = "MLX on a processor, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "FirstStepDampened")
Adam = preset(__name__, refoptim.Adam, "NoBiasCorrection")
AdamW = preset(__name__, refoptim.AdamW, "NoBiasCorrection")
Adamax = preset(__name__, refoptim.Adamax, "NoBiasCorrection", "EpsOutsideMaximum", lr=1e-3)
Adadelta = preset(__name__, refoptim.Adadelta)
Adagrad = preset(__name__, refoptim.Adagrad, eps=1e-8)
RMSprop = preset(__name__, refoptim.RMSprop)
