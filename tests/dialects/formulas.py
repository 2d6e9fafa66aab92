"""Optimizers of libraries that are not installed here, written from the formulas of their sources in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from refoptim.conformance.adapters.peer import Hyper, Peer, Theirs

Array = Any
State = dict[str, Any]
Step = Callable[[State, Array, Array, Hyper, int], Array]


def moments(kept: State, g: Array, h: Hyper) -> tuple[Array, Array]:
    """Return Adam's averages of the gradient and of its square."""
    beta1, beta2 = h["betas"]
    kept["m"] = beta1 * kept.get("m", 0.0) + (1 - beta1) * g
    kept["v"] = beta2 * kept.get("v", 0.0) + (1 - beta2) * g * g
    return kept["m"], kept["v"]


def corrections(h: Hyper, k: int) -> tuple[float, float]:
    """Return what the averages of Adam are divided by."""
    return 1 - h["betas"][0] ** k, 1 - h["betas"][1] ** k


def apex_adam(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """ADAM_MODE_0 of multi_tensor_adam.cu"""
    m, v = moments(kept, g + h["weight_decay"] * p, h)
    c1, c2 = corrections(h, k)
    return p - h["lr"] * ((m / c1) / (np.sqrt(v / c2) + h["eps"]))


def decay_in_step(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """ADAM_MODE_1 of multi_tensor_adam.cu, and adamw_update of llm.c"""
    m, v = moments(kept, g, h)
    c1, c2 = corrections(h, k)
    return p - h["lr"] * ((m / c1) / (np.sqrt(v / c2) + h["eps"]) + h["weight_decay"] * p)


def apex_sgd(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """multi_tensor_sgd_kernel.cu without wd_after_momentum"""
    g = g + h["weight_decay"] * p
    if h["momentum"]:
        first = "momentum" not in kept
        kept["momentum"] = g if first else kept["momentum"] * h["momentum"] + (1 - h["dampening"]) * g
        g = g + h["momentum"] * kept["momentum"] if h["nesterov"] else kept["momentum"]
    return p - h["lr"] * g


def adagrad(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """ADAGRAD_MODE_0 of multi_tensor_adagrad.cu, and Step_1 of DeepSpeed's cpu_adagrad.cpp"""
    g = g + h["weight_decay"] * p
    kept["sum"] = kept.get("sum", 0.0) + g * g
    return p - h["lr"] * (g / (np.sqrt(kept["sum"]) + h["eps"]))


def deepspeed_adam(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """Step_1 of cpu_adam_impl.cpp where _adamw_mode is false"""
    m, v = moments(kept, p * h["weight_decay"] + g, h)
    c1, c2 = corrections(h, k)
    return p + (m / (np.sqrt(v) * (1 / np.sqrt(c2)) + h["eps"])) * (-h["lr"] / c1)


def deepspeed_adamw(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """Step_1 of cpu_adam_impl.cpp where _adamw_mode is true"""
    m, v = moments(kept, g, h)
    c1, c2 = corrections(h, k)
    p = p + (-h["lr"] * h["weight_decay"]) * p
    return p + (m / (np.sqrt(v) * (1 / np.sqrt(c2)) + h["eps"])) * (-h["lr"] / c1)


def old_update(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """What adam.py and adamw.py of torch 1.2 have in common: eps at the uncorrected root"""
    m, v = moments(kept, g, h)
    if h["amsgrad"]:
        v = kept["largest"] = np.maximum(kept.get("largest", 0.0), v)
    c1, c2 = corrections(h, k)
    return p - h["lr"] * np.sqrt(c2) / c1 * (m / (np.sqrt(v) + h["eps"]))


def old_adam(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """adam.py of torch 1.2"""
    return old_update(kept, p, g + h["weight_decay"] * p, h, k)


def old_adamw(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """adamw.py of torch 1.2"""
    return old_update(kept, p * (1 - h["lr"] * h["weight_decay"]), g, h, k)


def bitsandbytes_cuda(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """ADAM in kOptimizer32bit2State: the parameter shrinks after the update"""
    m, v = moments(kept, g, h)
    c1, c2 = corrections(h, k)
    p = p + (-h["lr"] * np.sqrt(c2) / c1) * (m / (np.sqrt(v) + h["eps"] * np.sqrt(c2)))
    return p * (1 - h["lr"] * h["weight_decay"]) if h["weight_decay"] > 0 else p


def sophia(kept: State, p: Array, g: Array, h: Hyper, k: int) -> Array:
    """SophiaG of sophia.py, by its defaults of rho and bs; 1 and 1e-15 there are p and eps here"""
    (beta1, beta2), estimate = h["betas"], kept["estimate"]
    if estimate is not None:
        kept["hessian"] = beta2 * kept.get("hessian", 0.0) + (1 - beta2) * estimate * estimate
    kept["m"] = beta1 * kept.get("m", 0.0) + (1 - beta1) * g
    ratio = np.minimum(np.abs(kept["m"]) / (0.04 * 5120 * kept.get("hessian", 0.0) + h["eps"]), h["p"])
    return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * np.sign(kept["m"]) * ratio


def theirs(step: Step, *lacks: str) -> Theirs:
    """Return a formula as an optimizer."""
    return Theirs(lambda h: step, lacks)


SUMMED = ("lr_decay", "initial_accumulator_value")

FORMULAS: dict[str, dict[str, Theirs]] = {
    "apex": {
        "SGD": theirs(apex_sgd),
        "Adam": theirs(apex_adam, "amsgrad"),
        "AdamW": theirs(decay_in_step, "amsgrad"),
        "Adagrad": theirs(adagrad, *SUMMED),
    },
    "bitsandbytes_cuda": {"Adam": theirs(bitsandbytes_cuda), "AdamW": theirs(bitsandbytes_cuda)},
    "deepspeed": {
        "Adam": theirs(deepspeed_adam),
        "AdamW": theirs(deepspeed_adamw),
        "Adagrad": theirs(adagrad, *SUMMED),
    },
    "llm_c": {"AdamW": theirs(decay_in_step, "amsgrad")},
    "older_torch": {"Adam": theirs(old_adam), "AdamW": theirs(old_adamw)},
    "sophia": {"Sophia": theirs(sophia)},
}

ONE_COUNT = ("apex",)
"""Libraries in which all parameters of a group share one count of steps."""


class Formula(Peer):
    """Formulas as an implementation."""

    skips = True
    changes: ClassVar[tuple[str, ...]] = ("lr", "betas")

    def __init__(self, library: str) -> None:
        self.package, self._library = library, library  # type: ignore[misc]
        self.rules: Mapping[str, Theirs] = FORMULAS[library]  # type: ignore[misc]

    def _begin(self, made: Any) -> None:
        self._formula, self._taken = made, 0
        self._kept: list[State] = [{} for _ in self._arrays]
        self._counts = [0 for _ in self._arrays]

    def _set_lr(self, lr: float) -> None:
        pass

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        for kept, x in zip(self._kept, estimates or [None] * len(self._kept), strict=True):
            kept["estimate"] = x
        super().step(grads)

    def _step(self, grads: Sequence[Any]) -> None:
        self._taken += 1
        for i, g in enumerate(grads):
            if g is not None:
                self._counts[i] = self._taken if self._library in ONE_COUNT else self._counts[i] + 1
                self._arrays[i] = self._formula(self._kept[i], self._arrays[i], g, self._hyper, self._counts[i])


def adafactor(
    params: Array, grads: Sequence[Array], lr: float | None, eps: tuple[float, float], beta1: float | None, **more: Any
) -> Array:
    """Take steps as transformers' Adafactor does on a matrix."""
    p, row, col, average = np.array(params), 0.0, 0.0, 0.0
    for k, g in enumerate(grads, 1):
        rate = min(1e-6 * k if more.get("warmup_init") else 1e-2, k**-0.5) if lr is None else lr
        if more.get("scale_parameter", True):
            rate *= max(eps[1], np.sqrt(np.mean(p**2)))
        fresh = k ** more.get("decay_rate", -0.8)
        square = g**2 + eps[0]
        row = row * (1 - fresh) + square.mean(-1) * fresh
        col = col * (1 - fresh) + square.mean(-2) * fresh
        u = g / np.sqrt(np.outer(row / row.mean(), col))
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / more.get("clip_threshold", 1.0)) * rate
        if beta1 is not None:
            u = average = beta1 * average + (1 - beta1) * u
        p = p - more.get("weight_decay", 0.0) * rate * p - u
    return p
