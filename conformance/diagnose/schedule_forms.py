"""The learning rates of schedulers as functions of the epoch, which may be a fraction.

The reference goes from epoch to epoch; to look for a mistake one must ask what a schedule would be elsewhere, or
otherwise. A form takes the settings of a scheduler and returns what it gives at any epochs, as one expression on
arrays. Its settings may hold more than the constructor takes, under names that begin with ``_``: each is a place where
others go another way.

    _times     functions of the epochs, applied one after the other, before anything is computed
    _values    functions of epochs and learning rates, applied at last
    _shape     how a ramp falls: linear, cosine, or quarter, a quarter of a cosine
    _speed     a factor of the way along a cosine
    _after     what follows the end of a ramp: hold, restart, run on, or base, the learning rate of the optimizer
    _low       what eta_min is: added, a factor of the learning rate, or a floor
    _count     how decays are counted: inclusive, early, continuous, once
    _ramp      where a warm-up begins: zero, or nth, one part of its length
    _cycle     what a cycle does otherwise: longer by one epoch, scaled one cycle ahead
    _phase     what the phases of OneCycleLR do otherwise: whole, final
    _clock     of a sequence: one, which its members share
    _momentum  swapped, or still
    _table     there: the reference is tabulated, and none of the above but _times and _values counts

Forms agree with the reference but for rounding. Where one does not, as in chains whose members overwrite one another,
``_table`` is to be set.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

import refoptim
from refoptim.numerics.arith import Array

from ..spec import SCHEDULERS, Spec
from .schedule_wider import WIDER

Settings = Mapping[str, Any]

NOT_SETTINGS = ("optimizer", "last_epoch", "schedulers", "verbose")
"""Arguments of constructors that are no settings of a schedule."""


class Rates(NamedTuple):
    """Learning rates, and momenta if the schedule sets them."""

    lr: Array
    momentum: Array | None = None


def filled(spec: Spec) -> Spec:
    """Return a description with every setting written out, those of its members too."""
    arguments = inspect.signature(SCHEDULERS[spec.name]).parameters.values()
    defaults = {x.name: x.default for x in arguments if x.name not in NOT_SETTINGS and x.default is not x.empty}
    return Spec(spec.name, [filled(member) for member in spec.members], {**defaults, **spec.settings})


def changed(spec: Spec, **settings: Any) -> Spec:
    """Return a description with other settings."""
    return spec._replace(settings={**spec.settings, **settings})


def with_member(spec: Spec, i: int, member: Spec) -> Spec:
    """Return a description with another member."""
    return spec._replace(members=[member if j == i else x for j, x in enumerate(spec.members)])


def rates(spec: Spec, lr: float, e: Array) -> Rates:
    """Return what a schedule gives at some epochs on an optimizer with the learning rate ``lr``."""
    for time in spec.settings.get("_times", ()):
        e = time(e)
    found = (_table if "_table" in spec.settings else FORMS[spec.name])(spec, lr, e)
    y = found.lr
    for value in spec.settings.get("_values", ()):
        y = value(e, y)
    return Rates(y, found.momentum)


def fall(x: Array, shape: str) -> Array:
    """Return the height of a ramp that falls from 1 at 0 to 0 at 1."""
    if shape == "linear":
        return 1 - x
    return np.asarray(np.cos(np.pi * x / 2) if shape == "quarter" else (1 + np.cos(np.pi * x)) / 2)


def _ended(x: Array, after: str) -> Array:
    """Return the part of a ramp that has passed, at most the whole unless it runs on."""
    if after == "restart":
        return x % 1
    return x if after in ("run on", "rise") else np.minimum(x, 1.0)


def _based(s: Settings, x: Array, lr: float, y: Array) -> Array:
    """Let what follows the end of a ramp be the learning rate of the optimizer, if that is asked for."""
    return np.where(x >= 1, lr, y) if s.get("_after") == "base" else y


def _constant(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    return Rates(np.where(e < s["total_iters"], lr * s["factor"], lr))


def _linear(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    start, end, total = s["start_factor"], s["end_factor"], s["total_iters"]
    if not total:
        return Rates(np.full(len(e), lr * end))
    x = e / total
    passed = _ended(x, s.get("_after", "hold"))
    start = 0.0 if s.get("_ramp") == "zero" else start
    if s.get("_ramp") == "nth":
        return Rates(lr * end * np.minimum((e + 1) / total, 1.0))
    y = lr * (end + (start - end) * fall(passed, s.get("_shape", "linear")))
    return Rates(_based(s, x, lr, y))


def _exponential(spec: Spec, lr: float, e: Array) -> Rates:
    return Rates(lr * _power(spec.settings["gamma"], e))


def _power(gamma: float, count: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.power(float(gamma), np.asarray(count, float))


def _counted(s: Settings, passed: Array) -> Array:
    return np.minimum(passed, 1) if s.get("_count") == "once" else passed


def _step(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    x, how = e / s["step_size"], s.get("_count", "")
    counts = {
        "continuous": lambda: x,
        "inclusive": lambda: np.maximum(np.ceil(x) - 1, 0),
        "early": lambda: np.floor((e + 1) / s["step_size"]),
    }
    return Rates(lr * _power(s["gamma"], _counted(s, counts.get(how, lambda: np.floor(x))())))


def _multi_step(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    early = 1 if s.get("_count") == "early" else 0
    side: Any = "left" if s.get("_count") == "inclusive" else "right"
    passed = np.searchsorted(np.sort(np.asarray(s["milestones"], float)) - early, e, side)
    return Rates(lr * _power(s["gamma"], _counted(s, passed)))


def _polynomial(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    if not s["total_iters"]:
        return Rates(np.full(len(e), lr))
    x = e / s["total_iters"]
    left = fall(_ended(x, s.get("_after", "hold")), s.get("_shape", "linear"))
    with np.errstate(all="ignore"):
        return Rates(_based(s, x, lr, lr * np.sign(left) * _power_of(np.abs(left), s["power"])))


def _power_of(x: Array, power: float) -> Array:
    return np.asarray(np.power(x, float(power)))


def _between(s: Settings, lr: float, height: Array) -> Array:
    """Return the learning rates between ``eta_min`` and ``lr``."""
    low, how = s["eta_min"], s.get("_low")
    if how == "added":
        return low + lr * height
    if how == "floor":
        return np.maximum(low, lr * height)
    low = low * lr if how == "factor" else low
    return low + (lr - low) * height


def _cosine(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    x = e / s["T_max"]
    passed = _ended(x, s.get("_after", "rise"))
    return Rates(_based(s, x, lr, _between(s, lr, fall(passed * s.get("_speed", 1), s.get("_shape", "cosine")))))


def _restarts(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    x = _in_cycle(s["T_0"], s["T_mult"], 1 if s.get("_cycle") == "longer" else 0, e)
    return Rates(_between(s, lr, fall(x * s.get("_speed", 1), s.get("_shape", "cosine"))))


def _in_cycle(length: float, factor: int, more: int, e: Array) -> Array:
    """Return the part of its cycle that has passed at each epoch; cycles may be ``more`` epochs longer."""
    if factor == 1:
        return (e % (length + more)) / length
    lengths, edges = [float(length)], [0.0]
    while edges[-1] + lengths[-1] + more <= max(e.max(initial=0), 0):
        edges.append(edges[-1] + lengths[-1] + more)
        lengths.append(lengths[-1] * factor)
    k = np.maximum(np.searchsorted(edges, e, "right") - 1, 0)
    return np.asarray((e - np.asarray(edges)[k]) / np.asarray(lengths)[k])


def _cyclic(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    up, down = s["step_size_up"], s["step_size_down"]
    total = up + (up if down is None else down)
    cycle = np.floor(1 + e / total)
    x, turn = 1.0 + e / total - cycle, up / total
    height = np.where(x <= turn, x / turn, (x - 1) / (turn - 1) if turn != 1 else 1.0)
    height = 1 - fall(height, s["_shape"]) if "_shape" in s else height
    scaled = height * _scale(s, e, cycle + (1 if s.get("_cycle") == "ahead" else 0))
    return Rates(s["base_lr"] + (s["max_lr"] - s["base_lr"]) * scaled, _cycled(s, scaled))


def _scale(s: Settings, e: Array, cycle: Array) -> Array:
    if s["scale_fn"] is not None:
        return _called(s["scale_fn"], cycle if s["scale_mode"] == "cycle" else e)
    if s["mode"] == "triangular":
        return np.ones(len(e))
    return _power(2.0, 1 - cycle) if s["mode"] == "triangular2" else _power(s["gamma"], e)


def _cycled(s: Settings, height: Array) -> Array | None:
    """Return the momentum of a cycle; ``height`` is that of the learning rate."""
    low, high = s["base_momentum"], s["max_momentum"]
    if not s["cycle_momentum"] or s.get("_momentum") == "still":
        return None
    return low + (high - low) * height if s.get("_momentum") == "swapped" else high - (high - low) * height


def _one_cycle(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    high = s["max_lr"]
    first = high / s["div_factor"]
    last = (high if s.get("_phase") == "final" else first) / s["final_div_factor"]
    total = s["total_steps"] if s["total_steps"] is not None else s["epochs"] * s["steps_per_epoch"]
    whole = 1 if s.get("_phase") == "whole" else 0
    up, end = s["pct_start"] * total - 1 + whole, total - 1.0 + whole
    low, top = s["base_momentum"], s["max_momentum"]
    low, top = (top, low) if s.get("_momentum") == "swapped" else (low, top)
    ends = [up, 2 * s["pct_start"] * total - 2 + whole, end] if s["three_phase"] else [up, end]
    lrs = [first, high, first, last] if s["three_phase"] else [first, high, last]
    momenta = [top, low, top, top] if s["three_phase"] else [top, low, top]
    shape = s.get("_shape", {"cos": "cosine"}.get(s["anneal_strategy"], "linear"))
    cycled = s["cycle_momentum"] and s.get("_momentum") != "still"
    return Rates(_phases(e, ends, lrs, shape), _phases(e, ends, momenta, shape) if cycled else None)


def _phases(e: Array, ends: list[float], values: list[float], shape: str) -> Array:
    """Return what goes from value to value, each reached at its end."""
    k = np.minimum(sum((e > end).astype(int) for end in ends[:-1]), len(ends) - 1)
    starts = np.asarray([0.0, *ends[:-1]])[k]
    width = np.asarray(ends)[k] - starts
    x = np.where(width != 0, (e - starts) / np.where(width == 0, 1, width), 1.0)
    y = np.asarray(values, float)
    return y[k + 1] + (y[k] - y[k + 1]) * fall(x, shape)


@lru_cache(maxsize=1 << 16)
def _value(f: Callable[[float], float], x: float) -> float:
    return float(f(int(x) if x.is_integer() else x))


def _called(f: Callable[[float], float], x: Array) -> Array:
    return np.array([_value(f, float(each)) for each in x])


def _lambda(spec: Spec, lr: float, e: Array) -> Rates:
    factor = _called(spec.settings["lr_lambda"], e)
    return Rates(lr * (factor * factor if spec.settings.get("_count") == "twice" else factor))


def _multiplicative(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    n = np.maximum(np.floor(e), 0).astype(int)
    factors = _called(s["lr_lambda"], np.arange(1.0, n.max(initial=0) + 1))
    if s.get("_count") == "once":
        return Rates(lr * np.where(n > 0, _called(s["lr_lambda"], n.astype(float)), 1.0))
    factors = factors * factors if s.get("_count") == "twice" else factors
    return Rates(lr * np.concatenate([[1.0], np.cumprod(factors)])[n])


def _sequential(spec: Spec, lr: float, e: Array) -> Rates:
    s = spec.settings
    moved = {"inclusive": 1, "early": -1}.get(s.get("_count", ""), 0)
    starts = np.asarray([0.0, *(m + moved for m in s["milestones"])])
    k = np.maximum(np.searchsorted(starts[1:], e, "right"), 0)
    y = np.empty(len(e))
    for i, member in enumerate(spec.members):
        here = k == i
        y[here] = rates(member, lr, e[here] - (0 if s.get("_clock") == "one" else starts[i])).lr
    return Rates(y)


def _chained(spec: Spec, lr: float, e: Array) -> Rates:
    y = np.full(len(e), float(lr))
    for member in spec.members:
        y = y * rates(member, lr, e).lr / lr
    return Rates(y)


def _plateau(spec: Spec, lr: float, e: Array) -> Rates:
    """Go through the epochs: there is no shorter way."""
    s, n = spec.settings, np.maximum(np.floor(e), 0).astype(int)
    better = _better(s["mode"] == "min", s["threshold"], s["threshold_mode"] == "rel")
    best, bad, rest, found = math.inf if s["mode"] == "min" else -math.inf, 0, 0, [float(lr)]
    for metric in s["metrics"][: n.max(initial=0)]:
        best, bad = (metric, 0) if better(metric, best) else (best, bad + 1)
        rest, bad = (rest - 1, 0) if rest else (0, bad)
        if bad > s["patience"]:
            lower = max(found[-1] * s["factor"], s["min_lr"])
            found.append(lower if found[-1] - lower > s["eps"] else found[-1])
            rest, bad = s["cooldown"], 0
        else:
            found.append(found[-1])
    return Rates(np.asarray(found)[np.minimum(n, len(found) - 1)])


def _better(lower: bool, threshold: float, relative: bool) -> Callable[[float, float], bool]:
    """Return what tells whether a metric is better than the best."""
    sign = 1.0 if lower else -1.0
    if relative:
        return lambda x, best: sign * x < sign * best * (1 - sign * threshold)
    return lambda x, best: sign * x < sign * best - threshold


def _table(spec: Spec, lr: float, e: Array) -> Rates:
    """Look epochs up in what the reference gives."""
    n = np.maximum(np.floor(e), 0).astype(int)
    wanted = 1 + int(n.max(initial=0))
    key = (_key(spec), lr)
    if key not in TABLES or len(TABLES[key][1].lr) < wanted:
        while len(TABLES) >= MOST_TABLES:
            TABLES.pop(next(iter(TABLES)))
        TABLES[key] = spec, tabulated(spec, lr, wanted)
    found = TABLES[key][1]
    return Rates(found.lr[n], None if found.momentum is None else found.momentum[n])


TABLES: dict[tuple[str, float], tuple[Spec, Rates]] = {}
"""What the reference gave last; the descriptions are kept, so that their functions live."""

MOST_TABLES = 256


def _key(spec: Spec) -> str:
    """Return a text that tells descriptions apart, while their functions live."""
    own = {name: x for name, x in spec.settings.items() if not name.startswith("_")}
    return f"{spec.name}{own!r}{[_key(member) for member in spec.members]}"


def _wider(form: Callable[[Settings, float, Array], Array], spec: Spec, lr: float, e: Array) -> Rates:
    return Rates(form(spec.settings, lr, e))


Form = Callable[[Spec, float, Array], Rates]

FORMS: dict[str, Form] = {
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "ExponentialLR": _exponential,
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "PolynomialLR": _polynomial,
    "CosineAnnealingLR": _cosine,
    "CosineAnnealingWarmRestarts": _restarts,
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
    "ReduceLROnPlateau": _plateau,
    "SWALR": _table,
    **{name: partial(_wider, form) for name, form in WIDER.items()},
}


def plain(spec: Spec) -> Spec:
    """Return a description with the settings alone that a constructor takes."""
    kept = {name: x for name, x in spec.settings.items() if not name.startswith("_") and name != "metrics"}
    return Spec(spec.name, [plain(member) for member in spec.members], kept)


def tabulated(spec: Spec, lr: float, n: int) -> Rates:
    """Return the first ``n`` learning rates, and momenta if they move, of the reference.

    ReduceLROnPlateau is told the numbers in its setting ``metrics``, and the last of them ever after.
    """
    optimizer = refoptim.SGD([np.zeros(1)], lr=lr, momentum=0.9)
    metrics = spec.settings.get("metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = plain(spec).build(optimizer)
        rows = [_row(optimizer)]
        for epoch in range(n - 1):
            told = [] if metrics is None else [metrics[min(epoch, len(metrics) - 1)] if len(metrics) else math.nan]
            scheduler.step(*told)
            rows.append(_row(optimizer))
    lrs, momenta = np.array(rows).T
    moves = any(momenta != momenta[0]) or plain(spec).settings.get("cycle_momentum") is True
    return Rates(lrs, momenta if moves else None)


def _row(optimizer: Any) -> tuple[float, float]:
    group = optimizer.param_groups[0]
    return float(group["lr"]), float(group["momentum"])
