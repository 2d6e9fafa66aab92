"""States of optax and Keras after a few steps, and what those do in the next one: live, or recorded in ``tests/data``.

``PYTHONPATH=.:tests python -m helpers.foreign`` records them anew, where optax, Keras (on JAX) and h5py are installed.
"""

from __future__ import annotations

import json
import os
from collections import namedtuple
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "foreign"

LR = 0.125
"""A power of two, so that what is divided by it, and multiplied again, keeps its bits."""

NAMES = ("dense.b", "dense.w", "out.0")


class Case(NamedTuple):
    """A rule of refoptim with settings, and what the other library calls it."""

    rule: str
    settings: dict[str, Any]
    theirs: str
    arguments: dict[str, Any] = {}
    steps: int = 3
    warns: str = ""
    same: bool = True
    tells: bool = True


ADAM = {"betas": (0.8, 0.9), "eps": 1e-3}
ADAM_OPTAX = {"b1": 0.8, "b2": 0.9, "eps": 1e-3}
ADAM_KERAS = {"beta_1": 0.8, "beta_2": 0.9}

OPTAX = {
    "sgd": Case("SGD", {}, "sgd"),
    "sgd-momentum": Case("SGD", {"momentum": 0.9}, "sgd", {"momentum": 0.9}),
    "sgd-nesterov": Case("SGD", {"momentum": 0.9, "nesterov": True}, "sgd", {"momentum": 0.9, "nesterov": True}),
    "adam": Case("Adam", ADAM, "adam", ADAM_OPTAX),
    "amsgrad": Case("Adam", {**ADAM, "amsgrad": True}, "amsgrad", ADAM_OPTAX, warns="corrected averages", same=False),
    "adamw": Case("AdamW", {**ADAM, "weight_decay": 0.2}, "adamw", {**ADAM_OPTAX, "weight_decay": 0.2}),
    "radam": Case("RAdam", {**ADAM, "eps": 0.0}, "radam", {**ADAM_OPTAX, "eps": 0.0}, steps=8),
    "radam-eps": Case("RAdam", ADAM, "radam", ADAM_OPTAX, steps=8, warns="eps is added after", same=False),
    "adamax": Case("Adamax", ADAM, "adamax", ADAM_OPTAX),
    "adadelta": Case("Adadelta", {"rho": 0.8, "eps": 1e-3}, "adadelta", {"rho": 0.8, "eps": 1e-3}, tells=False),
    "adagrad": Case("Adagrad", {"eps": 0.0}, "adagrad", {"eps": 0.0}, tells=False),
    "adagrad-eps": Case(
        "Adagrad", {"eps": 0.1}, "adagrad", {"eps": 0.1}, tells=False, warns="inside the root", same=False
    ),
    "rmsprop": Case("RMSprop", {"alpha": 0.8, "eps": 0.0}, "rmsprop", {"decay": 0.8, "eps": 0.0}, tells=False),
    "rmsprop-all": Case(
        "RMSprop",
        {"alpha": 0.8, "eps": 1e-3, "momentum": 0.5, "centered": True},
        "rmsprop",
        {"decay": 0.8, "eps": 1e-3, "momentum": 0.5, "centered": True, "eps_in_sqrt": False},
        tells=False,
        warns="the momentum holds lr as a factor",
    ),
    "nadam": Case("NAdam", {**ADAM, "momentum_decay": 1e6}, "nadam", ADAM_OPTAX, warns="the momentum has no schedule"),
    "rprop": Case("Rprop", {}, "rprop", tells=False, warns="each step is that of the step before", same=False),
}
"""Names of cases, with settings by which both rules are one, but where ``same`` is False."""

KERAS = {
    "sgd": Case("SGD", {}, "SGD"),
    "sgd-momentum": Case("SGD", {"momentum": 0.9}, "SGD", {"momentum": 0.9}, warns="holds lr as a factor"),
    "sgd-nesterov": Case(
        "SGD",
        {"momentum": 0.9, "nesterov": True},
        "SGD",
        {"momentum": 0.9, "nesterov": True},
        warns="holds lr as a factor",
    ),
    "adam": Case("Adam", {**ADAM, "eps": 0.0}, "Adam", {**ADAM_KERAS, "epsilon": 0.0}),
    "adam-eps": Case("Adam", ADAM, "Adam", {**ADAM_KERAS, "epsilon": 1e-3}, warns="uncorrected root", same=False),
    "amsgrad": Case(
        "Adam", {**ADAM, "eps": 0.0, "amsgrad": True}, "Adam", {**ADAM_KERAS, "epsilon": 0.0, "amsgrad": True}
    ),
    "adamw": Case(
        "AdamW", {**ADAM, "eps": 0.0, "weight_decay": 0.2}, "AdamW", {**ADAM_KERAS, "epsilon": 0.0, "weight_decay": 0.2}
    ),
    "nadam": Case("NAdam", {**ADAM, "momentum_decay": 1.0}, "Nadam", {**ADAM_KERAS, "epsilon": 1e-3}),
    "adamax": Case("Adamax", {**ADAM, "eps": 0.0}, "Adamax", {**ADAM_KERAS, "epsilon": 0.0}),
    "adadelta": Case("Adadelta", {"rho": 0.8, "eps": 1e-3}, "Adadelta", {"rho": 0.8, "epsilon": 1e-3}),
    "adagrad": Case("Adagrad", {"eps": 0.0}, "Adagrad", {"epsilon": 0.0, "initial_accumulator_value": 0.1}),
    "rmsprop": Case("RMSprop", {"alpha": 0.8, "eps": 0.0}, "RMSprop", {"rho": 0.8, "epsilon": 0.0}),
    "rmsprop-all": Case(
        "RMSprop",
        {"alpha": 0.8, "eps": 0.0, "momentum": 0.5, "centered": True},
        "RMSprop",
        {"rho": 0.8, "epsilon": 0.0, "momentum": 0.5, "centered": True},
        warns="holds lr as a factor",
    ),
    "decay": Case(
        "Adadelta",
        {"rho": 0.8, "weight_decay": 0.1},
        "Adadelta",
        {"rho": 0.8},
        warns="shrinks the parameter",
        same=False,
    ),
}


class Run(NamedTuple):
    """What a library has done: its state after some steps, the parameters there, a gradient, and those after it."""

    state: Any
    before: list[np.ndarray[Any, Any]]
    grads: list[np.ndarray[Any, Any]]
    after: list[np.ndarray[Any, Any]]


def start(dtype: str) -> list[np.ndarray[Any, Any]]:
    """Return the parameters, in the order of ``NAMES``, which is that of JAX."""
    rng = np.random.default_rng(11)
    return [rng.normal(size=shape).astype(dtype) for shape in [(3,), (2, 3), ()]]


def gradients(step: int, dtype: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(100 + step)
    return [np.asarray(rng.normal(size=shape), dtype) for shape in [(3,), (2, 3), ()]]


def tree(arrays: Sequence[Any]) -> dict[str, Any]:
    """Return the parameters as users of JAX have them."""
    return {"dense": {"w": arrays[1], "b": arrays[0]}, "out": [arrays[2]]}


def flat(x: Any) -> list[np.ndarray[Any, Any]]:
    return [np.array(x["dense"]["b"]), np.array(x["dense"]["w"]), np.array(x["out"][0])]


def run_optax(case: Case, dtype: str) -> Run:
    """Run optax, in a chain with clipping that does nothing."""
    import jax
    import optax

    with jax.enable_x64(dtype == "float64"):
        rule = optax.chain(optax.clip(1e9), getattr(optax, case.theirs)(LR, **case.arguments))
        params = jax.tree.map(jax.numpy.asarray, tree(start(dtype)))
        state = rule.init(params)
        runs = [params]
        for step in range(case.steps + 1):
            before = state
            given = jax.tree.map(jax.numpy.asarray, tree(gradients(step, dtype)))
            updates, state = rule.update(given, state, params)
            params = optax.apply_updates(params, updates)
            runs.append(params)
        return Run(before, flat(runs[-2]), gradients(case.steps, dtype), flat(runs[-1]))


def run_keras(case: Case, dtype: str) -> Run:
    """Run Keras; its state are the variables, by name and value."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax
    import keras

    floatx = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        with jax.enable_x64(dtype == "float64"):
            params = [
                keras.Variable(x, name=name.replace(".", "_")) for name, x in zip(NAMES, start(dtype), strict=True)
            ]
            rule = getattr(keras.optimizers, case.theirs)(LR, **case.arguments)
            rule.build(params)
            for step in range(case.steps + 1):
                before = [np.array(x.value) for x in params]
                state = [{"name": x.name, "value": np.array(x.value)} for x in rule.variables]
                rule.apply([keras.ops.convert_to_tensor(g, dtype=dtype) for g in gradients(step, dtype)], params)
            return Run(state, before, gradients(case.steps, dtype), [np.array(x.value) for x in params])
    finally:
        keras.config.set_floatx(floatx)


# ---------------------------------------------------------------------------------------------------------- recorded


def encoded(x: Any) -> Any:
    """Return a state as JSON; Python writes all digits of a number."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return {"class": type(x).__name__, "fields": {key: encoded(y) for key, y in x._asdict().items()}}
    if isinstance(x, tuple):
        return {"tuple": [encoded(y) for y in x]}
    if isinstance(x, list):
        return [encoded(y) for y in x]
    if isinstance(x, Mapping):
        return {"dict": {key: encoded(y) for key, y in x.items()}}
    if isinstance(x, str):
        return x
    found = np.asarray(x)
    return {"dtype": found.dtype.name, "values": found.tolist(), "shape": list(found.shape)}


def decoded(x: Any) -> Any:
    if isinstance(x, list):
        return [decoded(y) for y in x]
    if isinstance(x, str):
        return x
    if "class" in x:
        kind = namedtuple(x["class"], list(x["fields"]))  # type: ignore[misc]
        return kind(*map(decoded, x["fields"].values()))
    if "tuple" in x:
        return tuple(map(decoded, x["tuple"]))
    if "dict" in x:
        return {key: decoded(y) for key, y in x["dict"].items()}
    return np.array(x["values"], x["dtype"]).reshape(x["shape"])


def recorded(library: str) -> dict[str, Any]:
    """Return what was recorded: the versions, and by case and dtype what a library has done."""
    with (DATA / f"{library}.json").open(encoding="ascii") as file:
        found: dict[str, Any] = json.load(file)
    return found


def recorded_run(library: str, name: str, dtype: str) -> Run:
    return Run(*(decoded(x) for x in recorded(library)["runs"][f"{name} {dtype}"]))


def record(library: str, cases: Mapping[str, Case], run: Any, versions: Sequence[str]) -> None:
    runs = {
        f"{name} {dtype}": [encoded(x) for x in run(case, dtype)] for name, case in cases.items() for dtype in DTYPES
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in runs.items())
    made_by = json.dumps({name: version(name) for name in versions})
    (DATA / f"{library}.json").write_text(f'{{"versions": {made_by}, "runs": {{\n{lines}\n}}}}\n', encoding="ascii")


def record_files() -> None:
    """Record files that Keras writes of a model after three steps, and what it does in the fourth."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(LR, **ADAM_KERAS, epsilon=0.0), "mse")
    model.build()
    rng = np.random.default_rng(12)
    for step in range(4):
        grads = [rng.normal(size=x.shape).astype(np.float32) for x in model.trainable_variables]
        if step == 3:
            model.save(DATA / "adam.keras")
            model.save_weights(DATA / "adam.weights.h5")
            before = [np.array(x.value) for x in model.trainable_variables]
        model.optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], model.trainable_variables)
    after = [np.array(x.value) for x in model.trainable_variables]
    text = {"versions": {name: version(name) for name in ("keras", "h5py", "jax")}}
    whole = {**text, "before": encoded(before), "grads": encoded(grads), "after": encoded(after)}
    (DATA / "adam.json").write_text(json.dumps(whole) + "\n", encoding="ascii")


DTYPES = ("float32", "float64")

if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    record("optax", OPTAX, run_optax, ("optax", "jax", "numpy"))
    record("keras", KERAS, run_keras, ("keras", "jax", "numpy"))
    record_files()
