"""The pure rules of ``refoptim.functional`` on arrays of torch and of JAX, eagerly, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

import refoptim
from refoptim import functional
from refoptim.numerics.arith import Array
from refoptim.step.plan import filled
from refoptim.step.rule import has_sums_over_all, is_measured, resolve

from .. import oracle
from ..cases import Case
from ..trajectory import State
from . import Adapter, installed
from .fused import unknown_to_kernels


class Pure(Adapter):
    """The pure rules, each parameter by itself: one may have missed a step."""

    partial_state = False

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Say what the pure rules do not take from other libraries."""
        if unknown_to_kernels(case):  # FTRL's powers alone are such
            return "the powers of arrays are those of the library"
        if "nnz" in case.gradient:
            return "sparse gradients go with arrays of NumPy and CuPy"
        rule = getattr(refoptim, case.optimizer)
        if rule.in_single:
            return "state in 8 bits is defined for arrays of NumPy and CuPy"
        whole = is_measured(rule) or has_sums_over_all(rule) or case.hyper.get("cautious")
        return "rules that sum or count elements take arrays of NumPy and CuPy" if whole else None

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        self._rule = getattr(refoptim, optimizer)
        self._step = getattr(functional, self._rule.__module__.rpartition(".")[2])
        self._hyper = dict(hyper)
        self._params = [self._given(p) for p in parameters]
        self._states = [self._first_state(p) for p in parameters]
        self._counts = [0] * len(parameters)

    def _first_state(self, p: Array) -> dict[str, Any]:
        """Return the state before the first step, empty but for rules that make it with the optimizer."""
        if not self._rule.eager:
            return {}
        h = resolve(self._rule, self._rule([{"params": []}], **self._hyper).defaults)
        return {name: self._given(filled(p, p.shape, fill)) for name, fill in self._rule.arrays(h, p.shape).items()}

    def set(self, hyper: Mapping[str, Any]) -> None:
        self._hyper.update(hyper)

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            self._counts[i] += 1
            h = estimates[i] if estimates else None
            one = [self._params[i]], [self._given(g)], [self._states[i]], self._counts[i]
            with self._eager():
                (self._params[i],), (self._states[i],) = self._step(
                    *one, estimates=None if h is None else [self._given(h)], **self._hyper
                )

    def resume(self) -> None:
        """Save the state as NumPy's arrays, and go on with copies; numbers are NumPy's already."""
        self._states = [
            {name: x if isinstance(x, np.generic) else self._given(self._taken(x)) for name, x in kept.items()}
            for kept in self._states
        ]

    def parameters(self) -> list[Array]:
        return [np.asarray(self._taken(p)) for p in self._params]

    def state(self) -> list[State]:
        """Return the state of each parameter, and the number of its steps where the rule counts them."""
        kept = [{name: np.asarray(self._taken(x)) for name, x in state.items()} for state in self._states]
        counted = zip(kept, self._counts, strict=True)
        return [{**state, "step": n} if state and self._rule.counts_steps else state for state, n in counted]

    def _eager(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _given(self, x: Array) -> Any:
        """Return a copy of an array as one of the library."""
        raise NotImplementedError

    def _taken(self, x: Any) -> Array:
        """Return an array of the library, or a number, as NumPy's."""
        raise NotImplementedError


class Torch(Pure):
    """On tensors of torch."""

    def versions(self) -> dict[str, str]:
        torch = oracle.torch()
        found = {"torch": torch.__version__, "CPU capability": torch.backends.cpu.get_cpu_capability()}
        return {"refoptim": refoptim.__version__, **found}

    def _given(self, x: Array) -> Any:
        return oracle.to_torch(np.array(x))

    def _taken(self, x: Any) -> Array:
        return oracle.to_numpy(x) if hasattr(x, "detach") else x


class Jax(Pure):
    """On arrays of JAX, with float64 where the storage is float64, and without jit."""

    def versions(self) -> dict[str, str]:
        return {"refoptim": refoptim.__version__, "jax": installed("jax")}

    def _eager(self) -> AbstractContextManager[Any]:
        import jax

        wide: AbstractContextManager[Any] = jax.enable_x64(True)
        return wide

    def _given(self, x: Array) -> Any:
        import jax.numpy as jnp

        with self._eager():
            return jnp.asarray(np.array(x))

    def _taken(self, x: Any) -> Array:
        return np.asarray(x)
