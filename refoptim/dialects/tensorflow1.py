"""The optimizers of TensorFlow 1 (tf.compat.v1.train), by the names of torch. They have no decay.

Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/train, tried beside TensorFlow 2.21, eagerly.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "RMSprop"]

WITNESS = "tf.compat.v1.train of TensorFlow 2.21, as it runs and as it was recorded"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam, "EpsUnscaled", "StepShared")
Adadelta = preset(__name__, refoptim.Adadelta, lr=1e-3, rho=0.95, eps=1e-8)
Adagrad = preset(__name__, refoptim.Adagrad, "EpsIgnored", initial_accumulator_value=0.1)
RMSprop = preset(
    __name__, refoptim.RMSprop, *("InitialSquaresOne", "EpsInsideRoot", "LrInsideMomentum"), alpha=0.9, eps=1e-10
)
