"""optax on JAX, in float64 where the storage is float64, step by step without jit.

Each optimizer is put together as optax's documentation has it: its alias, behind ``add_decayed_weights`` where torch
adds the decay to the gradient, ``lr_decay`` as a schedule, gradients with their signs turned to maximize. Parameters
are compared, not state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refoptim.numerics.arith import COMPLEX, Array

from .. import lr_witnesses
from ..cases import Case
from . import Adapter, Unsupported, all_hyper, by_count, installed, optax_wider, turned

Hyper = Mapping[str, Any]


def _l2(h: Hyper, rule: Any) -> Any:
    import optax

    return optax.chain(optax.add_decayed_weights(h["weight_decay"]), rule)


def _decoupled(h: Hyper, rule: Any) -> Any:
    import optax

    return optax.chain(rule, optax.add_decayed_weights(h["weight_decay"]), optax.scale_by_learning_rate(h["lr"]))


def _adam_arguments(h: Hyper) -> dict[str, Any]:
    return {"b1": h["betas"][0], "b2": h["betas"][1], "eps": h["eps"]}


def _sgd(h: Hyper) -> Any:
    import optax

    return _l2(h, optax.sgd(h["lr"], h["momentum"] or None, h["nesterov"]))


def _adam(h: Hyper) -> Any:
    import optax

    rule = optax.amsgrad if h["amsgrad"] else optax.adam
    return _l2(h, rule(h["lr"], **_adam_arguments(h)))


def _adamw(h: Hyper) -> Any:
    import optax

    if h["amsgrad"]:
        return _decoupled(h, optax.scale_by_amsgrad(**_adam_arguments(h)))
    return optax.adamw(h["lr"], **_adam_arguments(h), weight_decay=h["weight_decay"])


def _nadam(h: Hyper) -> Any:
    import optax

    if h["decoupled_weight_decay"]:
        return optax.nadamw(h["lr"], **_adam_arguments(h), weight_decay=h["weight_decay"])
    return _l2(h, optax.nadam(h["lr"], **_adam_arguments(h)))


def _radam(h: Hyper) -> Any:
    import optax

    if h["decoupled_weight_decay"]:
        return _decoupled(h, optax.scale_by_radam(**_adam_arguments(h)))
    return _l2(h, optax.radam(h["lr"], **_adam_arguments(h)))


def _adamax(h: Hyper) -> Any:
    import optax

    return _l2(h, optax.adamax(h["lr"], **_adam_arguments(h)))


def _adadelta(h: Hyper) -> Any:
    import optax

    return _l2(h, optax.adadelta(h["lr"], h["rho"], h["eps"]))


def _adagrad(h: Hyper) -> Any:
    import optax

    def lr(count: Any) -> Any:
        return h["lr"] / (1 + count * h["lr_decay"])

    return _l2(h, optax.adagrad(lr, h["initial_accumulator_value"], h["eps"]))


def _rmsprop(h: Hyper) -> Any:
    import optax

    return _l2(h, optax.rmsprop(h["lr"], h["alpha"], h["eps"], centered=h["centered"], momentum=h["momentum"] or None))


def _rprop(h: Hyper) -> Any:
    import optax

    return optax.rprop(h["lr"], *h["etas"], *h["step_sizes"])


RULES: dict[str, Callable[[Hyper], Any]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adamw,
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adamax": _adamax,
    "Adadelta": _adadelta,
    "Adagrad": _adagrad,
    "RMSprop": _rmsprop,
    "Rprop": _rprop,
    **optax_wider.RULES,
}


def _cosine(lr: float, s: Hyper) -> Any:
    import optax

    return optax.cosine_decay_schedule(lr, s["T_max"], s["eta_min"] / lr)


def _restarts(lr: float, s: Hyper, epochs: int) -> Any:
    import optax

    cycles, length, begin = [], s["T_0"], 0
    while begin <= epochs:
        own = {"init_value": lr, "peak_value": lr, "end_value": s["eta_min"]}
        cycles.append({**own, "warmup_steps": 0, "decay_steps": length})
        begin, length = begin + length, length * s["T_mult"]
    return optax.sgdr_schedule(cycles)


def _one_cycle(s: Hyper) -> Any:
    import optax

    if s["anneal_strategy"] != "cos" or s["three_phase"]:
        raise Unsupported("optax' cycle is of two cosines, or of three lines of other lengths")
    rest = s["pct_start"], s["div_factor"], s["final_div_factor"]
    return optax.cosine_onecycle_schedule(s["total_steps"], s["max_lr"], *rest)


def _schedule(name: str, s: Hyper, lr: float, epochs: int) -> Any:
    """Return optax' schedule of the same name or the same purpose."""
    import optax

    made: dict[str, Callable[[], Any]] = {
        "ConstantLR": lambda: optax.join_schedules(
            [optax.constant_schedule(lr * s["factor"]), optax.constant_schedule(lr)], [s["total_iters"]]
        ),
        "LinearLR": lambda: optax.linear_schedule(lr * s["start_factor"], lr * s["end_factor"], s["total_iters"]),
        "ExponentialLR": lambda: optax.exponential_decay(lr, 1, s["gamma"]),
        "StepLR": lambda: optax.exponential_decay(lr, s["step_size"], s["gamma"], staircase=True),
        "MultiStepLR": lambda: optax.piecewise_constant_schedule(
            lr, {m: s["gamma"] ** s["milestones"].count(m) for m in s["milestones"]}
        ),
        "PolynomialLR": lambda: optax.polynomial_schedule(lr, 0.0, s["power"], s["total_iters"]),
        "CosineAnnealingLR": lambda: _cosine(lr, s),
        "CosineAnnealingWarmRestarts": lambda: _restarts(lr, s, epochs),
        "OneCycleLR": lambda: _one_cycle(s),
        "SequentialLR": lambda: optax.join_schedules(
            [_schedule(kind, own, lr, epochs) for kind, own in s["schedulers"]], s["milestones"]
        ),
    }
    if name not in made:
        raise Unsupported(f"optax has no {name} of this kind")
    return made[name]()


class Optax(Adapter):
    """optax's transformations."""

    promise = None

    def versions(self) -> dict[str, str]:
        return {"optax": installed("optax"), "jax": installed("jax")}

    def why_not(self, case: Case, dtype: str) -> str | None:
        if case.optimizer not in RULES:
            return f"optax has no {case.optimizer} of this kind"
        if "nnz" in case.gradient or dtype in COMPLEX:
            return "no sparse gradients and no complex parameters"
        if case.skip:
            return "every parameter needs a gradient"
        return "optax has no dampening" if case.hyper.get("dampening") else None

    def _wide(self) -> Any:
        """Compute in float64 where parameters are float64."""
        import jax

        return jax.enable_x64(self._float64)

    def make(self, optimizer: str, hyper: Hyper, parameters: Sequence[Array]) -> None:
        import jax.numpy as jnp

        self._optimizer, self._hyper = optimizer, all_hyper(optimizer, hyper)
        self._float64 = any(p.dtype == np.float64 for p in parameters)
        with self._wide():
            self._params = [jnp.asarray(p) for p in parameters]
            self._rule = RULES[optimizer](self._hyper)
            self._state = self._rule.init(self._params)

    def set(self, hyper: Hyper) -> None:
        self._hyper = {**self._hyper, **hyper}
        self._rule = RULES[self._optimizer](self._hyper)

    def step(self, grads: Sequence[Any]) -> None:
        import jax.numpy as jnp
        import optax

        with self._wide():
            given = [jnp.asarray(g) for g in turned(grads, self._hyper)]
            updates, self._state = self._rule.update(given, self._state, self._params)
            self._params = optax.apply_updates(self._params, updates)

    def resume(self) -> None:
        import jax

        with self._wide():
            saved, tree = jax.tree.flatten(self._state)
            self._rule = RULES[self._optimizer](self._hyper)
            self._state = jax.tree.unflatten(tree, [jax.numpy.asarray(np.array(x)) for x in saved])

    def schedule(self, name: str, settings: Hyper, lr: float, epochs: int) -> Any:
        import jax

        if name in lr_witnesses.OPTAX:
            return lr_witnesses.optax(name, settings, lr, epochs)
        with jax.enable_x64(True):
            made = _schedule(name, settings, lr, epochs)
            if name == "OneCycleLR":  # the one that takes no arrays
                return by_count(made, epochs)
            return np.broadcast_to(made(jax.numpy.arange(epochs + 1)), epochs + 1)

    def parameters(self) -> list[Array]:
        return [np.asarray(p) for p in self._params]
