"""The mistakes that schedules are made with: one table, an axis a row.

Each is one small change of a rule, named as the flags of optimizers are: what it means, what to look at in the code,
and who is known to do it. An axis says which models of a curve there are with its mistake; settings that it leaves open
are solved for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from refoptim.numerics.arith import Array

from ..spec import Spec
from .schedule_forms import changed
from .schedule_models import FAR, Model, Seen, misfit, places, setting_of, solve, starts_of

Models = Callable[[Model, Seen], Iterator[Model]]

SHIFTS = 10
"""How many epochs a schedule is looked for ahead or behind."""

STRETCHES = 1000
"""The most steps in an epoch that are looked for."""

COSINES = ("CosineAnnealingLR", "CosineAnnealingWarmRestarts")
WARMUPS = ("LinearLR", "ConstantLR")
ENDING = ("LinearLR", "PolynomialLR", "CosineAnnealingLR")
HF = (
    *("ConstantWarmupLR", "LinearWarmupLR", "CosineWarmupLR", "CosineRestartsWarmupLR", "PolynomialWarmupLR"),
    "InverseSqrtLR",
)
TRAINED = (
    *("LinearWarmupLR", "CosineWarmupLR", "CosineWarmupRateLR", "CosineRestartsWarmupLR", "PolynomialWarmupLR"),
    "WarmupCosineDecayLR",
)
PERIODIC = ("CosineAnnealingWarmRestarts", "StepLR", "CyclicLR", "CosineCyclesLR", "CosineDecayRestartsLR")
STEPPED = ("StepLR", "MultiStepLR", "SequentialLR")

LENGTHS = {
    "LinearLR": "total_iters",
    "ConstantLR": "total_iters",
    "PolynomialLR": "total_iters",
    "CosineAnnealingLR": "T_max",
    "OneCycleLR": "total_steps",
    "CosineAnnealingWarmRestarts": "T_0",
    "StepLR": "step_size",
    "CyclicLR": "step_size_up",
    **dict.fromkeys(TRAINED, "num_training_steps"),
    "WarmupCosineDecayLR": "decay_steps",
    "CosineCyclesLR": "t_initial",
    "CosineDecayRestartsLR": "first_decay_steps",
}
"""The setting that says how long a schedule, or its period, is."""

WARMUP_STEPS = {
    **{name: LENGTHS[name] for name in WARMUPS},
    **dict.fromkeys((*HF, "CosineWarmupRateLR", "WarmupStableDecayLR", "NoamLR"), "num_warmup_steps"),
    "WarmupCosineDecayLR": "warmup_steps",
    "CosineCyclesLR": "warmup_t",
}
"""The setting that says how long a warm-up is."""

REALS = {
    "ConstantLR": ("factor",),
    "LinearLR": ("start_factor", "end_factor"),
    "ExponentialLR": ("gamma",),
    "StepLR": ("gamma",),
    "MultiStepLR": ("gamma",),
    "PolynomialLR": ("power",),
    "CosineAnnealingLR": ("eta_min",),
    "CosineAnnealingWarmRestarts": ("eta_min",),
    "CyclicLR": ("base_lr", "max_lr", "gamma", "base_momentum", "max_momentum"),
    "OneCycleLR": ("max_lr", "div_factor", "final_div_factor", "pct_start", "base_momentum", "max_momentum"),
    "ReduceLROnPlateau": ("factor",),
    "CosineWarmupLR": ("num_cycles", "min_lr", "min_lr_rate"),
    "CosineWarmupRateLR": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "CosineRestartsWarmupLR": ("num_cycles",),
    "PolynomialWarmupLR": ("power", "lr_end"),
    "WarmupStableDecayLR": ("min_lr_ratio", "num_cycles"),
    "WarmupCosineDecayLR": ("init_value", "peak_value", "end_value", "exponent"),
    "PiecewiseInterpolateLR": ("init_value",),
    "CosineCyclesLR": ("lr_min", "cycle_mul", "cycle_decay", "k_decay", "warmup_lr_init"),
    "CosineDecayRestartsLR": ("t_mul", "m_mul", "alpha"),
}

WHOLES = {
    **{name: (key,) for name, key in LENGTHS.items()},
    "CyclicLR": ("step_size_up", "step_size_down"),
    "CosineAnnealingWarmRestarts": ("T_0", "T_mult"),
    "ReduceLROnPlateau": ("patience", "cooldown"),
    **{name: (key, LENGTHS[name]) for name, key in WARMUP_STEPS.items() if name in LENGTHS and name not in WARMUPS},
    "ConstantWarmupLR": ("num_warmup_steps",),
    "InverseSqrtLR": ("num_warmup_steps", "timescale"),
    "WarmupStableDecayLR": ("num_warmup_steps", "num_stable_steps", "num_decay_steps"),
    "NoamLR": ("d_model", "num_warmup_steps"),
    "CosineCyclesLR": ("t_initial", "warmup_t", "cycle_limit"),
}

CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "CyclicLR": {"mode": ("triangular", "triangular2", "exp_range")},
    "OneCycleLR": {"three_phase": (True, False)},
    "ReduceLROnPlateau": {"mode": ("min", "max"), "threshold_mode": ("rel", "abs")},
    "WarmupStableDecayLR": {
        "warmup_type": ("linear", "cosine", "1-sqrt"),
        "decay_type": ("linear", "cosine", "1-sqrt"),
    },
    "PiecewiseInterpolateLR": {"interpolate_type": ("linear", "cosine")},
    "CosineCyclesLR": {"warmup_prefix": (True, False)},
}


class Axis(NamedTuple):
    """A mistake: its flag, what it means, what to look at, who has it, and the models that make it."""

    flag: str
    says: str
    look: str
    models: Models
    who: str = ""
    solved: bool = False


def option(*names: str, **settings: Any) -> Models:
    """Give settings to every scheduler of some names, one at a time."""

    def models(model: Model, curve: Seen) -> Iterator[Model]:
        for spec, put in places(model.spec):
            if spec.name in names:
                note = f"in {spec.name}" if spec is not model.spec else ""
                yield model._replace(spec=put(changed(spec, **settings))).noted(note)

    return models


def any_of(*several: Models) -> Models:
    """Make the models of several functions."""

    def models(model: Model, curve: Seen) -> Iterator[Model]:
        for each in several:
            yield from each(model, curve)

    return models


def computed(change: Callable[[Spec, Model], dict[str, Any] | None], *names: str) -> Models:
    """Give every scheduler of some names settings that are computed from its own; None stands for none."""

    def models(model: Model, curve: Seen) -> Iterator[Model]:
        for spec, put in places(model.spec):
            new = change(spec, model) if spec.name in names else None
            if new is not None:
                note = f"in {spec.name}" if spec is not model.spec else ""
                yield model._replace(spec=put(changed(spec, **new))).noted(note)

    return models


def longer(by: int, *names: str, of: Mapping[str, str] = LENGTHS) -> Models:
    """Change the length of a schedule, of its period or of its warm-up, by some epochs."""

    def change(spec: Spec, model: Model) -> dict[str, Any] | None:
        value = spec.settings[of[spec.name]]
        return None if value is None or value + by < 1 else {of[spec.name]: value + by}

    return computed(change, *names)


def _decays_after(spec: Spec, model: Model) -> dict[str, Any]:
    """Let the decay take as many steps as the whole run has."""
    length = LENGTHS[spec.name]
    return {length: spec.settings[length] + spec.settings[WARMUP_STEPS[spec.name]]}


def timed(model: Model, time: Callable[[Array], Array], note: str) -> Model:
    """Let a model be asked at other epochs."""
    times = model.spec.settings.get("_times", ())
    return model._replace(spec=changed(model.spec, _times=(time, *times))).noted(note)


def valued(model: Model, value: Callable[[Array, Array], Array], note: str = "") -> Model:
    """Let a function of the epochs and the learning rates follow upon a model."""
    values = model.spec.settings.get("_values", ())
    return model._replace(spec=changed(model.spec, _values=(*values, value))).noted(note)


def _steps(n: int) -> str:
    return "1 step" if n == 1 else f"{n} steps"


def ahead(model: Model, curve: Seen) -> Iterator[Model]:
    """Begin some epochs late in the schedule; what has an end may stay there."""
    end = _end(model.spec)
    for k in range(1, SHIFTS + 1):
        yield timed(model, lambda e, k=k: e + k, f"{_steps(k)} ahead")  # type: ignore[misc]
        if end is not None and end < curve.epochs[-1] + k:
            yield timed(model, lambda e, k=k: np.minimum(e + k, end), f"{_steps(k)} ahead")  # type: ignore[misc]


def _end(spec: Spec) -> float | None:
    """Return the last epoch of a cycle that cannot go on."""
    return spec.settings["total_steps"] - 1.0 if spec.name == "OneCycleLR" and spec.settings["total_steps"] else None


def behind(model: Model, curve: Seen) -> Iterator[Model]:
    """Stay at the first learning rate for some epochs."""
    for k in range(1, SHIFTS + 1):
        yield timed(model, lambda e, k=k: np.maximum(e - k, 0), f"{_steps(k)} behind")  # type: ignore[misc]


def skipped_start(model: Model, curve: Seen) -> Iterator[Model]:
    """Let the first learning rate be that of the optimizer."""
    yield valued(model, lambda e, y: np.where(np.arange(len(y)) == 0, model.lr, y))


def stretched(time: Callable[[Array, Any], Array], note: str) -> Models:
    """Ask at other epochs, for each number of steps in an epoch, and keep the nearest."""

    def models(model: Model, curve: Seen) -> Iterator[Model]:
        few = _few(curve)
        k = np.repeat(np.arange(2, 1 + (20 if "_table" in model.spec.settings else STRETCHES)), len(few))
        apart = "_values" in model.spec.settings  # values may depend on the place in the curve
        if apart:
            k = k[: 18 * len(few)]
        e = time(np.tile(few, len(k) // len(few)), k)
        rows = [model.at(x).lr for x in np.split(e, len(k) // len(few))] if apart else [model.at(e).lr]
        gap = _gap(np.concatenate(rows).reshape(-1, len(few)), curve)
        for i in np.argsort(gap, kind="stable")[:3]:
            yield timed(model, lambda e, n=2 + int(i): time(e, n), note.format(2 + i))  # type: ignore[misc]

    return models


def _few(curve: Seen) -> Array:
    """Return some epochs for a glance."""
    return np.unique(np.linspace(0, len(curve.lr) - 1, 24).astype(int)).astype(float)


def _gap(y: Array, curve: Seen) -> Array:
    """Return how far learning rates at some epochs are from a curve, added up along the last axis."""
    reach = float(np.abs(curve.lr).max()) or 1.0
    with np.errstate(all="ignore"):
        gap = np.abs(y - curve.lr[_few(curve).astype(int)]) / reach
    return np.asarray(np.minimum(np.nan_to_num(gap, nan=FAR, posinf=FAR), FAR).sum(axis=-1))


def nearest(models: list[Model], curve: Seen) -> list[Model]:
    """Return the model that is nearest to a curve; a glance at a few epochs throws most of them away."""
    few = _few(curve)
    kept = sorted(models, key=lambda model: float(_gap(model.at(few).lr, curve)))[:8]
    return sorted(kept, key=lambda model: misfit(model, curve))[:1]


def still(model: Model, curve: Seen) -> Iterator[Model]:
    """Never move."""
    yield valued(model, lambda e, y: np.full(len(y), model.lr), "at the learning rate of the optimizer")
    yield valued(model, lambda e, y: np.full(len(y), y[0]), "at the first value of the schedule")


def scaled(model: Model, curve: Seen) -> Iterator[Model]:
    """Multiply the learning rates, or the one of the optimizer, by a factor that is solved for."""
    y = model.at(curve.epochs).lr
    i = int(np.argmax(np.abs(y)))
    if y[i] and curve.lr[i]:
        factor = float(curve.lr[i] / y[i])
        yield valued(model, lambda e, x: x * factor, f"{factor:.6g} times")
    none, one = model._replace(lr=0.0).at(curve.epochs).lr, model._replace(lr=1.0).at(curve.epochs).lr
    slope = one - none
    j = int(np.argmax(np.abs(slope)))
    if np.isfinite(slope[j]) and slope[j]:
        lr = float((curve.lr[j] - none[j]) / slope[j])
        yield model._replace(lr=lr).noted(f"lr is {lr:.6g} where {model.lr:.6g} was given")


def other_real(model: Model, curve: Seen) -> Iterator[Model]:
    """Solve for each setting that is a real number; a table takes too long."""
    if "_table" in model.spec.settings:
        return
    for spec, put in places(model.spec):
        for name in REALS.get(spec.name, ()):
            value, make = spec.settings[name], setting_of(model, put, spec, name)
            if not isinstance(value, (int, float)) or ("momentum" in name and curve.momentum is None):
                continue
            x, _ = solve(make, curve, starts_of(curve, model.lr, float(value)))
            if np.isfinite(x):
                yield make(x).noted(f"{name} is {x:.10g} where {value:.10g} was given")


def other_whole(model: Model, curve: Seen) -> Iterator[Model]:
    """Try every value of each setting that is an integer, and of each milestone."""
    for make, name, value in _wholes(model):
        near = "_table" in model.spec.settings
        most = int(value) + 4 if near else max(len(curve.lr), 3 * int(value)) + 4
        least = 0 if name in ("patience", "cooldown", "a milestone") else 1
        first = max(least, int(value) - 4) if near else least
        known = (value - 1, value, value + 1) if name in LENGTHS.values() else (value,)  # these have axes of their own
        tried = [
            make(x).noted(f"{name} is {x} where {value:g} was given") for x in range(first, most) if x not in known
        ]
        yield from nearest(tried, curve)


def _wholes(model: Model) -> Iterator[tuple[Callable[[Any], Model], str, float]]:
    for spec, put in places(model.spec):
        for name in WHOLES.get(spec.name, ()):
            if spec.settings[name] is not None:
                yield setting_of(model, put, spec, name), name, spec.settings[name]
        for i, milestone in enumerate(spec.settings.get("milestones", ())):
            yield _milestone(model, put, spec, i), "a milestone", milestone


def _milestone(model: Model, put: Callable[[Spec], Spec], spec: Spec, i: int) -> Callable[[Any], Model]:
    before = spec.settings["milestones"]
    return lambda x: model._replace(spec=put(changed(spec, milestones=[*before[:i], x, *before[i + 1 :]])))


def other_choice(model: Model, curve: Seen) -> Iterator[Model]:
    """Try every other choice of a setting."""
    for spec, put in places(model.spec):
        for name, options in CHOICES.get(spec.name, {}).items():
            for x in options:
                if x != spec.settings[name]:
                    note = f"{name} is {x!r} where {spec.settings[name]!r} was given"
                    yield model._replace(spec=put(changed(spec, **{name: x}))).noted(note)


def alone(model: Model, curve: Seen) -> Iterator[Model]:
    """Let one member of a chain act and no other."""
    if model.spec.name == "ChainedScheduler" and len(model.spec.members) > 1:
        for member in model.spec.members:
            hooks = {name: x for name, x in model.spec.settings.items() if name in ("_times", "_values")}
            yield model._replace(spec=changed(member, **hooks)).noted(f"{member.name} alone")


def _gamma(change: Callable[[float], float]) -> Models:
    """Change every gamma."""

    def changes(spec: Spec, model: Model) -> dict[str, Any] | None:
        gamma = spec.settings["gamma"]
        return (
            None
            if gamma <= 0 or (spec.name == "CyclicLR" and spec.settings["mode"] != "exp_range")
            else {"gamma": change(gamma)}
        )

    return computed(changes, "StepLR", "MultiStepLR", "ExponentialLR", "CyclicLR")


def _absolute(spec: Spec, model: Model) -> dict[str, Any] | None:
    """Take the factors of a warm-up for learning rates."""
    names = ("factor",) if spec.name == "ConstantLR" else ("start_factor", "end_factor")
    return {name: spec.settings[name] / model.lr for name in names} if model.lr else None


def _shapes(spec: Spec, model: Model) -> dict[str, Any] | None:
    is_cosine = (
        spec.name in (*COSINES, "CosineWarmupLR", "CosineWarmupRateLR") or spec.settings.get("anneal_strategy") == "cos"
    )
    return {"_shape": "linear", "_after": "hold"} if is_cosine else None


def _rising(spec: Spec, model: Model) -> dict[str, Any] | None:
    """Go down on a straight line, and up again."""
    length, times = spec.settings["T_max"], spec.settings.get("_times", ())
    return {"_times": (*times, lambda e: length - np.abs(e % (2 * length) - length)), "_shape": "linear"}


def _swings(spec: Spec, model: Model) -> dict[str, Any] | None:
    lines = ("LinearLR", "PolynomialLR", "CyclicLR", "LinearWarmupLR")
    is_linear = spec.name in lines or spec.settings.get("anneal_strategy") == "linear"
    return {"_shape": "cosine"} if is_linear else None


AXES: tuple[Axis, ...] = (
    Axis(
        "NeverStepped",
        "the learning rate never moves",
        "the call of scheduler.step(), and whether the optimizer that steps is the one the scheduler holds",
        still,
    ),
    Axis(
        "ScheduleAhead",
        "the schedule is ahead: it begins later in itself, as if it counted from 1",
        "the first count that reaches the schedule: it is 0, and the value at 0 is that of the first step",
        ahead,
        "llm.c's warm-up, (step + 1) / warmup",
    ),
    Axis(
        "ScheduleBehind",
        "the schedule is behind: its first value is there too long",
        "where the count is raised: before the value is read, not after the step that follows",
        behind,
    ),
    Axis(
        "StartNotApplied",
        "the first learning rate is that of the optimizer: the schedule begins to act at its first step()",
        "the constructor: the value at epoch 0 is set there, before any step",
        skipped_start,
    ),
    Axis(
        "StepsForEpochs",
        "the schedule is stepped too often: it counts steps, and its settings are meant in epochs",
        "the loop in which scheduler.step() stands, or settings that must be multiplied by the steps of an epoch",
        stretched(lambda e, k: e * k, "{} times as fast, as with so many steps in an epoch"),
        solved=True,
    ),
    Axis(
        "EpochsForSteps",
        "the schedule is stepped too seldom: it counts epochs, and its settings are meant in steps",
        "the loop in which scheduler.step() stands, or settings that must be divided by the steps of an epoch",
        stretched(lambda e, k: np.floor(e / k), "one move in {} steps, as with so many steps in an epoch"),
        solved=True,
    ),
    Axis(
        "FractionalEpochs",
        "the schedule moves with every step by a part of an epoch",
        "the count that reaches the schedule: a whole number of epochs, without the part that has passed",
        stretched(lambda e, k: e / k, "{} times as slow, as with so many steps in an epoch"),
        solved=True,
    ),
    Axis(
        "MovesSeldom",
        "the learning rate follows the schedule, but is set only now and then",
        "whatever writes the learning rate to the optimizer: it must do so in every step",
        stretched(lambda e, k: np.floor(e / k) * k, "once in {} epochs"),
        solved=True,
    ),
    Axis(
        "WarmupOneLonger",
        "the warm-up is one epoch too long",
        "the epoch at which the warm-up ends: it is total_iters itself that has the full factor",
        longer(1, *WARMUP_STEPS, of=WARMUP_STEPS),
    ),
    Axis(
        "WarmupOneShorter",
        "the warm-up is one epoch too short",
        "the divisor of the warm-up: total_iters, not total_iters - 1",
        longer(-1, *WARMUP_STEPS, of=WARMUP_STEPS),
    ),
    Axis(
        "WarmupFromZero",
        "the warm-up begins at zero, not at start_factor",
        "the first factor: start_factor + (end_factor - start_factor) * epoch / total_iters",
        option("LinearLR", _ramp="zero"),
        "transformers' get_linear_schedule_with_warmup",
    ),
    Axis(
        "WarmupFromOneNth",
        "the warm-up goes as (epoch + 1) / total_iters, without start_factor",
        "the first factor: start_factor + (end_factor - start_factor) * epoch / total_iters",
        option("LinearLR", *HF, _ramp="nth"),
        "llm.c",
    ),
    Axis(
        "WarmupNotCounted",
        "the decay takes as long as the whole run should, after the warm-up: the warm-up is not counted",
        "the divisor of the decay: the whole length less the warm-up",
        computed(_decays_after, *TRAINED),
        "Keras' CosineDecay, whose decay_steps come after its warm-up",
    ),
    Axis(
        "FactorForRate",
        "factors are taken for learning rates: they are not multiplied by that of the optimizer",
        "start_factor, end_factor and factor: each is a part of base_lr",
        computed(_absolute, *WARMUPS),
        "optax' linear_schedule, which takes learning rates",
    ),
    Axis(
        "EndOneLate",
        "the end is reached one epoch late",
        "the divisor of the way: T, not T + 1",
        longer(1, "PolynomialLR", "CosineAnnealingLR", "OneCycleLR", *TRAINED),
    ),
    Axis(
        "EndOneEarly",
        "the end is reached one epoch early: at T - 1, as with linspace over T values",
        "the divisor of the way: T, not T - 1",
        longer(-1, "PolynomialLR", "CosineAnnealingLR", "OneCycleLR", *TRAINED),
    ),
    Axis(
        "RunsPastEnd",
        "the ramp goes on after its end",
        "the part that has passed: it must stop at 1, min(epoch, T) / T",
        option("LinearLR", "PolynomialLR", _after="run on"),
    ),
    Axis(
        "EndReturnsToBase",
        "after its end the learning rate is that of the optimizer again",
        "what is returned after the last epoch: the value reached there",
        option(*ENDING, _after="base"),
    ),
    Axis(
        "PeriodOneLonger",
        "the period is one epoch too long: restarts, decays or turns come one later each time",
        "the modulus, or the comparison that ends a period: epoch % T, T_cur >= T_i",
        longer(1, *PERIODIC),
    ),
    Axis(
        "PeriodOneShorter",
        "the period is one epoch too short: restarts, decays or turns come one earlier each time",
        "the modulus, or the comparison that ends a period: epoch % T, T_cur >= T_i",
        longer(-1, *PERIODIC),
    ),
    Axis(
        "RestartReachesMinimum",
        "each cycle has one epoch more, in which eta_min is reached",
        "the comparison that restarts: T_cur >= T_i, so that T_cur is never T_i",
        option("CosineAnnealingWarmRestarts", _cycle="longer"),
    ),
    Axis(
        "RestartsNotLengthened",
        "all cycles are as long as the first: T_mult does nothing",
        "T_i, which is multiplied by T_mult at each restart",
        option("CosineAnnealingWarmRestarts", T_mult=1),
    ),
    Axis(
        "MilestonesInclusive",
        "the change comes one epoch after its milestone, which still has the value before it",
        "the comparison with the milestone: epoch >= milestone has the new value, not epoch > milestone",
        option(*STEPPED, _count="inclusive"),
        "Keras' PiecewiseConstantDecay, whose boundaries belong to the value on their left",
    ),
    Axis(
        "MilestonesEarly",
        "the change comes one epoch before its milestone",
        "the comparison with the milestone: epoch >= milestone has the new value, not epoch + 1 >= milestone",
        option(*STEPPED, _count="early"),
    ),
    Axis(
        "GammaTwice",
        "each decay is applied twice",
        "a second call of step(), or a factor that is applied to the learning rate and to its base",
        any_of(_gamma(lambda x: x * x), option("LambdaLR", "MultiplicativeLR", _count="twice")),
    ),
    Axis(
        "DecayNotCumulative",
        "a decay does not add to those before it: the learning rate is the base times one factor",
        "the count of decays: gamma ** count, or the learning rate before it times gamma",
        option("StepLR", "MultiStepLR", "MultiplicativeLR", _count="once"),
    ),
    Axis(
        "GammaInverted",
        "the learning rate is divided by gamma",
        "the operator: a product",
        _gamma(lambda x: 1 / x),
    ),
    Axis(
        "GammaSubtracted",
        "the learning rate is multiplied by 1 - gamma",
        "what gamma means: what is left, not what is taken away",
        _gamma(lambda x: 1 - x),
    ),
    Axis(
        "ContinuousDecay",
        "the decay is continuous: the exponent is epoch / step_size, not its whole part",
        "the exponent: epoch // step_size",
        option("StepLR", _count="continuous"),
        "optax' exponential_decay and Keras' ExponentialDecay, unless staircase is set",
    ),
    Axis(
        "CosineClamped",
        "the cosine stays at its minimum after T_max and does not rise again",
        "min(epoch, T_max): torch's schedule has none",
        option("CosineAnnealingLR", "CosineWarmupLR", "CosineWarmupRateLR", _after="hold"),
        "optax, Keras",
    ),
    Axis(
        "CosineRestarts",
        "the cosine begins anew after T_max, as with restarts",
        "epoch % T_max: the period is 2 * T_max",
        option("CosineAnnealingLR", _after="restart"),
        "burn until 2026",
    ),
    Axis(
        "CosineWholePeriod",
        "the cosine goes through its whole period where it should go through half: the minimum comes at half the way",
        "the angle: pi * epoch / T, not 2 * pi * epoch / T",
        option(*COSINES, _speed=2),
    ),
    Axis(
        "CosineHalfWay",
        "the cosine goes half as fast: at the end it is in the middle between its bounds",
        "the angle: pi * epoch / T, not pi * epoch / (2 * T)",
        option(*COSINES, _speed=0.5),
    ),
    Axis(
        "QuarterCosine",
        "the curve is a quarter of a cosine, cos(pi / 2 * x), which begins flat and ends steep",
        "the shape: (1 + cos(pi * x)) / 2",
        any_of(option(*COSINES, _shape="quarter"), option("CosineAnnealingLR", _shape="quarter", _after="hold")),
    ),
    Axis(
        "LinearForCosine",
        "the curve is a straight line where it should be a cosine",
        "the shape: (1 + cos(pi * x)) / 2, not 1 - x",
        any_of(
            computed(_shapes, *COSINES, "OneCycleLR", "CosineWarmupLR", "CosineWarmupRateLR"),
            computed(_rising, "CosineAnnealingLR"),
        ),
    ),
    Axis(
        "CosineForLinear",
        "the curve is a cosine where it should be a straight line",
        "the shape: 1 - x, not (1 + cos(pi * x)) / 2",
        computed(_swings, "LinearLR", "PolynomialLR", "OneCycleLR", "CyclicLR", "LinearWarmupLR"),
    ),
    Axis(
        "EtaMinIgnored",
        "eta_min does nothing: the minimum is zero",
        "the lower bound: eta_min + (base_lr - eta_min) * height",
        option(*COSINES, eta_min=0.0),
    ),
    Axis(
        "EtaMinAdded",
        "eta_min is added to the whole cosine, so that it begins above base_lr",
        "the height: eta_min + (base_lr - eta_min) * height, not eta_min + base_lr * height",
        option(*COSINES, _low="added"),
    ),
    Axis(
        "EtaMinFloor",
        "eta_min cuts the cosine off: the maximum of both",
        "the lower bound: eta_min + (base_lr - eta_min) * height, not max(eta_min, base_lr * height)",
        option(*COSINES, _low="floor"),
    ),
    Axis(
        "EtaMinFactor",
        "eta_min is taken for a part of the learning rate",
        "the lower bound: eta_min is a learning rate, not base_lr * eta_min",
        option(*COSINES, _low="factor"),
        "optax and Keras, whose alpha is one",
    ),
    Axis(
        "ClockNotRestarted",
        "each schedule of the sequence goes on with the epochs of the whole, as if it had run from the beginning",
        "the epoch that a schedule is given after its milestone: epoch - milestone",
        option("SequentialLR", _clock="one"),
    ),
    Axis(
        "ChainOverwritten",
        "one schedule of the chain overwrites the others: each computes from the base, not from what is there",
        "the learning rate that a schedule starts from: that of the schedule before it",
        alone,
    ),
    Axis(
        "PhasesWhole",
        "the phases end at pct_start * total_steps and total_steps, one step late",
        "the end of a phase: one less, for steps are counted from 0",
        option("OneCycleLR", _phase="whole"),
        "optax' cosine_onecycle_schedule",
    ),
    Axis(
        "FinalDivOfMax",
        "final_div_factor divides max_lr, not the first learning rate",
        "the last learning rate: max_lr / div_factor / final_div_factor",
        option("OneCycleLR", _phase="final"),
    ),
    Axis(
        "CycleScaleAhead",
        "the amplitude is that of the cycle after",
        "the number of a cycle: floor(1 + epoch / period), and 2 ** (1 - cycle) of it",
        option("CyclicLR", _cycle="ahead"),
    ),
    Axis(
        "MomentumSwapped",
        "base_momentum and max_momentum have changed places: the momentum goes with the learning rate",
        "the momentum: it begins at max_momentum and is lowest where the learning rate is highest",
        option("CyclicLR", "OneCycleLR", _momentum="swapped"),
    ),
    Axis(
        "MomentumStill",
        "the momentum is not cycled",
        "cycle_momentum, which is on unless it is switched off",
        option("CyclicLR", "OneCycleLR", _momentum="still"),
    ),
    Axis(
        "PatienceOneLonger",
        "the plateau lasts one epoch too long before the learning rate is reduced",
        "the comparison with patience: num_bad_epochs > patience",
        computed(lambda spec, model: {"patience": spec.settings["patience"] + 1}, "ReduceLROnPlateau"),
    ),
    Axis(
        "PatienceOneShorter",
        "the plateau lasts one epoch too short before the learning rate is reduced",
        "the comparison with patience: num_bad_epochs > patience, not >=",
        computed(
            lambda spec, model: {"patience": spec.settings["patience"] - 1} if spec.settings["patience"] else None,
            "ReduceLROnPlateau",
        ),
    ),
    Axis(
        "CooldownIgnored",
        "there is no cooldown after a reduction",
        "cooldown_counter, which keeps num_bad_epochs at 0 while it runs",
        option("ReduceLROnPlateau", cooldown=0),
    ),
    Axis(
        "OtherChoice",
        "a setting is another than was given",
        "the default of this setting, and the name under which it is passed on",
        other_choice,
    ),
    Axis(
        "LrScaled",
        "the learning rates, or that of the optimizer, are multiplied by a factor",
        "what the schedule is multiplied by, and whether it is applied twice",
        scaled,
        solved=True,
    ),
    Axis(
        "OtherSetting",
        "a setting is another than was given",
        "the default of this setting, its unit, and the name under which it is passed on",
        any_of(other_real, other_whole),
        solved=True,
    ),
)
"""All axes, the likelier first: of those that give one curve the first is named."""

FLAGS = {axis.flag: axis.says for axis in AXES}
"""What each flag of a schedule means."""
