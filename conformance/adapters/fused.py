"""refoptim's kernels, on NumPy arrays and on CuPy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import refoptim
from refoptim import SparseGrad
from refoptim.engines import cuda, host, nvrtc
from refoptim.numerics.arith import Array

from ..cases import Case
from ..trajectory import State, all_hyper
from .numpy import NumPy


def unknown_to_kernels(case: Case) -> str | None:
    """Say which setting of a case the kernels of a rule do not know, or that it has none."""
    rule = getattr(refoptim, case.optimizer)
    if not rule.has_kernels:
        return f"{case.optimizer} has no kernels"
    lacking = rule.without_kernels(all_hyper(case.optimizer, case.hyper))
    return f"the kernels do not know {lacking}" if lacking else None


class Host(NumPy):
    """The kernels built for this computer."""

    def why_not(self, case: Case, dtype: str) -> str | None:
        return super().why_not(case, dtype) or unknown_to_kernels(case)

    def versions(self) -> dict[str, str]:
        """Return the versions of refoptim and NumPy, and what the kernels were built for."""
        return {**super().versions(), "instruction set": host.machine().variant}

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        super().make(optimizer, {**hyper, "fused": True}, parameters)


class Cuda(NumPy):
    """The kernels on a GPU; what is compared is copied from there."""

    def why_not(self, case: Case, dtype: str) -> str | None:
        return super().why_not(case, dtype) or unknown_to_kernels(case)

    def __init__(self) -> None:
        self._cupy = import_module("cupy")

    def versions(self) -> dict[str, str]:
        """Return the versions of refoptim, NumPy, CuPy and NVRTC, and the name of the GPU."""
        name = self._cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        compiler = ".".join(map(str, nvrtc.version(cuda.machine().major)))
        return {**super().versions(), "cupy": self._cupy.__version__, "NVRTC": compiler, "GPU": name}

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        self._arrays = [self._cupy.array(p) for p in parameters]
        self._build = partial(getattr(refoptim, optimizer), self._arrays, **{**hyper, "fused": True})
        self._optimizer = self._build()

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        super().step(list(map(self._there, grads)), estimates and list(map(self._there, estimates)))

    def _there(self, g: Any) -> Any:
        """Copy a gradient to the GPU."""
        if isinstance(g, SparseGrad):
            return SparseGrad(self._cupy.array(g.indices), self._cupy.array(g.values), g.shape)
        return g if g is None else self._cupy.array(g)

    def parameters(self) -> list[Array]:
        return [_here(p) for p in self._arrays]

    def state(self) -> list[State]:
        return [{name: _here(x) for name, x in state.items()} for state in super().state()]


def _here(x: Any) -> Any:
    """Copy an array from the GPU."""
    return x if isinstance(x, (int, np.generic)) else x.get()
