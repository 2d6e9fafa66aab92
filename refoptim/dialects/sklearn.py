"""The optimizers of scikit-learn's neural networks, by the names of torch.

Their decay is a part of the loss, as if torch added it to the gradient.
Source: https://scikit-learn.org/stable/modules/neural_networks_supervised.html, tried beside scikit-learn itself.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adam"]

WITNESS = "scikit-learn, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "LrInsideMomentum", lr=0.1, momentum=0.9, nesterov=True)
Adam = preset(__name__, refoptim.Adam, "EpsUnscaled")
