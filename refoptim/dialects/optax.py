"""The optimizers of optax 0.2, by the names of torch.

A decay that torch adds to the gradient is ``optax.add_decayed_weights`` before the rule.
Source: https://optax.readthedocs.io, tried beside optax itself.
"""

from __future__ import annotations

import refoptim

from .change import AXES
from .preset import preset

__all__ = [
    *("ADOPT", "SGD", "AdaBelief", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Adan", "Lion", "NAdam"),
    *("Prodigy", "RAdam", "RMSprop", "Rprop", "Yogi"),
]

WITNESS = "optax 0.2, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam, "AmsgradAfterCorrection")
AdamW = preset(__name__, refoptim.AdamW, "AmsgradAfterCorrection", weight_decay=1e-4)
NAdam = preset(__name__, refoptim.NAdam, AXES["NAdam", "MomentumDecayIgnored"][1], "MuProductInDouble")
RAdam = preset(__name__, refoptim.RAdam, "EpsScaled")
Adamax = preset(__name__, refoptim.Adamax)
Adadelta = preset(__name__, refoptim.Adadelta)
Adagrad = preset(__name__, refoptim.Adagrad, "EpsInsideRoot", initial_accumulator_value=0.1, eps=1e-7)
RMSprop = preset(__name__, refoptim.RMSprop, "EpsInsideRoot", "LrInsideMomentum", alpha=0.9)
Rprop = preset(__name__, refoptim.Rprop, "StepLags")
Lion = preset(__name__, refoptim.Lion, weight_decay=1e-3)
AdaBelief = preset(__name__, refoptim.AdaBelief, rectify=False)
Adan = preset(__name__, refoptim.Adan, "BetaOfDifferenceComplemented")
ADOPT = preset(__name__, refoptim.ADOPT, clip_exp=0.25)
Yogi = preset(__name__, refoptim.Yogi)
Prodigy = preset(__name__, refoptim.Prodigy, use_bias_correction=True)
