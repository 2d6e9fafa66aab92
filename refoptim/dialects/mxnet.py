"""The optimizers of MXNet 1.9, by the names of torch.

Its SGD with ``nesterov`` is NAG. The decay is decoupled in Adagrad and Adadelta, and added to the gradient elsewhere.
Momentum in RMSprop is for ``centered`` alone.
Source: https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/optimizer, tried beside MXNet itself.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RMSprop"]

WITNESS = "MXNet 1.9 on a processor, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "DecayOfMovedParameter", "LrInsideMomentum", lr=0.01)
Adam = preset(__name__, refoptim.Adam, "EpsUnscaled")
NAdam = preset(__name__, refoptim.NAdam, "MuProductInDouble", "MuProductShared", lr=1e-3)
Adamax = preset(__name__, refoptim.Adamax, "EpsIgnored")
Adadelta = preset(__name__, refoptim.Adadelta, *("LrIgnored", "DecoupledDecay", "DecayWithoutLr"), eps=1e-5)
Adagrad = preset(__name__, refoptim.Adagrad, "EpsInsideRoot", "DecoupledDecay", eps=1e-7)
RMSprop = preset(__name__, refoptim.RMSprop, "EpsInsideRoot", "LrInsideMomentum", lr=1e-3, alpha=0.9)
