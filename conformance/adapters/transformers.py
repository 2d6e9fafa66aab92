"""The Adafactor of transformers. Its step is relative where lr is 0.01, which bounds it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .peer import Hyper, Peer, Theirs

BOUND = 0.01
"""What transformers' relative step is bounded by."""


def _adafactor(h: Hyper) -> Any:
    from transformers.optimization import Adafactor

    relative = h["lr"] == BOUND
    given = {"clip_threshold": h["d"], "decay_rate": h["beta2_decay"], "weight_decay": h["weight_decay"]}
    rate = {"relative_step": relative, "lr": None if relative else h["lr"]}
    return lambda params: Adafactor(params, eps=(h["eps"][0] or 0.0, h["eps"][1]), **given, **rate)


class Transformers(Peer):
    """transformers.optimization.Adafactor."""

    package = "transformers"
    skips = True
    rules: ClassVar[Mapping[str, Theirs]] = {"Adafactor": Theirs(_adafactor)}

    def _begin(self, made: Any) -> None:
        import torch

        self._params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in self._arrays]
        self._optimizer = made(self._params)

    def _set_lr(self, lr: float) -> None:
        self._optimizer.param_groups[0]["lr"] = lr

    def _step(self, grads: Sequence[Any]) -> None:
        import torch

        for p, g in zip(self._params, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(np.array(g))
        self._optimizer.step()
        self._arrays = [p.detach().numpy().copy() for p in self._params]
