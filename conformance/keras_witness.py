"""Keras as a witness of a rule that it owns: its own code, on torch under the IEEE oracle.

With KERAS_BACKEND=torch every operation of an optimizer of Keras is one of torch's, which the oracle makes exact; its
powers of arrays are replaced by correctly rounded ones, and numbers are divided by tensors, which torch multiplies by
their reciprocals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np

from refoptim.numerics.arith import Array, neg
from refoptim.numerics.power import powers

from .cases import Witness
from .oracle import ieee, names_of_state, to_numpy, to_torch, torch
from .trajectory import State


class KerasPackage:
    """An optimizer of Keras as an implementation: one for each parameter, whose steps are counted here."""

    def __init__(self, witness: Witness) -> None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        self._witness = witness

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        keras = import_module("keras")
        if keras.backend.backend() != "torch":
            raise RuntimeError(f"the oracle needs KERAS_BACKEND=torch, and Keras runs on {keras.backend.backend()}")
        self._names, self._hyper, self._steps = (
            names_of_state(optimizer, hyper, (1,)),
            dict(hyper),
            [0] * len(parameters),
        )
        self._dtype = parameters[0].dtype.name
        with self._exactly():
            self._params = [keras.Variable(to_torch(np.array(p)), dtype=self._dtype, name="p") for p in parameters]
            self._optimizers = [self._built(p) for p in self._params]

    def _theirs(self) -> dict[str, Any]:
        """Return the settings by the names of Keras."""
        kept = {name: x for name, x in self._hyper.items() if name not in ("maximize", *self._witness.lacks)}
        return {self._witness.names.get(name, name): x for name, x in kept.items()} | self._witness.given

    def _built(self, p: Any) -> Any:
        made = getattr(import_module("keras.optimizers"), self._witness.cls.partition(":")[2])(**self._theirs())
        made.build([p])
        return made

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """Let Keras compute in the type of the parameters, and as the contract says."""
        keras, ops = import_module("keras"), import_module("keras.src.ops")
        before = keras.config.floatx()
        keras.config.set_floatx(self._dtype)
        try:
            with (
                ieee(),
                mock.patch.object(ops, "power", _power),
                mock.patch.object(torch().Tensor, "__rtruediv__", _quotient),
            ):
                yield
        finally:
            keras.config.set_floatx(before)

    def set(self, hyper: Mapping[str, Any]) -> None:
        self._hyper = dict(hyper)
        with self._exactly():
            for optimizer in self._optimizers:
                for name, x in self._theirs().items():
                    setattr(optimizer, name, x)

    def step(self, grads: Sequence[Any]) -> None:
        with self._exactly():
            for i, grad in enumerate(grads):
                if grad is not None:
                    given = to_torch(np.array(neg(grad) if self._hyper["maximize"] else grad))
                    self._optimizers[i].apply([given], [self._params[i]])
                    self._steps[i] += 1

    def resume(self) -> None:
        saved = [[deepcopy(to_numpy(x.value)) for x in optimizer.variables] for optimizer in self._optimizers]
        with self._exactly():
            self._optimizers = [self._built(p) for p in self._params]
            for optimizer, values in zip(self._optimizers, saved, strict=True):
                for variable, x in zip(optimizer.variables, values, strict=True):
                    variable.assign(to_torch(x))

    def parameters(self) -> list[Array]:
        return [to_numpy(p.value) for p in self._params]

    def state(self) -> list[State]:
        return [self._state_of(i) if self._steps[i] else {} for i in range(len(self._params))]

    def _state_of(self, i: int) -> State:
        kept = {x.name.removeprefix("p_"): x for x in self._optimizers[i].variables}
        found: State = {name: to_numpy(kept[self._witness.names.get(name, name)].value) for name in self._names}
        return found


def _quotient(x: Any, number: float) -> Any:
    """Answer number / x with one rounding."""
    return torch().full_like(x, number).div(x)


def _power(x: Any, y: float) -> Any:
    """Answer keras.ops.power with powers that are correctly rounded."""
    values = to_numpy(getattr(x, "value", x))
    with np.errstate(all="ignore"):
        return to_torch(np.asarray(powers(values, np.float64(y))))
