"""ONNX's reference operators Adam, Adagrad and Momentum (ai.onnx.preview.training, version 1).

T is the number of updates before this one, so that it is 0 in the first step. A model of one node is run for each
parameter. Momentum's beta is ``1 - dampening``; gradients have their signs turned to maximize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refoptim.numerics.arith import Array

from ..cases import Case
from ..trajectory import State
from . import Adapter, all_hyper, installed

Hyper = Mapping[str, Any]
DOMAIN = "ai.onnx.preview.training"


def _adam(h: Hyper) -> dict[str, Any]:
    return {"alpha": h["betas"][0], "beta": h["betas"][1], "epsilon": h["eps"], "norm_coefficient": h["weight_decay"]}


def _adagrad(h: Hyper) -> dict[str, Any]:
    return {"decay_factor": h["lr_decay"], "epsilon": h["eps"], "norm_coefficient": h["weight_decay"]}


def _momentum(h: Hyper) -> dict[str, Any]:
    settings = {"alpha": h["momentum"], "beta": 1.0 - h["dampening"], "norm_coefficient": h["weight_decay"]}
    return {**settings, "mode": "nesterov" if h["nesterov"] else "standard"}


RULES: dict[str, tuple[str, Callable[[Hyper], dict[str, Any]], list[str]]] = {
    "Adam": ("Adam", _adam, ["exp_avg", "exp_avg_sq"]),
    "Adagrad": ("Adagrad", _adagrad, ["sum"]),
    "SGD": ("Momentum", _momentum, ["momentum_buffer"]),
}
"""The operator, its attributes, and torch's names of its state."""


class Onnx(Adapter):
    """ONNX's ReferenceEvaluator."""

    promise = None

    def versions(self) -> dict[str, str]:
        return {"onnx": installed("onnx")}

    def why_not(self, case: Case, dtype: str) -> str | None:
        if case.optimizer not in RULES:
            return f"ONNX has no operator {case.optimizer}"
        if dtype not in ("float32", "float64") or "nnz" in case.gradient:
            return "the operators take dense float32 and float64 tensors"
        return "ONNX has no amsgrad" if case.hyper.get("amsgrad") else None

    def make(self, optimizer: str, hyper: Hyper, parameters: Sequence[Array]) -> None:
        self._name, self._hyper = optimizer, all_hyper(optimizer, hyper)
        self._params, self._counts = [np.array(p) for p in parameters], [0] * len(parameters)
        start = self._hyper.get("initial_accumulator_value", 0.0)
        self._state = [[np.full_like(p, start) for _ in RULES[optimizer][2]] for p in parameters]
        self._models = [self._model(p.ndim, p.dtype) for p in parameters]

    def _model(self, rank: int, dtype: Any) -> Any:
        """Return an evaluator of one operator on tensors of a rank."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        operator, attributes, names = RULES[self._name]
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        inputs, outputs = ["R", "T", "X", "G", *names], ["X_new", *(name + "_new" for name in names)]
        node = helper.make_node(operator, inputs, outputs, domain=DOMAIN, **attributes(self._hyper))
        kinds: dict[str, Any] = {"R": (kind, []), "T": (helper.TensorProto.INT64, [])}
        tensor = (kind, [None] * rank)
        described = [helper.make_tensor_value_info(name, *kinds.get(name, tensor)) for name in inputs]
        made = [helper.make_tensor_value_info(name, *tensor) for name in outputs]
        graph = helper.make_graph([node], operator, described, made)
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid(DOMAIN, 1)]))

    def set(self, hyper: Hyper) -> None:
        self._hyper = {**self._hyper, **hyper}
        self._models = [self._model(p.ndim, p.dtype) for p in self._params]

    def step(self, grads: Sequence[Any]) -> None:
        sign = -1 if self._hyper.get("maximize") else 1
        with np.errstate(all="ignore"):
            for i, g in enumerate(grads):
                if g is not None:
                    self._update(i, sign * g)

    def _update(self, i: int, g: Array) -> None:
        p, names = self._params[i], RULES[self._name][2]
        given = {"R": np.array(self._hyper["lr"], p.dtype), "T": np.array(self._counts[i]), "X": p, "G": g}
        x, *state = self._models[i].run(None, given | dict(zip(names, self._state[i], strict=True)))
        self._params[i] = np.asarray(x, p.dtype)
        self._state[i] = [np.asarray(s, p.dtype) for s in state]
        self._counts[i] += 1

    def resume(self) -> None:
        """Everything is handed to the operators in each step: there is nothing to save."""

    def parameters(self) -> list[Array]:
        return self._params

    def state(self) -> list[State]:
        """Return what torch keeps too: no buffer without momentum, and none before the first update."""
        begun = [self._name == "Adagrad" or count > 0 for count in self._counts]
        names = [] if self._hyper.get("momentum") == 0 else RULES[self._name][2]
        pairs = zip(self._state, begun, strict=True)
        return [dict(zip(names, kept, strict=False)) if started else {} for kept, started in pairs]
