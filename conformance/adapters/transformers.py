"""The Adafactor of transformers. Its step is relative where lr is 0.01, which bounds it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import lr_witnesses
from . import Unsupported
from .peer import Hyper, Theirs, TorchPeer

BOUND = 0.01
"""What transformers' relative step is bounded by."""


def _adafactor(h: Hyper) -> Any:
    from transformers import optimization

    adafactor: Any = optimization.Adafactor  # which has no types
    relative = h["lr"] == BOUND
    given = {"clip_threshold": h["d"], "decay_rate": h["beta2_decay"], "weight_decay": h["weight_decay"]}
    rate = {"relative_step": relative, "lr": None if relative else h["lr"]}
    return lambda params: adafactor(params, eps=(h["eps"][0] or 0.0, h["eps"][1]), **given, **rate)


class Transformers(TorchPeer):
    """transformers.optimization.Adafactor."""

    package = "transformers"
    rules: ClassVar[Mapping[str, Theirs]] = {"Adafactor": Theirs(_adafactor)}

    def schedule(self, name: str, settings: Hyper, lr: float, epochs: int) -> list[float]:
        if name not in lr_witnesses.HF:
            raise Unsupported(f"transformers has no {name} of its own")
        return lr_witnesses.transformers(name, settings, lr, epochs)
