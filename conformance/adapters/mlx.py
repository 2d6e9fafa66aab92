"""MLX on a processor, in float64 where the storage is float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .peer import Hyper, Peer, Theirs


def _made(name: str, *keys: str, **renamed: str) -> Any:
    """Return what makes an optimizer of MLX of torch's hyperparameters."""

    def make(h: Hyper) -> Any:
        import mlx.optimizers

        settings = {key: h[key] for key in keys} | {theirs: h[ours] for theirs, ours in renamed.items()}
        return getattr(mlx.optimizers, name)(h["lr"], **settings)

    return make


class Mlx(Peer):
    """mlx.optimizers."""

    package = "mlx"
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_made("SGD", "momentum", "weight_decay", "dampening", "nesterov")),
        "Adam": Theirs(_made("Adam", "betas", "eps"), ("weight_decay", "amsgrad")),
        "AdamW": Theirs(_made("AdamW", "betas", "eps", "weight_decay"), ("amsgrad",)),
        "Adamax": Theirs(_made("Adamax", "betas", "eps"), ("weight_decay",)),
        "Adadelta": Theirs(_made("AdaDelta", "rho", "eps"), ("weight_decay",)),
        "Adagrad": Theirs(_made("Adagrad", "eps"), ("weight_decay", "lr_decay", "initial_accumulator_value")),
        "RMSprop": Theirs(_made("RMSprop", "alpha", "eps"), ("weight_decay", "momentum", "centered")),
    }

    def _begin(self, made: Any) -> None:
        import mlx.core as mx

        mx.set_default_device(mx.cpu)
        self._optimizer = made
        self._params = {str(i): self._array(p) for i, p in enumerate(self._arrays)}
        self._optimizer.init(self._params)

    def _array(self, x: Any) -> Any:
        import mlx.core as mx

        return mx.array(x, dtype=mx.float64 if x.dtype == np.float64 else mx.float32)

    def _set_lr(self, lr: float) -> None:
        self._optimizer.learning_rate = lr

    def _step(self, grads: Sequence[Any]) -> None:
        given = {str(i): self._array(g) for i, g in enumerate(grads)}
        self._params = self._optimizer.apply_gradients(given, self._params)
        self._arrays = [np.array(self._params[str(i)]) for i in range(len(grads))]
