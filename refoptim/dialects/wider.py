"""How implementations of the rules beyond torch's differ: what a rule has says which general axes it has."""

from __future__ import annotations

import inspect
from typing import Any

import refoptim

from ..numerics.arith import Array, add, addcmul, axpy, div, maximum, mul, sqrt, sub
from ..numerics.power import power
from ..optimizers.adabelief import AdaBelief, rectification
from ..optimizers.adan import Adan
from ..optimizers.ademamix import AdEMAMix
from ..optimizers.adopt import ADOPT, bound
from ..optimizers.base import Optimizer
from ..optimizers.closure import ClosureOptimizer
from ..optimizers.ftrl import FTRL
from ..optimizers.lion import Lion
from ..optimizers.modes import ModalOptimizer
from ..optimizers.novograd import NovoGrad
from ..optimizers.rectification import length, longest
from ..optimizers.schedule_free_adamw import ScheduleFreeAdamW
from ..optimizers.schedule_free_radam import ScheduleFreeRAdam
from ..optimizers.soap import SOAP
from ..optimizers.sophia import Sophia
from ..optimizers.yogi import Yogi
from ..step.hyper import Flag, declared
from ..step.rule import Hypers, Record, Registers, has_sums, has_sums_over_all, is_measured, resolve
from .change import Change, Words, by_scalars, by_update, by_words, changed, declare, with_settings
from .correction import CORRECTION, MAXIMUM, counted, uncorrected
from .decay import ShrunkAfter
from .rounding import (
    RANGE,
    ROUNDING,
    SingleScalars,
    contracted,
    descending,
    flushing,
    moments_in,
    stored,
    to_brain,
    to_single,
    unsigned_zeros,
)
from .running import CHANGING, GAPS, ChangingLate, ChangingNever, Moving, SharedCount, losing


def _wider() -> tuple[Any, ...]:
    named = (getattr(refoptim, name) for name in refoptim.__all__)
    rules = (x for x in named if inspect.isclass(x) and issubclass(x, Optimizer) and x.is_rule and not x.of_torch)
    return tuple(rule for rule in rules if not issubclass(rule, ClosureOptimizer))


WIDER = _wider()
"""The rules that torch does not have."""

ELEMENTWISE = [rule for rule in WIDER if not is_measured(rule)]
"""Those that need no sums over elements: the others round when they store, and look at the gradient twice."""

KEEPING = [rule for rule in WIDER if has_sums(rule) or not is_measured(rule)]
"""Those whose array half renews the state; of the others ``measure`` does."""


def taking(*names: str) -> list[Any]:
    """Return those that have some hyperparameters."""
    return [rule for rule in WIDER if set(names) <= declared(rule).keys()]


SHRINKING = [rule for rule in WIDER if "shrink" in rule.varying]
"""Those that shrink the parameter, or can."""


OWN_TYPE = [rule for rule in WIDER if not rule.in_single]
"""Those that compute in the type of the storage; the others are written without the words that are fused elsewhere."""


def state_of(rule: Any) -> tuple[str, ...]:
    """Return the names of all the state that a rule may keep."""
    flags: dict[str, Any] = {name: True for name, x in declared(rule).items() if isinstance(x, Flag) and not x.optional}
    flags |= {"momentum": 0.9} if "momentum" in declared(rule) else {}
    h = resolve(rule, {**rule([{"params": []}]).defaults, **flags})
    return (*(["step"] if rule.counts_steps else []), *rule.registers(h), *rule.arrays(h, (2, 2)))


for _rule in WIDER:
    for _lost in [(name,) for name in state_of(_rule)] + [state_of(_rule)]:
        losing(_rule, _lost)

declare("MovedWithoutGradient", WIDER, GAPS)(Moving)
declare("StepShared", [rule for rule in WIDER if rule.counts_steps], "whose step count")(SharedCount)


@declare("StepShared", [Adan], "whose step count")
class SharedCountOwnFirst(SharedCount):
    """One count serves all parameters, but each has a first gradient of its own."""

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return super().arrays(h, shape) | {"neg_pre_grad": None}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        *averages, before = state
        return super().update(changed(s, first=before is None), p, g, *averages, g if before is None else before)


for _flag, _count in (("StepAhead", lambda k: k + 1), ("StepStuck", lambda k: 1)):
    counted(_flag, _count, [rule for rule in WIDER if rule.counts_steps and rule is not NovoGrad])  # it looks at none
declare("ChangeLate", WIDER, CHANGING)(ChangingLate)
declare("ChangeIgnored", WIDER, CHANGING)(ChangingNever)
by_update("SubnormalsFlushed", WIDER, RANGE, wrap=flushing)
by_update("SignOfZeroLost", [rule for rule in OWN_TYPE if rule is not FTRL], "signs of zero", wrap=unsigned_zeros)
by_words("FusedMultiplyAdd", [rule for rule in OWN_TYPE if rule is not FTRL], ROUNDING, words=contracted)
by_update("RoundedWhenStored", [rule for rule in ELEMENTWISE if rule in OWN_TYPE], ROUNDING, wrap=stored)
by_update(
    "MomentsInFloat32", [rule for rule in KEEPING if rule in OWN_TYPE], "dtype of moments", wrap=moments_in(to_single)
)
by_update("MomentsInBfloat16", KEEPING, "dtype of moments", wrap=moments_in(to_brain))
declare("ScalarsInFloat32", OWN_TYPE, "dtype of scalars")(SingleScalars)
by_update("MaximizeIgnored", [rule for rule in ELEMENTWISE if not has_sums_over_all(rule)], "sign", wrap=descending)
declare("DecayIgnored", taking("weight_decay"), "decay place", "decay size")(
    with_settings(lambda h: {"weight_decay": 0.0})
)
declare("EpsIgnored", taking("eps"), "eps")(with_settings(lambda h: {"eps": 0.0}))
by_scalars("DecayWithoutLr", SHRINKING, "decay size", change=lambda h, k, s: {"shrink": 1 - h.weight_decay})
declare("DecayAfterUpdate", [rule for rule in SHRINKING if rule is not SOAP], "decay place")(ShrunkAfter)


@declare("CoupledDecay", [rule for rule in SHRINKING if rule in ELEMENTWISE], "decay place")
class Coupled(Change):
    """The gradient has a decay, and the parameter does not shrink."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"coupled": h.weight_decay, "weight_decay": 0.0, "shrink": 1.0}

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, p, axpy(g, p, s.coupled), *state)


AVERAGE = "average"

by_scalars(
    "SignOfAverage",
    [Lion],
    AVERAGE,
    change=lambda h, k, s: {"beta1": s["beta2"], "one_minus_beta1": s["one_minus_beta2"]},
)
by_scalars(
    "MixKept", [Lion], AVERAGE, change=lambda h, k, s: {"beta2": s["beta1"], "one_minus_beta2": s["one_minus_beta1"]}
)


by_scalars("EpsUnscaled", [Yogi], "eps", change=lambda h, k, s: {"eps": h.eps / s["root_correction2"]}, varying={"eps"})
by_scalars("NoBiasCorrection", [Yogi, AdEMAMix], CORRECTION, change=uncorrected)
by_scalars(
    "NoBiasCorrection", [AdaBelief], CORRECTION, change=lambda h, k, s: {} if h.rectify else uncorrected(h, k, s)
)
by_scalars(
    "NoBiasCorrection",
    [Adan],
    CORRECTION,
    change=lambda h, k, s: {"step_size": -h.lr, "step_size_diff": -h.lr * h.betas[1], "root_correction3": 1.0},
)
by_scalars("DecoupledDecay", [Yogi, AdaBelief], "decay place", change=lambda h, k, s: {"decoupled": True})
declare("DecoupledDecay", [AdEMAMix], "decay place")(with_settings(lambda h: {"weight_decouple": True}))
by_scalars("AmsgradIgnored", [AdaBelief], MAXIMUM, change=lambda h, k, s: {"amsgrad": False})

by_words(
    "SquaresOfAdam",
    [Yogi],
    AVERAGE,
    words=lambda s, p, g, *state: {"addcmul": lambda x, y, z, c: axpy(x, sub(x, z), c)},
)


@declare("AveragesFromZero", [Yogi], "beginning")
class FromZero(Change):
    """Both averages begin at 0."""

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return dict.fromkeys(super().arrays(h, shape), 0.0)


by_words(
    "EpsNotAccumulated",
    [AdaBelief],
    "eps",
    words=lambda s, p, g, *state: {"addcmul": lambda x, y, z, c: sub(addcmul(x, y, z, c), s.eps)},
)
by_words("VarianceOfGradient", [AdaBelief], AVERAGE, words=lambda s, p, g, *state: {"sub": lambda x, y: x})


def _rectified_early(h: Hypers, k: int, s: dict[str, Any]) -> dict[str, Any]:
    later = AdaBelief.scalars(h, k + 1, {})
    return {name: later[name] for name in ("rectified", "step_size")} if h.rectify else {}


def _rectified_past_four(h: Hypers, k: int, s: dict[str, Any]) -> dict[str, Any]:
    """Rectify where rho > 4; the steps before that are not corrected for bias."""
    beta1, beta2 = h.betas
    rho = length(beta2, k)
    if not h.rectify or rho <= 4:
        return {"rectified": False, "step_size": -h.lr} if h.rectify else {}
    size = rectification(rho, longest(beta2), power(beta2, k)) / (1 - power(beta1, k))
    return {"rectified": True, "step_size": -size * h.lr}


for _change in (_rectified_early, _rectified_past_four):
    by_scalars("RectifiedTooEarly", [AdaBelief], "rectification", change=_change)


@declare("EpsScaled", [AdaBelief], "eps of the step")
class EpsOfCorrected(Change):
    """A rectified step adds eps to the corrected root."""

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        right = super().words(s, p, g, *state)
        return right | {"sqrt": lambda x: div(sqrt(x), s.root_correction2)} if s.rectify else right

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        size = s.step_size / s.root_correction2 if s.rectify and s.rectified else s.step_size
        return super().update(changed(s, step_size=size), p, g, *state)


@declare("BetaOfDifferenceComplemented", [Adan], "difference")
class Complemented(Change):
    """1 - beta2 inside the square, and in the step."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right = super().scalars(h, k, registers)
        factor = (1 - h.betas[1]) / h.betas[1]
        return {**right, "step_size_diff": right["step_size_diff"] * factor}

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        inside = {"mul": lambda x, c: mul(x, s.one_minus_beta2 if c is s.beta2 and x is not state[1] else c)}
        return super().words(s, p, g, *state) | inside


@declare("AveragesCorrected", [Adan], CORRECTION, "difference")
class Corrected(Change):
    """The averages that are kept are corrected already: each number in one weighs what the step count says."""

    moving = frozenset({"one_minus_beta1", "kept2", "one_minus_beta2", "beta3", "one_minus_beta3"})

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        new1, new2, new3 = ((1 - beta) / (1 - power(beta, k)) for beta in h.betas)
        kept = {"kept2": 1 - new2, "beta3": 1 - new3}
        new = {"one_minus_beta1": new1, "one_minus_beta2": new2, "one_minus_beta3": new3}
        sizes = {"step_size": -h.lr, "step_size_diff": -h.lr * h.betas[1], "root_correction3": 1.0}
        return super().scalars(h, k, registers) | kept | new | sizes

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        return super().words(s, p, g, *state) | {"mul": lambda x, c: mul(x, s.kept2 if x is state[1] else c)}


@declare("AveragesCorrected", [Adan], CORRECTION, "difference", "whose step count")
class CorrectedByShared(Corrected, SharedCountOwnFirst):
    """As above, by one step count for all parameters."""


declare("NoProxIgnored", [Adan], "decay place")(with_settings(lambda h: {"no_prox": False}))
by_scalars("DifferenceInFirstStep", [Adan], "first step", change=lambda h, k, s: {"first": False})

by_scalars("SlowAverageIgnored", [AdEMAMix], "slow average", change=lambda h, k, s: {"alpha": 0.0})
by_scalars(
    "SlowAverageCorrected",
    [AdEMAMix],
    "slow average",
    change=lambda h, k, s: {"alpha": s["alpha"] / (1 - power(h.betas[2], k))},
)
declare("GrowthIgnored", [AdEMAMix], "growth")(with_settings(lambda h: {"t_alpha_beta3": None}))


def _straight(h: Hypers, k: int, s: dict[str, Any]) -> dict[str, Any]:
    beta1, _, beta3 = h.betas
    part = 1.0 if h.t_alpha_beta3 is None else min(k / h.t_alpha_beta3, 1.0)
    return {"one_minus_beta3": 1 - (beta1 + part * (beta3 - beta1)) if part < 1 else 1 - beta3}


by_scalars("BetaGrowsLinearly", [AdEMAMix], "growth", change=_straight)

declare("InitialAccumulatorIgnored", [FTRL], "beginning")(with_settings(lambda h: {"initial_accumulator_value": 0.0}))
by_scalars("L1Ignored", [FTRL], "penalty", change=lambda h, k, s: {"low": -0.0, "high": 0.0})
by_scalars("L2Single", [FTRL], "penalty in square", change=lambda h, k, s: {"twice_l2": s["twice_l2"] / 2})
by_scalars("BetaIgnored", [FTRL], "penalty in square", change=lambda h, k, s: {"twice_l2": 2 * h.l2})
by_scalars("ShrinkageIgnored", [FTRL], "shrinkage", change=lambda h, k, s: {"shrinkage": 0.0})


def _shrunk_in_squares(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    return update(changed(s, shrinkage=0 * s.shrinkage), p, add(g, mul(p, s.shrinkage)), *state)


by_update("ShrinkageInSquares", [FTRL], "shrinkage", wrap=_shrunk_in_squares)

ESTIMATES = "estimates"


def _unestimated(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    return update(changed(s, estimated=False), p, g, *state[:2], None)


def _estimated_late(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    *_, hessian_moment = update(s, p, g, *state)
    return *_unestimated(update, s, p, g, *state)[:2], hessian_moment


def _estimated_always(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    *kept, estimate = state
    estimate = estimate if s.estimated else mul(g, 0 * s.eps)
    return update(changed(s, estimated=True), p, g, *kept, estimate)


by_update("EstimateIgnored", [Sophia], ESTIMATES, wrap=_unestimated)
by_update("EstimateOfStepBefore", [Sophia], ESTIMATES, wrap=_estimated_late)
by_update("EstimateInEveryStep", [Sophia], ESTIMATES, wrap=_estimated_always)
by_words(
    "EpsAddedToEstimates",
    [Sophia],
    "eps",
    words=lambda s, p, g, *state: {"maximum": lambda x, c: add(x, c) if c is s.eps else maximum(x, c)},
)
by_words(
    "StepUnclipped",
    [Sophia],
    "clipping",
    words=lambda s, p, g, *state: {
        "minimum": lambda x, c: x,
        "maximum": lambda x, c: x if c is s.low else maximum(x, c),
    },
)


def _by_new_squares(update: Any, s: Record, p: Array, g: Array, exp_avg: Array, exp_avg_sq: Array) -> Any:
    if s.first:
        return update(s, p, g, exp_avg, exp_avg_sq)
    *_, after = update(s, p, g, exp_avg, exp_avg_sq)
    p, exp_avg, _ = update(s, p, g, exp_avg, after)
    return p, exp_avg, after


def _moving_at_once(update: Any, s: Record, p: Array, g: Array, exp_avg: Array, exp_avg_sq: Array) -> Any:
    if not s.first:
        return update(s, p, g, exp_avg, exp_avg_sq)
    return update(changed(s, first=False, low=-1 + 0 * s.low, high=1 + 0 * s.high), p, g, exp_avg, mul(g, g))


def _decaying_at_once(update: Any, s: Record, p: Array, g: Array, *state: Array) -> Any:
    shrinks = s.first and s.weight_decay and s.decoupled
    return update(s, axpy(p, p, s.decay) if shrinks else p, g, *state)


by_update("DecayInFirstStep", [ADOPT], "first step", wrap=_decaying_at_once)
by_update("SquaresOfThisStep", [ADOPT], AVERAGE, wrap=_by_new_squares)
by_update("MovedInFirstStep", [ADOPT], "first step", wrap=_moving_at_once)
by_scalars("ClipIgnored", [ADOPT], "clipping", change=lambda h, k, s: {"clipped": False})
by_scalars(
    "ClipFromThisStep",
    [ADOPT],
    "clipping",
    change=lambda h, k, s: {"low": -bound(h.clip_exp, k + 1), "high": bound(h.clip_exp, k + 1)},
)


MODAL: list[Any] = [rule for rule in WIDER if issubclass(rule, ModalOptimizer)]
"""Those that average their iterates, and have modes."""


@declare("WeightsEqual", MODAL, "weights")
class Mean(Change):
    """The average is the mean of all iterates."""

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        right, rule = super().scalars(h, k, registers), next(x for x in MODAL if issubclass(cls, x))
        step = right["iterate_step"] * (1 - rule.momentum_of(h) * (1 - 1 / k))
        return {**right, "share": 1 / k, "gradient_step": step}


declare("WarmupIgnored", taking("warmup_steps"), "warmup")(with_settings(lambda h: {"warmup_steps": 0}))
declare("SilentPhaseIgnored", [ScheduleFreeRAdam], "rectification")(
    with_settings(lambda h: {"silent_sgd_phase": False})
)


@declare("PlainRateOne", [ScheduleFreeRAdam], "rectification")
class AtRateOne(Change):
    """The steps that descend by plain gradients have the learning rate 1."""

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return super().advance(_at_rate_one(h, k), k, registers)

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(_at_rate_one(h, k), k, registers)


def _at_rate_one(h: Hypers, k: int) -> Hypers:
    rate_one: Hypers = changed(h, lr=1.0)
    return h if length(h.betas[1], k) > 4 else rate_one


by_scalars(
    "NoBiasCorrection",
    [ScheduleFreeAdamW, ScheduleFreeRAdam],
    CORRECTION,
    change=lambda h, k, s: {"correction2": 1.0},
)


@declare("SumsInFloat32", MODAL, "dtype of registers")
class SingleSums(Change):
    """The numbers that are kept are float32."""

    double_registers = False


@declare("LargestRateForgotten", MODAL, "weights")
class Forgetful(Change):
    """An iterate weighs what its own learning rate says."""

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        return super().advance(h, k, {**registers, "lr_max": -1 + 0 * registers["lr_max"]})


def _with_new_iterate(update: Any, s: Record, p: Array, g: Array, z: Array | None, *rest: Array) -> Any:
    _, after, *others = update(s, p, g, z, *rest)
    return update(s, p, g, after, *rest)[0], after, *others


by_update("NewIterateAveraged", MODAL, AVERAGE, wrap=_with_new_iterate)
by_words(
    "DecayAtIterate",
    MODAL,
    "decay place",
    words=lambda s, p, g, z, *rest: {
        "axpy": lambda x, y, c: axpy(x, y if z is None or c is not s.weight_decay else z, c)
    },
)
