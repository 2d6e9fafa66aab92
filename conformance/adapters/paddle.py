"""Paddle on a processor. A decay that torch adds to the gradient is Paddle's L2Decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .peer import Hyper, Peer, Theirs, settings_of


def _made(name: str, coupled: bool = True, **settings: Any) -> Any:
    """Return what makes an optimizer for parameters; settings are torch's names or functions of all."""

    def make(h: Hyper) -> Any:
        import paddle

        given = settings_of(h, settings)
        if coupled and h.get("weight_decay"):
            given["weight_decay"] = paddle.regularizer.L2Decay(h["weight_decay"])
        return lambda params: getattr(paddle.optimizer, name)(learning_rate=h["lr"], parameters=params, **given)

    return make


ADAM: dict[str, Any] = {"beta1": lambda h: h["betas"][0], "beta2": lambda h: h["betas"][1], "epsilon": "eps"}


def _sgd(h: Hyper) -> Any:
    if not h["momentum"]:
        return _made("SGD")(h)
    return _made("Momentum", momentum="momentum", use_nesterov="nesterov")(h)


class Paddle(Peer):
    """paddle.optimizer."""

    package = "paddlepaddle"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening",)),
        "Adam": Theirs(_made("Adam", amsgrad="amsgrad", **ADAM)),
        "AdamW": Theirs(_made("AdamW", coupled=False, weight_decay="weight_decay", amsgrad="amsgrad", **ADAM)),
        "NAdam": Theirs(_made("NAdam", momentum_decay="momentum_decay", **ADAM), ("decoupled_weight_decay",)),
        "RAdam": Theirs(_made("RAdam", **ADAM), ("decoupled_weight_decay",)),
        "Adamax": Theirs(_made("Adamax", **ADAM)),
        "Adadelta": Theirs(_made("Adadelta", rho="rho", epsilon="eps")),
        "Adagrad": Theirs(
            _made("Adagrad", initial_accumulator_value="initial_accumulator_value", epsilon="eps"), ("lr_decay",)
        ),
        "RMSprop": Theirs(_made("RMSProp", rho="alpha", epsilon="eps", momentum="momentum", centered="centered")),
    }

    def _begin(self, made: Any) -> None:
        import paddle

        paddle.set_device("cpu")
        self._params = [paddle.create_parameter(list(p.shape), p.dtype.name) for p in self._arrays]
        for p, x in zip(self._params, self._arrays, strict=True):
            p.set_value(x)
        self._optimizer = made(self._params)

    def _set_lr(self, lr: float) -> None:
        self._optimizer.set_lr(lr)

    def _step(self, grads: Sequence[Any]) -> None:
        import paddle

        for p, g in zip(self._params, grads, strict=True):
            p.grad = None if g is None else paddle.to_tensor(g, dtype=p.dtype)
        self._optimizer.step()
        self._arrays = [p.numpy().reshape(x.shape) for p, x in zip(self._params, self._arrays, strict=True)]
