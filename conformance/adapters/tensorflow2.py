"""The optimizers of TensorFlow 2 before Keras 3 (tf_keras.optimizers.legacy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .peer import Hyper, Peer, Theirs, settings_of


def _made(name: str, **settings: Any) -> Any:
    """Return what makes an optimizer; settings are torch's names or functions of all."""

    def make(h: Hyper) -> Any:
        import tf_keras

        given = settings_of(h, settings)
        return getattr(tf_keras.optimizers.legacy, name)(h["lr"], **given)

    return make


ADAM: dict[str, Any] = {"beta_1": lambda h: h["betas"][0], "beta_2": lambda h: h["betas"][1], "epsilon": "eps"}


class TensorFlow2(Peer):
    """tf_keras.optimizers.legacy."""

    package = "tf_keras"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(
            _made("SGD", momentum=lambda h: float(h["momentum"]), nesterov="nesterov"), ("dampening", "weight_decay")
        ),
        "Adam": Theirs(_made("Adam", amsgrad="amsgrad", **ADAM), ("weight_decay",)),
        "NAdam": Theirs(_made("Nadam", schedule_decay="momentum_decay", **ADAM), ("weight_decay",)),
        "Adamax": Theirs(_made("Adamax", **ADAM), ("weight_decay",)),
        "Adadelta": Theirs(_made("Adadelta", rho="rho", epsilon="eps"), ("weight_decay",)),
        "Adagrad": Theirs(
            _made("Adagrad", initial_accumulator_value="initial_accumulator_value", epsilon="eps"),
            ("weight_decay", "lr_decay"),
        ),
        "RMSprop": Theirs(
            _made("RMSprop", rho="alpha", momentum=lambda h: float(h["momentum"]), epsilon="eps", centered="centered"),
            ("weight_decay",),
        ),
    }

    def _begin(self, made: Any) -> None:
        import tensorflow as tf

        self._params = [tf.Variable(p) for p in self._arrays]
        self._optimizer = made

    def _set_lr(self, lr: float) -> None:
        self._optimizer.learning_rate = lr

    def _step(self, grads: Sequence[Any]) -> None:
        import tensorflow as tf

        pairs = [(tf.constant(g), p) for g, p in zip(grads, self._params, strict=True) if g is not None]
        self._optimizer.apply_gradients(pairs)
        self._arrays = [p.numpy() for p in self._params]
