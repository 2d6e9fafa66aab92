"""Keras 3 on the backend named by the environment variable KERAS_BACKEND, else the first of BACKENDS installed.

Keras' own arguments are used where torch's have a counterpart: ``weight_decay`` is Keras', which shrinks the parameter
for every optimizer, ``lr_decay`` is an InverseTimeDecay, and gradients have their signs turned to maximize. What Keras
computes in its default type is float64 where the storage is float64. Parameters are compared, not state.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import numpy as np

from refoptim.numerics.arith import COMPLEX, Array

from ..cases import Case
from . import Adapter, NotAvailable, Unsupported, all_hyper, by_count, installed

Hyper = Mapping[str, Any]

BACKENDS = ("jax", "torch", "tensorflow")


def _adam(h: Hyper) -> dict[str, Any]:
    amsgrad = {"amsgrad": h["amsgrad"]} if "amsgrad" in h else {}
    return {"beta_1": h["betas"][0], "beta_2": h["betas"][1], "epsilon": h["eps"], **amsgrad}


RULES: dict[str, tuple[str, Callable[[Hyper], dict[str, Any]]]] = {
    "SGD": ("SGD", lambda h: {"momentum": float(h["momentum"]), "nesterov": h["nesterov"]}),
    "Adam": ("Adam", _adam),
    "AdamW": ("AdamW", _adam),
    "NAdam": ("Nadam", _adam),
    "Adamax": ("Adamax", _adam),
    "Adadelta": ("Adadelta", lambda h: {"rho": h["rho"], "epsilon": h["eps"]}),
    "Adagrad": (
        "Adagrad",
        lambda h: {"initial_accumulator_value": h["initial_accumulator_value"], "epsilon": h["eps"]},
    ),
    "RMSprop": (
        "RMSprop",
        lambda h: {
            "rho": h["alpha"],
            "momentum": float(h["momentum"]),
            "epsilon": h["eps"],
            "centered": h["centered"],
        },
    ),
    "FTRL": (
        "Ftrl",
        lambda h: {
            "learning_rate_power": h["learning_rate_power"],
            "initial_accumulator_value": h["initial_accumulator_value"],
            "l1_regularization_strength": h["l1"],
            "l2_regularization_strength": h["l2"],
            "l2_shrinkage_regularization_strength": h["l2_shrinkage"],
            "beta": h["beta"],
        },
    ),
    "Lion": ("Lion", lambda h: dict(zip(("beta_1", "beta_2"), h["betas"], strict=True))),
}
"""Keras' name of an optimizer, and its arguments from torch's."""


SCHEDULES: dict[str, tuple[str, Callable[[float, Hyper], dict[str, Any]]]] = {
    "ExponentialLR": ("ExponentialDecay", lambda lr, s: {"decay_steps": 1, "decay_rate": s["gamma"]}),
    "StepLR": (
        "ExponentialDecay",
        lambda lr, s: {"decay_steps": s["step_size"], "decay_rate": s["gamma"], "staircase": True},
    ),
    "PolynomialLR": (
        "PolynomialDecay",
        lambda lr, s: {"decay_steps": s["total_iters"], "end_learning_rate": 0.0, "power": s["power"]},
    ),
    "CosineAnnealingLR": ("CosineDecay", lambda lr, s: {"decay_steps": s["T_max"], "alpha": s["eta_min"] / lr}),
    "CosineAnnealingWarmRestarts": (
        "CosineDecayRestarts",
        lambda lr, s: {"first_decay_steps": s["T_0"], "t_mul": float(s["T_mult"]), "alpha": s["eta_min"] / lr},
    ),
    "CosineDecayRestartsLR": ("CosineDecayRestarts", lambda lr, s: dict(s)),
}
"""Keras' name of a schedule, and its arguments from torch's; the first is the learning rate."""


def _schedule(name: str, s: Hyper, lr: float) -> Any:
    """Return Keras' schedule of the same purpose."""
    import keras

    schedules = keras.optimizers.schedules
    if name == "MultiStepLR":
        values = [lr * s["gamma"] ** i for i in range(len(s["milestones"]) + 1)]
        return schedules.PiecewiseConstantDecay(sorted(s["milestones"]), values)
    if name not in SCHEDULES:
        raise Unsupported(f"Keras has no {name} of this kind")
    theirs, arguments = SCHEDULES[name]
    return getattr(schedules, theirs)(lr, **arguments(lr, s))


def choose_backend() -> None:
    """Set KERAS_BACKEND to a backend that is installed, unless it is set or Keras has begun with one."""
    found = [name for name in BACKENDS if find_spec(name)]
    if found and "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", found[0])


class Keras(Adapter):
    """keras.optimizers."""

    promise = None

    def __init__(self) -> None:
        choose_backend()
        try:
            import keras  # noqa: F401
        except ImportError as error:
            raise NotAvailable(f"keras cannot be imported: {error}; set KERAS_BACKEND") from error

    def versions(self) -> dict[str, str]:
        import keras

        return {"keras": installed("keras"), "backend": keras.backend.backend()}

    def why_not(self, case: Case, dtype: str) -> str | None:
        if case.optimizer not in RULES:
            return f"Keras has no {case.optimizer} of this kind"
        if "nnz" in case.gradient or dtype in COMPLEX:
            return "no sparse gradients and no complex parameters"
        if case.hyper.get("dampening"):
            return "Keras has no dampening"
        fixed = {name for change in case.set.values() for name in change} - {"lr"}
        return f"Keras cannot change {sorted(fixed)[0]}" if fixed else None

    def make(self, optimizer: str, hyper: Hyper, parameters: Sequence[Array]) -> None:
        import keras

        self._name, self._hyper = optimizer, all_hyper(optimizer, hyper)
        self._dtype = parameters[0].dtype.name
        with self._default():
            self._params = [keras.Variable(p, dtype=self._dtype) for p in parameters]
            self._optimizer = self._build()

    def _default(self) -> _Wide:
        return _Wide(self._dtype == "float64")

    def _build(self) -> Any:
        import keras

        name, arguments = RULES[self._name]
        decay = self._hyper.get("weight_decay") or None
        made = getattr(keras.optimizers, name)(self._rate(), weight_decay=decay, **arguments(self._hyper))
        made.build(self._params)
        return made

    def _rate(self) -> Any:
        import keras

        lr, decay = self._hyper["lr"], self._hyper.get("lr_decay")
        return keras.optimizers.schedules.InverseTimeDecay(lr, 1, decay) if decay else lr

    def set(self, hyper: Hyper) -> None:
        with self._default():
            self._hyper = {**self._hyper, **hyper}
            self._optimizer.learning_rate = self._hyper["lr"]

    def step(self, grads: Sequence[Any]) -> None:
        sign = -1 if self._hyper.get("maximize") else 1
        with self._default(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            given = [None if g is None else self._tensor(sign * g) for g in grads]
            self._optimizer.apply(given, self._params)

    def _tensor(self, x: Array) -> Any:
        import keras

        return keras.ops.convert_to_tensor(x, dtype=self._dtype)

    def resume(self) -> None:
        with self._default():
            saved = [np.array(x) for x in self._optimizer.variables]
            self._optimizer = self._build()
            for variable, x in zip(self._optimizer.variables, saved, strict=True):
                variable.assign(x)

    def schedule(self, name: str, settings: Hyper, lr: float, epochs: int) -> list[float]:
        import keras

        with _Wide(True, compiled=False):  # else every epoch is compiled anew, and takes half a second
            made = _schedule(name, settings, lr)
            return by_count(lambda epoch: keras.ops.convert_to_numpy(made(epoch)), epochs)

    def parameters(self) -> list[Array]:
        import keras

        return [np.asarray(keras.ops.convert_to_numpy(p.value)) for p in self._params]


class _Wide:
    """Makes float64 Keras' default type inside the block, and lets JAX compute in it, compiled or at once."""

    def __init__(self, wide: bool, compiled: bool = True) -> None:
        self._wide, self._compiled = wide, compiled

    def __enter__(self) -> None:
        import keras

        self._before = keras.config.floatx()
        keras.config.set_floatx("float64" if self._wide else "float32")
        self._jax = ExitStack()
        if keras.backend.backend() == "jax":
            import jax

            self._jax.enter_context(jax.enable_x64(self._wide))
            self._jax.enter_context(jax.disable_jit(not self._compiled))

    def __exit__(self, *error: Any) -> None:
        import keras

        self._jax.close()
        keras.config.set_floatx(self._before)
