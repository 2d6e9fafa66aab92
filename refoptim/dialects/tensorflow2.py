"""The optimizers of TensorFlow 2 before Keras 3 (tf_keras.optimizers.legacy), by the names of torch.

They have no decay.
Source: https://www.tensorflow.org/api_docs/python/tf/keras/optimizers/legacy, tried beside tf_keras itself.
"""

from __future__ import annotations

import refoptim

from .change import AXES
from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RMSprop"]

WITNESS = "tf_keras.optimizers.legacy, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD, "LrInsideMomentum", lr=0.01)
Adam = preset(__name__, refoptim.Adam, "EpsUnscaled", "StepShared", eps=1e-7)
NAdam = preset(__name__, refoptim.NAdam, "StepShared", lr=1e-3, eps=1e-7)
Adamax = preset(__name__, refoptim.Adamax, "EpsOutsideMaximum", "StepShared", lr=1e-3, eps=1e-7)
Adadelta = preset(__name__, refoptim.Adadelta, lr=1e-3, rho=0.95, eps=1e-7)
Adagrad = preset(__name__, refoptim.Adagrad, lr=1e-3, initial_accumulator_value=0.1, eps=1e-7)
RMSprop = preset(
    __name__, refoptim.RMSprop, AXES["RMSprop", "EpsInsideRoot"][1], "LrInsideMomentum", lr=1e-3, alpha=0.9, eps=1e-7
)
