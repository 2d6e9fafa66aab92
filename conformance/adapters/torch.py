"""torch.optim as it is installed: its loop over tensors, its foreach path, its fused kernels, on the CPU or on CUDA."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from refoptim.numerics.arith import COMPLEX, Array

from .. import oracle
from ..cases import Case
from ..trajectory import State
from . import LOOPS, Make, NotAvailable

FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
"""Optimizers with fused kernels on the CPU; all but Adagrad have them on CUDA too."""


def variant(name: str) -> Make:
    """Return what makes a variant: torch-for-loop, torch-foreach or torch-fused, with -cuda for tensors on CUDA."""
    loop, device = LOOPS[name.removesuffix("-cuda")], "cuda" if name.endswith("-cuda") else "cpu"
    if device == "cuda" and not oracle.torch().cuda.is_available():
        raise NotAvailable("not available: torch finds no CUDA device")
    return partial(Torch, loop, device)


class Torch(oracle.Torch):
    """torch.optim in one of its loops on one device."""

    promise = None
    partial_state = False

    def __init__(self, loop: str = "for-loop", device: str = "cpu") -> None:
        super().__init__(as_installed=True)
        self._device = device
        self._flag = {"for-loop": "foreach", "foreach": "foreach", "fused": "fused"}[loop]
        self._value = loop != "for-loop"

    def versions(self) -> dict[str, str]:
        """Return the version of torch and what its CPU loops use."""
        torch = oracle.torch()
        found = {"torch": torch.__version__, "CPU capability": torch.backends.cpu.get_cpu_capability()}
        return found | ({"GPU": torch.cuda.get_device_name()} if self._device == "cuda" else {})

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Say where torch has no such loop."""
        cls = getattr(oracle.torch().optim, case.optimizer, None)
        if cls is None:
            return f"torch has no {case.optimizer}"
        if case.is_cautious:
            return "no optimizer of torch is cautious"
        if self._value and self._flag not in inspect.signature(cls).parameters:
            return f"torch's {case.optimizer} has no {self._flag} path"
        if self._flag == "fused" and (dtype in COMPLEX or "nnz" in case.gradient):
            return "torch's fused kernels take dense real tensors"
        return None

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        cls = getattr(oracle.torch().optim, optimizer)
        loop = {self._flag: self._value} if self._flag in inspect.signature(cls).parameters else {}
        self._params = [self._tensor(np.array(p)) for p in parameters]
        self._build = partial(cls, self._params, **oracle.known_to(cls, hyper), **loop)
        self._optimizer = self._build()

    def _tensor(self, x: Any) -> Any:
        return oracle.to_torch(x).to(self._device)

    def step(self, grads: Sequence[Any]) -> None:
        with oracle.installed():
            for p, grad in zip(self._params, grads, strict=True):
                p.grad = None if grad is None else self._tensor(grad)
            self._optimizer.step()

    def parameters(self) -> list[Array]:
        return [oracle.to_numpy(p.cpu()) for p in self._params]

    def state(self) -> list[State]:
        return [oracle.plain_state(_on_cpu(self._optimizer.state.get(p, {}))) for p in self._params]


def _on_cpu(state: Mapping[str, Any]) -> State:
    return {name: x.cpu() if hasattr(x, "cpu") else x for name, x in state.items()}
