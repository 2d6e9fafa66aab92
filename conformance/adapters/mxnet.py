"""MXNet on a processor, in float32 where it computes in that. Its SGD with Nesterov's momentum is NAG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..cases import Case
from .peer import Hyper, Peer, Theirs, settings_of


def _made(name: str, **settings: Any) -> Any:
    """Return what makes an optimizer; a setting is a name of torch's or a function of all."""

    def make(h: Hyper) -> Any:
        import mxnet

        given = settings_of(h, settings)
        decay = {"wd": h["weight_decay"]} if "weight_decay" in h else {}
        return mxnet.optimizer.create(name, learning_rate=h["lr"], **decay, **given)

    return make


ADAM: dict[str, Any] = {"beta1": lambda h: h["betas"][0], "beta2": lambda h: h["betas"][1], "epsilon": "eps"}

MOMENTS: dict[str, Any] = {"beta1": ADAM["beta1"], "beta2": ADAM["beta2"]}


def _sgd(h: Hyper) -> Any:
    return _made("nag" if h["nesterov"] else "sgd", momentum="momentum")(h)


IN_FLOAT32 = ("SGD", "Adam", "Adadelta", "Adagrad", "RMSprop")
"""Optimizers whose state, or whose operator's settings, are float32 whatever the parameter is."""


class Mxnet(Peer):
    """mxnet.optimizer."""

    package = "mxnet"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening",)),
        "Adam": Theirs(_made("adam", **ADAM), ("amsgrad",)),
        "NAdam": Theirs(_made("nadam", schedule_decay="momentum_decay", **ADAM), ("decoupled_weight_decay",)),
        "Adamax": Theirs(_made("adamax", **MOMENTS)),
        "Adadelta": Theirs(_made("adadelta", rho="rho", epsilon="eps")),
        "Adagrad": Theirs(_made("adagrad", eps="eps"), ("lr_decay", "initial_accumulator_value")),
        "RMSprop": Theirs(_made("rmsprop", gamma1="alpha", gamma2="momentum", epsilon="eps", centered="centered")),
    }

    def why_not(self, case: Case, dtype: str) -> str | None:
        plain = case.optimizer == "RMSprop" and bool(case.hyper.get("momentum")) and not case.hyper.get("centered")
        narrow = dtype == "float64" and case.optimizer in IN_FLOAT32
        return (
            super().why_not(case, dtype)
            or ("only centered, it has momentum" if plain else None)
            or (f"its {case.optimizer} computes in float32" if narrow else None)
        )

    def _begin(self, made: Any) -> None:
        import mxnet

        self._optimizer, self._update = made, mxnet.optimizer.get_updater(made)
        self._params = [mxnet.nd.array(p.reshape(-1), dtype=p.dtype) for p in self._arrays]

    def _set_lr(self, lr: float) -> None:
        self._optimizer.set_learning_rate(lr)

    def _step(self, grads: Sequence[Any]) -> None:
        import mxnet

        for i, (p, g) in enumerate(zip(self._params, grads, strict=True)):
            if g is not None:
                self._update(i, mxnet.nd.array(np.reshape(g, -1), dtype=p.dtype), p)
        self._arrays = [p.asnumpy().reshape(x.shape) for p, x in zip(self._params, self._arrays, strict=True)]
