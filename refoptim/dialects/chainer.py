"""The optimizers of Chainer 7, by the names of torch.

A decay that torch adds to the gradient is Chainer's hook ``WeightDecay``; that of AdamW is ``weight_decay_rate``.
Source: https://docs.chainer.org/en/stable/reference/optimizers.html, tried beside Chainer itself.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "RMSprop"]

WITNESS = "Chainer 7 on NumPy, as it runs and as it was recorded"

DIFFERENT = ("MovedWithoutGradient",)
"""A gradient that is missing is one of zeros."""

SGD = preset(__name__, refoptim.SGD, *DIFFERENT, "NesterovAppliedTwice", "LrInsideMomentum", lr=0.01)
Adam = preset(__name__, refoptim.Adam, *DIFFERENT, "EpsUnscaled")
AdamW = preset(__name__, refoptim.AdamW, *DIFFERENT, "DecayWithoutLr", "EpsUnscaled")
Adadelta = preset(__name__, refoptim.Adadelta, *DIFFERENT, "LrIgnored", rho=0.95)
Adagrad = preset(__name__, refoptim.Adagrad, *DIFFERENT, lr=1e-3, eps=1e-8)
RMSprop = preset(__name__, refoptim.RMSprop, *DIFFERENT)
