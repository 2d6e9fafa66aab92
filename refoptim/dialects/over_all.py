"""How implementations of the rules with sums over all parameters differ, beyond what ``wider`` says of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..numerics import tree
from ..numerics.arith import Array, neg
from ..optimizers.base import Optimizer
from ..optimizers.lamb import LAMB, excess
from ..optimizers.prodigy import Prodigy, step_size
from ..step.rule import Hypers, Record, Registers
from .change import Change, MeasuredChange, changed, declare, with_settings, with_words
from .correction import CORRECTION
from .summed import CLIP
from .wider import AVERAGE

ESTIMATE = "estimate"


@declare("MaximizeIgnored", [Prodigy], "sign")
class Descending(Change):
    """Takes the step that minimizes."""

    @classmethod
    def sums_over_all(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().sums_over_all(s, p, neg(g) if s.maximize else g, *state)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return super().update(s, p, neg(g) if s.maximize else g, *state)


def by_measured(flag: str, rules: list[type[Optimizer]], *touches: str, change: Callable[..., dict[str, Any]]) -> None:
    """Enter a change of what sums over all say: ``change(h, registers, measured)`` returns what is another."""

    @declare(flag, rules, *touches)
    class Measured(Change):
        @classmethod
        def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
            right = super().measured_over_all(h, registers, *totals)
            return {**right, **change(h, registers, right)} if right else right


def _with_new_estimate(h: Hypers, registers: Registers, found: dict[str, Any]) -> dict[str, Any]:
    dlr = step_size(h, {**registers, "d": found["d"]})
    decay = -h.weight_decay * dlr if h.decouple else 0.0
    return {"step_size": -dlr if h.betas[0] else -dlr * found["d"], "decay": decay}


by_measured("NewEstimateInStep", [Prodigy], "size of the step", change=_with_new_estimate)
by_measured(
    "OldEstimateOfGradient",
    [Prodigy],
    "size of the step",
    change=lambda h, registers, found: {} if h.betas[0] else {"step_size": -step_size(h, registers) * registers["d"]},
)
by_measured("EstimateStuck", [Prodigy], ESTIMATE, change=lambda h, registers, found: {"d": h.d0, "d_max": h.d0})
declare("GrowthUnbounded", [Prodigy], "growth")(with_settings(lambda h: {"growth_rate": float("inf")}))
declare("SliceIgnored", [Prodigy], "slice")(with_settings(lambda h: {"slice_p": 1}))
declare("CoefficientIgnored", [Prodigy], "coefficient")(with_settings(lambda h: {"d_coef": 1.0}))
declare("LrLeftOutOfSum", [Prodigy], AVERAGE)(with_settings(lambda h: {"safeguard_warmup": True}))
declare("LrInSum", [Prodigy], AVERAGE)(with_settings(lambda h: {"safeguard_warmup": False}))
declare("DecoupledDecay", [Prodigy], "decay place")(with_settings(lambda h: {"decouple": True}))
declare("CoupledDecay", [Prodigy], "decay place")(with_settings(lambda h: {"decouple": False}))
declare("CoupledDecayLost", [Prodigy], "decay place")(
    with_settings(lambda h: {"weight_decay": h.weight_decay if h.decouple else 0.0})
)
declare("NoBiasCorrection", [Prodigy], CORRECTION)(with_settings(lambda h: {"use_bias_correction": False}))


@declare("ZeroStepsCounted", [Prodigy], "step count")
class Counting(Change):
    """A step in which the sum of magnitudes is zero counts."""

    @classmethod
    def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
        return super().measured_over_all(h, registers, *totals) or {"k": float(registers["k"]) + 1}


@declare("NumeratorKept", [Prodigy], ESTIMATE)
class Kept(Change):
    """The numerator of the estimate is a sum, not one that forgets."""

    @classmethod
    def measured_over_all(cls, h: Hypers, registers: Registers, *totals: float) -> dict[str, Any]:
        return super().measured_over_all(changed(h, beta3=1.0), registers, *totals)


@declare("SumOfSigned", [Prodigy], ESTIMATE)
class Signed(Change):
    """The sums over s are those of its numbers with their signs."""

    @classmethod
    def sums_over_all(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        signed = with_words(super().sums_over_all, {"absolute": lambda x: x})
        found: tuple[Array, ...] = signed(s, p, g, *state)
        return found


declare("GradientsUnclipped", [LAMB], CLIP)(with_settings(lambda h: {"max_grad_norm": None}))


@declare("ClippedOneByOne", [LAMB], CLIP)
class OneByOne(MeasuredChange):
    """The gradient of each parameter is clipped by its own norm."""

    @classmethod
    def takes_part(cls, h: Hypers) -> bool:
        return False

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return super().scalars(h, k, registers) | {"bound": h.max_grad_norm or float("inf")}

    @classmethod
    def measure(cls, s: Record, p: Array, g: Array, *state: Array) -> dict[str, Any]:
        clip = g.dtype.type(excess(float(tree.norm(g)), s.exact.bound))
        return super().measure(changed(s, clip=clip), p, g, *state) | {"clip": float(clip)}
