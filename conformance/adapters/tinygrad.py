"""tinygrad, on the device that it chooses. Its state is float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .peer import Hyper, Peer, Theirs


def _sgd(h: Hyper) -> Any:
    from tinygrad.nn.optim import SGD

    settings = {"momentum": h["momentum"], "weight_decay": h["weight_decay"], "nesterov": h["nesterov"]}
    return lambda tensors: SGD(tensors, lr=h["lr"], **settings)


def _adam(name: str, *keys: str) -> Any:
    def make(h: Hyper) -> Any:
        from tinygrad.nn import optim

        settings = {"b1": h["betas"][0], "b2": h["betas"][1], "eps": h["eps"], **{key: h[key] for key in keys}}
        return lambda tensors: getattr(optim, name)(tensors, lr=h["lr"], **settings)

    return make


class Tinygrad(Peer):
    """tinygrad.nn.optim."""

    package = "tinygrad"
    dtypes = ("float32",)
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening",)),
        "Adam": Theirs(_adam("Adam"), ("weight_decay", "amsgrad")),
        "AdamW": Theirs(_adam("AdamW", "weight_decay"), ("amsgrad",)),
    }

    def _begin(self, made: Any) -> None:
        from tinygrad import Tensor

        self._params = [Tensor(np.atleast_1d(p)) for p in self._arrays]  # of none it makes states of one axis
        self._optimizer = made(self._params)

    def _set_lr(self, lr: float) -> None:
        from tinygrad import Tensor

        rate = self._optimizer.lr
        rate.assign(Tensor(lr, dtype=rate.dtype).reshape(rate.shape)).realize()

    def _step(self, grads: Sequence[Any]) -> None:
        from tinygrad import Context, Tensor

        for p, g in zip(self._params, grads, strict=True):
            p.grad = Tensor(np.atleast_1d(np.ascontiguousarray(g)))
        with Context(TRAINING=1):
            self._optimizer.step()
        self._arrays = [p.numpy().reshape(x.shape) for p, x in zip(self._params, self._arrays, strict=True)]
