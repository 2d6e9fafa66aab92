"""Forms of the schedules that torch does not have, see ``schedule_forms``; ``n`` counts steps from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refoptim.numerics.arith import Array

Settings = Mapping[str, Any]

Form = Callable[[Settings, float, Array], Array]
"""Returns learning rates, from settings, the learning rate of the optimizer, and steps."""


def wave(q: Array) -> Array:
    """Return a cosine that falls from 1 at 0 to 0 at 1."""
    return np.asarray((1 + np.cos(np.pi * q)) / 2)


def _way(s: Settings, n: Array) -> Array:
    w = s["num_warmup_steps"]
    return np.maximum(n - w, 0) / max(1, s["num_training_steps"] - w)


def _warmed(s: Settings, lr: float, n: Array, after: Any) -> Array:
    """Let a factor follow upon the warm-up, which may go as (n + 1) / w."""
    w = s["num_warmup_steps"]
    rise = (n + (1 if s.get("_ramp") == "nth" else 0)) / max(1, w)
    return np.asarray(lr * np.where(n < w, rise, after))


def _constant(s: Settings, lr: float, n: Array) -> Array:
    return _warmed(s, lr, n, 1.0)


def _linear(s: Settings, lr: float, n: Array) -> Array:
    q = np.minimum(_way(s, n), 1.0) if s["num_training_steps"] > s["num_warmup_steps"] else 1.0
    return _warmed(s, lr, n, wave(np.asarray(q)) if s.get("_shape") == "cosine" else 1 - q)


def _cosine(s: Settings, lr: float, n: Array) -> Array:
    return _warmed(s, lr, n, _fallen(s, lr, _way(s, n)))


def _cosine_ahead(s: Settings, lr: float, n: Array) -> Array:
    w, rate = s["num_warmup_steps"], s["warmup_lr_rate"]
    rise = (n + 1) / max(1, w) if rate is None else rate + (1 - rate) * n / max(1, w - 1)
    return np.asarray(lr * np.where(n < w, rise, _fallen(s, lr, _way(s, n + 1))))


def _fallen(s: Settings, lr: float, q: Array) -> Array:
    """Return the factor of a cosine with a minimum, of which the part ``q`` has passed."""
    q = q if s.get("_after") is None else np.minimum(q, 1.0)
    low = s["min_lr_rate"] or 0.0 if s["min_lr"] is None else s["min_lr"] / lr
    height = 1 - q if s.get("_shape") == "linear" else wave(s["num_cycles"] * 2.0 * q)
    return np.maximum(height * (1 - low) + low, 0)


def _restarts(s: Settings, lr: float, n: Array) -> Array:
    q = _way(s, n)
    return _warmed(s, lr, n, np.where(q >= 1, 0.0, wave(s["num_cycles"] * q % 1.0)))


def _polynomial(s: Settings, lr: float, n: Array) -> Array:
    left = np.power(np.maximum(1 - _way(s, n), 0), float(s["power"]))
    fallen = np.where(n > s["num_training_steps"], 0.0, left)
    return _warmed(s, lr, n, ((lr - s["lr_end"]) * fallen + s["lr_end"]) / lr)


def _inverse_root(s: Settings, lr: float, n: Array) -> Array:
    w = s["num_warmup_steps"]
    scale = s["timescale"] or w or 10_000
    return _warmed(s, lr, n, 1 / np.sqrt(np.maximum(n + scale - w, 1) / scale))


def _stable(s: Settings, lr: float, n: Array) -> Array:
    w, low = s["num_warmup_steps"], s["min_lr_ratio"]
    up = np.minimum(n / max(1, w), 1.0)
    passed = n - w - s["num_stable_steps"]
    down = np.clip(passed / max(1, s["num_decay_steps"]), 0.0, 1.0)
    rises = {"linear": lambda: up, "cosine": lambda: 1 - wave(up), "1-sqrt": lambda: 1 - np.sqrt(1 - up)}
    falls = {
        "linear": lambda: 1 - down,
        "cosine": lambda: wave(s["num_cycles"] * 2.0 * down),
        "1-sqrt": lambda: 1 - np.sqrt(down),
    }
    height = np.where(n < w, rises[s["warmup_type"]](), np.where(passed < 0, 1.0, falls[s["decay_type"]]()))
    ended = passed >= s["num_decay_steps"]
    return np.asarray(lr * np.where(ended, low, np.maximum(height * (1 - low) + low, 0)))


def _noam(s: Settings, lr: float, n: Array) -> Array:
    k = n + 1
    return np.asarray(lr * s["d_model"] ** -0.5 * np.minimum(k**-0.5, k * float(s["num_warmup_steps"]) ** -1.5))


def _warmup_cosine(s: Settings, lr: float, n: Array) -> Array:
    w, peak = s["warmup_steps"], s["peak_value"]
    steps = s["decay_steps"] - w
    low = s["end_value"] / peak if peak else 0.0
    height = np.power(wave(np.clip(n - w, 0, steps) / steps), float(s["exponent"]))
    rise = (s["init_value"] - peak) * (1 - n / max(1, w)) + peak
    return np.asarray(np.where(n < w, rise, peak * ((1 - low) * height + low)))


def _piecewise(s: Settings, lr: float, n: Array) -> Array:
    pairs = s["boundaries_and_scales"] or []
    pairs = sorted(pairs.items() if isinstance(pairs, Mapping) else pairs)
    bounds = np.array([0.0, *(x for x, _ in pairs)])
    values = np.cumprod([s["init_value"], *(scale for _, scale in pairs)])
    if s["interpolate_type"] == "linear" or not pairs:
        return np.asarray(np.interp(n, bounds, values))
    j = np.clip(np.searchsorted(bounds, n, "right") - 1, 0, len(pairs) - 1)
    q = np.minimum((n - bounds[j]) / (bounds[j + 1] - bounds[j]), 1.0)
    return np.asarray(values[j + 1] + (values[j] - values[j + 1]) * wave(q))


def _places(t: Array, length: float, factor: float) -> tuple[Array, Array]:
    """Return the cycle that each step is in, and the part of it that has passed."""
    if not (factor >= 1 and length > 0):
        raise ValueError(f"cycles cannot have the length {length} and the factor {factor}")
    if factor == 1:
        return np.floor(t / length), t / length % 1
    edges, longest = [0.0], float(length)
    while edges[-1] <= t.max(initial=0):
        edges.append(edges[-1] + longest)
        longest *= factor
    i = np.searchsorted(edges, t * (1 + 1e-15), "right") - 1
    return i, np.maximum(t - np.asarray(edges)[i], 0) / np.diff(edges)[i]


def _cycles(s: Settings, lr: float, n: Array) -> Array:
    w, low, first = s["warmup_t"], s["lr_min"], s["warmup_lr_init"]
    i, part = _places(np.maximum(n - w, 0) if s["warmup_prefix"] else n, s["t_initial"], s["cycle_mul"])
    high = lr * np.power(float(s["cycle_decay"]), i)
    y = low + (high - low) * wave(np.power(part, float(s["k_decay"])))
    return np.asarray(np.where(n < w, first + n * (lr - first) / max(1, w), np.where(i >= s["cycle_limit"], low, y)))


def _decay_restarts(s: Settings, lr: float, n: Array) -> Array:
    i, part = _places(n, s["first_decay_steps"], s["t_mul"])
    height = np.power(float(s["m_mul"]), i) * wave(part)
    return np.asarray(lr * ((1 - s["alpha"]) * height + s["alpha"]))


WIDER: dict[str, Form] = {
    "ConstantWarmupLR": _constant,
    "LinearWarmupLR": _linear,
    "CosineWarmupLR": _cosine,
    "CosineWarmupRateLR": _cosine_ahead,
    "CosineRestartsWarmupLR": _restarts,
    "PolynomialWarmupLR": _polynomial,
    "InverseSqrtLR": _inverse_root,
    "WarmupStableDecayLR": _stable,
    "NoamLR": _noam,
    "WarmupCosineDecayLR": _warmup_cosine,
    "PiecewiseInterpolateLR": _piecewise,
    "CosineCyclesLR": _cycles,
    "CosineDecayRestartsLR": _decay_restarts,
}
