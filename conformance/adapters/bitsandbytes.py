"""The 32-bit optimizers of bitsandbytes, on a processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..cases import Case
from .peer import Hyper, Theirs, TorchPeer


def _made(name: str, *keys: str) -> Any:
    """Return what makes an optimizer for parameters, with settings of torch's names."""

    def make(h: Hyper) -> Any:
        from bitsandbytes import optim

        given = {key: h[key] for key in (*keys, "lr", "weight_decay")}
        return lambda params: getattr(optim, name)(params, optim_bits=32, **given)

    return make


class Bitsandbytes(TorchPeer):
    """bitsandbytes.optim."""

    package = "bitsandbytes"
    dtypes = ("float32",)
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_made("SGD", "momentum", "dampening", "nesterov")),
        "Adam": Theirs(_made("Adam", "betas", "eps", "amsgrad")),
        "AdamW": Theirs(_made("AdamW", "betas", "eps", "amsgrad")),
        "Adagrad": Theirs(_made("Adagrad", "eps"), ("lr_decay", "initial_accumulator_value")),
        "RMSprop": Theirs(_made("RMSprop", "alpha", "eps", "momentum"), ("centered",)),
    }

    def why_not(self, case: Case, dtype: str) -> str | None:
        plain = case.optimizer == "SGD" and not case.hyper.get("momentum")
        return super().why_not(case, dtype) or ("it has no SGD without momentum" if plain else None)
