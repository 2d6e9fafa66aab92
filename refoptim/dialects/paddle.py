"""The optimizers of Paddle 3, by the names of torch.

A decay that torch adds to the gradient is Paddle's ``L2Decay``.
Source: https://www.paddlepaddle.org.cn/documentation/docs/en/api, tried beside Paddle itself on a processor.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]

WITNESS = "Paddle 3 on a processor, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam)
AdamW = preset(__name__, refoptim.AdamW)
NAdam = preset(__name__, refoptim.NAdam, lr=1e-3)
RAdam = preset(__name__, refoptim.RAdam)
Adamax = preset(__name__, refoptim.Adamax, "EpsBesideMaximum", lr=1e-3)
Adadelta = preset(__name__, refoptim.Adadelta, lr=1e-3, rho=0.95)
Adagrad = preset(__name__, refoptim.Adagrad, eps=1e-6)
RMSprop = preset(__name__, refoptim.RMSprop, "EpsInsideRoot", "LrInsideMomentum", alpha=0.95, eps=1e-6)
