"""The optimizers of TensorFlow 1 (tf.compat.v1.train), eagerly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .peer import Hyper, Peer, Theirs, settings_of


def _made(name: str, **settings: Any) -> Any:
    """Return what makes an optimizer for a variable that holds lr; settings are torch's names or functions of all."""

    def make(h: Hyper) -> Any:
        import tensorflow as tf

        given = settings_of(h, settings)
        return lambda lr: getattr(tf.compat.v1.train, name)(lr, **given)

    return make


def _sgd(h: Hyper) -> Any:
    if not h["momentum"]:
        return _made("GradientDescentOptimizer")(h)
    return _made("MomentumOptimizer", momentum="momentum", use_nesterov="nesterov")(h)


class TensorFlow1(Peer):
    """tf.compat.v1.train."""

    package = "tensorflow"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening", "weight_decay")),
        "Adam": Theirs(
            _made("AdamOptimizer", beta1=lambda h: h["betas"][0], beta2=lambda h: h["betas"][1], epsilon="eps"),
            ("weight_decay", "amsgrad"),
        ),
        "Adadelta": Theirs(_made("AdadeltaOptimizer", rho="rho", epsilon="eps"), ("weight_decay",)),
        "Adagrad": Theirs(
            _made("AdagradOptimizer", initial_accumulator_value="initial_accumulator_value"),
            ("weight_decay", "lr_decay"),
        ),
        "RMSprop": Theirs(
            _made("RMSPropOptimizer", decay="alpha", momentum="momentum", epsilon="eps", centered="centered"),
            ("weight_decay",),
        ),
    }

    def why_not(self, case: Any, dtype: str) -> str | None:
        nothing = case.optimizer == "Adagrad" and not case.hyper.get("initial_accumulator_value")
        return super().why_not(case, dtype) or ("its accumulator must be positive" if nothing else None)

    def _begin(self, made: Any) -> None:
        import tensorflow as tf

        self._params = [tf.Variable(p) for p in self._arrays]
        self._lr = tf.Variable(self._hyper["lr"], dtype=tf.float64)
        self._optimizer = made(lambda: self._lr)

    def _set_lr(self, lr: float) -> None:
        self._lr.assign(lr)

    def _step(self, grads: Sequence[Any]) -> None:
        import tensorflow as tf

        pairs = [(tf.constant(g), p) for g, p in zip(grads, self._params, strict=True) if g is not None]
        self._optimizer.apply_gradients(pairs)
        self._arrays = [p.numpy() for p in self._params]
