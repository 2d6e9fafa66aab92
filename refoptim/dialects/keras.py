"""The optimizers of Keras 3.

Each decouples the weight decay, and one count of steps serves all parameters.
Source: https://keras.io/api/optimizers, tried beside Keras 3 itself.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["FTRL", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RMSprop"]

WITNESS = "Keras 3 on JAX, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "DecoupledDecay", "LrInsideMomentum", lr=0.01)
Adam = preset(__name__, refoptim.Adam, "DecoupledDecay", "EpsUnscaled", "StepShared", eps=1e-7)
AdamW = preset(__name__, refoptim.AdamW, "EpsUnscaled", "StepShared", eps=1e-7, weight_decay=0.004)
NAdam = preset(
    __name__,
    refoptim.NAdam,
    "DecoupledDecay",
    "MomentumDecayIgnored",
    "MuProductInDouble",
    "StepShared",
    lr=1e-3,
    eps=1e-7,
)
Adamax = preset(__name__, refoptim.Adamax, "DecoupledDecay", "EpsOutsideMaximum", "StepShared", lr=1e-3, eps=1e-7)
Adadelta = preset(__name__, refoptim.Adadelta, "DecoupledDecay", lr=1e-3, rho=0.95, eps=1e-7)
Adagrad = preset(
    __name__,
    refoptim.Adagrad,
    *("DecoupledDecay", "EpsInsideRoot", "StepShared"),
    lr=1e-3,
    initial_accumulator_value=0.1,
    eps=1e-7,
)
RMSprop = preset(
    __name__,
    refoptim.RMSprop,
    *("DecoupledDecay", "EpsInsideRoot", "LrInsideMomentum"),
    lr=1e-3,
    alpha=0.9,
    eps=1e-7,
)
FTRL = preset(__name__, refoptim.FTRL)
Lion = preset(__name__, refoptim.Lion, lr=1e-3)
