"""Chainer on NumPy. Weight decay that torch adds to the gradient is Chainer's hook of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .peer import Hyper, Peer, Theirs, settings_of


def _made(name: str, rate: str, **settings: Any) -> Any:
    """Return what makes an optimizer of Chainer; a setting is a name of torch's or a function of all."""

    def make(h: Hyper) -> tuple[Any, str, float]:
        from chainer import optimizers

        values = settings_of(h, settings)
        given = {rate: h["lr"], **values} if rate else values
        hook = 0.0 if "weight_decay_rate" in settings else h.get("weight_decay", 0.0)
        return getattr(optimizers, name)(**given), rate, hook

    return make


BETAS = {"beta1": lambda h: h["betas"][0], "beta2": lambda h: h["betas"][1], "eps": "eps"}


def _sgd(h: Hyper) -> Any:
    if not h["momentum"]:
        return _made("SGD", "lr")(h)
    return _made("NesterovAG" if h["nesterov"] else "MomentumSGD", "lr", momentum="momentum")(h)


class Chainer(Peer):
    """chainer.optimizers."""

    package = "chainer"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening",)),
        "Adam": Theirs(_made("Adam", "alpha", amsgrad="amsgrad", **BETAS)),
        "AdamW": Theirs(_made("Adam", "alpha", amsgrad="amsgrad", weight_decay_rate="weight_decay", **BETAS)),
        "Adadelta": Theirs(_made("AdaDelta", "", rho="rho", eps="eps")),
        "Adagrad": Theirs(_made("AdaGrad", "lr", eps="eps"), ("lr_decay", "initial_accumulator_value")),
        "RMSprop": Theirs(_made("RMSprop", "lr", alpha="alpha", eps="eps"), ("momentum", "centered")),
    }

    def _begin(self, made: Any) -> None:
        import chainer

        self._optimizer, self._rate, decay = made
        self._link = chainer.Link()
        with self._link.init_scope():
            for i, p in enumerate(self._arrays):
                setattr(self._link, f"p{i}", chainer.Parameter(p))
        self._optimizer.setup(self._link)
        if decay:
            self._optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(decay))

    def _set_lr(self, lr: float) -> None:
        if self._rate:
            setattr(self._optimizer.hyperparam, self._rate, lr)

    def _step(self, grads: Sequence[Any]) -> None:
        members = [getattr(self._link, f"p{i}") for i in range(len(grads))]
        for p, g in zip(members, grads, strict=True):
            p.cleargrad()
            if g is not None:
                p.grad = np.array(g)
        self._optimizer.update()
        self._arrays = [np.array(p.array) for p in members]
