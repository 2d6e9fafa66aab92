"""A whole run: parameters, an optimizer, a chain of schedules, an average, a scaler, clipping, and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

import refoptim
from helpers.kept import kept
from helpers.rooms import DENSE, SETTINGS
from helpers.wider import apart
from refoptim import Parameter, SparseGrad
from refoptim import lr_scheduler as lrs
from refoptim.amp import GradScaler
from refoptim.clip_grad import clip_grad_norm_
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn

CLOSURES: dict[str, dict[str, Any]] = {
    "LBFGS": dict(lr=0.3, max_iter=3, history_size=4, line_search_fn="strong_wolfe"),
    "ConjugateGradient": dict(lr=0.3, max_iter=3),
}
"""The optimizers that call a closure, and their settings."""

ALL = [*SETTINGS, *CLOSURES]


class Run:
    """A run of an optimizer."""

    def __init__(self, name: str, dtype: str = "float32", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.name = name
        self.model = {"w": rng.standard_normal((4, 3)).astype(dtype), "v": rng.standard_normal((3, 2)).astype(dtype)}
        named = [(key, Parameter(x)) for key, x in self.model.items()]
        self.parameters = [p for _, p in named]
        settings = SETTINGS.get(name) or CLOSURES[name]
        groups: Any = (
            [{"params": named}]
            if name in CLOSURES
            else [{"params": named[:1]}, {"params": named[1:], **apart(name, 0.01)}]
        )
        self.optimizer = getattr(refoptim, name)(groups, **settings)
        warm_up = lrs.LinearLR(self.optimizer, 0.5, 1.0, 3)
        cosine = lrs.CosineAnnealingLR(self.optimizer, 6, 1e-3)
        decay = lrs.LambdaLR(self.optimizer, lambda epoch: 0.9**epoch)
        self.scheduler = lrs.SequentialLR(self.optimizer, [warm_up, cosine, decay], [3, 7])
        self.average = AveragedModel(self.model, avg_fn=get_ema_avg_fn(0.8))
        self.scaler = GradScaler(init_scale=4.0, growth_interval=3)
        self.rng, self.epoch = np.random.default_rng(seed + 1), 0

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint takes over."""
        names = ("model", "optimizer", "scheduler", "average", "scaler", "rng")
        return {name: getattr(self, name) for name in names}

    def train(self, steps: int) -> Run:
        for _ in range(steps):
            self._step()
            self.scheduler.step()
            self.average.update_parameters(self.model)
            self.epoch += 1
        return self

    def _step(self) -> None:
        noise = [self.rng.standard_normal(p.shape).astype(p.dtype) for p in self.parameters]
        if self.name in CLOSURES:
            self.optimizer.step(lambda: self._loss(noise))
            return
        if self.name in DENSE:
            self._slope(noise)
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, 2.0)
            self.scaler.step(self.optimizer)
        else:
            rows, scale = [[0, 2, 0]], self.scaler.scale
            self.scaler.step(self.optimizer, grads=[SparseGrad(rows, scale(x[rows[0]]), x.shape) for x in noise])
        self.scaler.update()

    def _loss(self, noise: list[Any]) -> float:
        """Set clipped gradients, and return a loss."""
        for p, x in zip(self.parameters, noise, strict=True):
            p.grad = p.data * p.data * p.data + x / 8
        clip_grad_norm_(self.parameters, 2.0)
        return float(sum((p.data.astype("float64") ** 4).sum() / 4 for p in self.parameters))

    def _slope(self, noise: list[Any]) -> None:
        """Set scaled gradients."""
        for p, x in zip(self.parameters, noise, strict=True):
            p.grad = self.scaler.scale(p.data * p.data * p.data + x / 8)

    def look(self) -> Any:
        """Return all there is to see, in a form that is equal to another only if all bits are."""
        states = [part.state_dict() for part in (self.optimizer, self.scheduler, self.average, self.scaler)]
        groups = [{k: x for k, x in group.items() if k != "params"} for group in self.optimizer.param_groups]
        return kept([self.model, *states, groups, self.rng.bit_generator.state])
