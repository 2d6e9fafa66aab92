"""Mutants: refoptim's optimizers, each with one mistake that others have made.

``MUTANTS[optimizer, flag]`` are functions that make classes. Each class differs from the optimizer by the mistake that
the flag names, and by nothing else; a case that carries the flag tells it from the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from math import inf
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from refoptim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    SparseAdam,
    SparseGrad,
)
from refoptim.numerics.arith import add, addcdiv, addcmul, axpy, div, lerp, maximum, mul, neg, sqrt, sub
from refoptim.numerics.arith import sign as sign_of
from refoptim.optimizers import adafactor, muon, radam

Room = Any
"""The class of an optimizer."""

MUTANTS: dict[tuple[str, str], list[Callable[[], Room]]] = {}

MOMENTS = (SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adadelta, Adagrad, RMSprop, ASGD)
"""Optimizers whose gradient enters through a decay, or whose parameter decays."""

COUNTING = (Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, ASGD, SparseAdam, Adafactor)


def register(flag: str, rooms: Sequence[Room], make: Callable[[Room], Room]) -> None:
    for room in rooms:
        MUTANTS.setdefault((room.__name__, flag), []).append(partial(make, room))


def by_scalars(flag: str, rooms: Sequence[Room], change: Callable[..., dict[str, Any]]) -> None:
    """Make mutants in whose steps some scalars are others: ``change(h, k, scalars)`` returns them."""

    def make(room: Room) -> Room:
        class Mutant(room):
            @classmethod
            def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
                right = super().scalars(h, k, registers)
                return {**right, **change(h, k, right)}

        return Mutant

    register(flag, rooms, make)


def by_update(flag: str, rooms: Sequence[Room], wrong: Callable[..., tuple[Any, ...]]) -> None:
    """Make mutants whose array half is ``wrong(room, s, p, g, *state)``."""
    register(flag, rooms, lambda room: type("Mutant", (room,), {"update": classmethod(partial_update(room, wrong))}))


def partial_update(room: Room, wrong: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    return lambda cls, s, p, g, *state: wrong(room, s, p, g, *state)


def by_words(flag: str, rooms: Sequence[Room], **words: Callable[..., Any]) -> None:
    """Make mutants whose array half uses other words."""
    by_update(flag, rooms, lambda room, s, p, g, *state: updated(room, words, s, p, g, *state))


def updated(room: Room, words: dict[str, Any], s: Any, p: Any, g: Any, *state: Any) -> Any:
    """Run the array half of a room with other words."""
    return rebuilt(room.update.__func__, **words)(room, s, p, g, *state)


def rebuilt(f: Any, **names: Any) -> Any:
    """Return a function with the same code to which some global names mean something else."""
    copy = FunctionType(f.__code__, {**f.__globals__, **names}, f.__name__, f.__defaults__, f.__closure__)
    copy.__globals__[f.__name__] = copy
    return copy


def changed(record: Any, **values: Any) -> Any:
    """Return a record with other values, each of the type it had."""
    return SimpleNamespace(**{**vars(record), **values})


# Weight decay


def decoupled(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(h, k, registers) | {"weight_decay": 0.0, "before": 1 - h.lr * h.weight_decay}

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return super().update(s, mul(p, s.before), g, *state)

    return Mutant


def coupled(room: Room) -> Room:
    """For rules that measure: their gradient is seen twice."""

    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(h, k, registers) | {"coupled": h.weight_decay, "weight_decay": 0.0, "shrink": 1.0}

        @classmethod
        def measure(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return super().measure(s, p, axpy(g, p, s.coupled), *state)

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return super().update(s, p, axpy(g, p, s.coupled), *state)

    return Mutant


def decayed_later(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            right = super().scalars(h, k, registers)
            return {**right, "shrink": 1.0, "later": right["shrink"]}

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            p, *state = super().update(s, p, g, *state)
            return mul(p, s.later), *state

    return Mutant


def decayed_after_momentum(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(h, k, registers) | {"weight_decay": 0.0, "decay": -h.lr * h.weight_decay}

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            q, *state = super().update(s, p, g, *state)
            return axpy(q, p, s.decay), *state

    return Mutant


register("DecoupledDecay", [room for room in MOMENTS if room is not AdamW], decoupled)
by_scalars("CoupledDecay", [AdamW, NAdam, RAdam], lambda h, k, s: {"decoupled": False})
register("CoupledDecay", [Adafactor, Muon], coupled)
register("DecayAfterUpdate", [AdamW, NAdam, RAdam, Muon], decayed_later)
register("DecayAfterMomentum", [SGD], decayed_after_momentum)
by_scalars("DecayWithoutLr", [AdamW], lambda h, k, s: {"shrink": 1 - h.weight_decay})
by_scalars(
    "MaximizeAfterDecay",
    [room for room in MOMENTS if room not in (AdamW, NAdam, RAdam)],
    lambda h, k, s: {"weight_decay": -h.weight_decay if h.maximize else h.weight_decay},
)
by_update("MaximizeIgnored", [Adafactor, SparseAdam], lambda room, s, p, g, *state: room.update(s, p, neg(g), *state))


# The place of eps


def eps_inside(room: Room, s: Any, p: Any, g: Any, *state: Any) -> Any:
    words = {"sqrt": lambda x: sqrt(add(x, s.eps))}
    return updated(room, words, changed(s, eps=0 * s.eps), p, g, *state)


def eps_subtracted(room: Room, s: Any, p: Any, g: Any, *state: Any) -> Any:
    words = {"sqrt": lambda x: sqrt(add(x, -s.eps))}
    return updated(room, words, changed(s, eps=0 * s.eps), p, g, *state)


def eps_outside_maximum(room: Room, s: Any, p: Any, g: Any, *state: Any) -> Any:
    words = {"addcdiv": lambda x, y, z, c: addcdiv(x, y, add(z, s.eps), c)}
    return updated(room, words, changed(s, eps=0 * s.eps), p, g, *state)


def eps_missing_above(room: Room, s: Any, p: Any, g: Any, square_avg: Any, acc_delta: Any) -> Any:
    words = {"add": lambda x, c: x if x is acc_delta else add(x, c)}
    return updated(room, words, s, p, g, square_avg, acc_delta)


by_update("EpsInsideRoot", [Adam, AdamW, NAdam, Adagrad, RMSprop, SparseAdam], eps_inside)
by_update("EpsSubtracted", [RMSprop], eps_subtracted)
by_update("EpsOutsideMaximum", [Adamax], eps_outside_maximum)
by_update("EpsMissingAbove", [Adadelta], eps_missing_above)
by_words("EpsOutsideRoot", [Adadelta], add=lambda x, c: (x, c), sqrt=lambda pair: add(sqrt(pair[0]), pair[1]))
by_scalars("EpsUnscaled", [Adam, AdamW], lambda h, k, s: {"eps": h.eps / s["root_correction2"]})
by_scalars("EpsScaled", [SparseAdam, RAdam], lambda h, k, s: {"eps": h.eps * (1 - h.betas[1] ** k) ** 0.5})


# Bias correction and the count of steps


def left_out(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    """The scalars of a step without bias correction, of those that a room has."""
    without = {"step_size": -h.lr, "root_correction2": 1.0, "correction1": 1.0}
    return {name: x for name, x in without.items() if name in s}


def rectified_by_count(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    """Count the steps, one too many, where rho should exceed 5."""
    if k + 1 <= 5:
        return {}
    beta2 = h.betas[1]
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * k * beta2**k / (1 - beta2**k)
    return {"rectified": True, "rect": radam.rectification(rho, rho_inf)}


def from_zero(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            right = super().scalars(h, max(1, k - 1), registers)
            return right if k > 1 else {**right, **left_out(h, k, right)}

    return Mutant


def accumulated(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def registers(cls, h: Any) -> dict[str, float]:
            return {"product1": 1.0, "product2": 1.0}

        @classmethod
        def advance(cls, h: Any, k: int, registers: Any) -> Any:
            return {f"product{i}": np.float64(registers[f"product{i}"]) * h.betas[i - 1] for i in (1, 2)}

        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            product1, product2 = (float(x) for x in cls.advance(h, k, registers).values())
            right = super().scalars(h, k, registers)
            return {**right, "root_correction2": (1 - product2) ** 0.5, "step_size": -(h.lr / (1 - product1))}

    return Mutant


def sharing_steps(room: Room) -> Room:
    class Mutant(room):
        def step(self, closure: Any = None, *, grads: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                self.state[p]["step"] = self.taken
            self.taken += 1
            return super().step(grads=grads)

        taken = 0

    return Mutant


by_scalars("NoBiasCorrection", [Adam, AdamW, Adamax, RAdam, SparseAdam], left_out)
by_scalars("RectifiedTooEarly", [RAdam], rectified_by_count)
register("StepFromZero", [Adam], from_zero)
register("CorrectionAccumulated", [Adam], accumulated)
register("StepShared", COUNTING, sharing_steps)


# Maxima


def maximum_after(room: Room, s: Any, p: Any, g: Any, exp_avg: Any, exp_avg_sq: Any, largest: Any) -> Any:
    p = mul(p, s.shrink) if s.decoupled else p
    g = g if s.decoupled else axpy(g, p, s.weight_decay)
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
    exp_avg_sq = addcmul(mul(exp_avg_sq, s.beta2), g, g, s.one_minus_beta2)
    largest = maximum(largest, div(exp_avg_sq, mul(s.root_correction2, s.root_correction2)))
    return addcdiv(p, exp_avg, add(sqrt(largest), s.eps), s.step_size), exp_avg, exp_avg_sq, largest


by_update("AmsgradAfterCorrection", [Adam, AdamW], maximum_after)
by_scalars("AmsgradIgnored", [Adam, AdamW], lambda h, k, s: {"amsgrad": False})
by_scalars("MaximumKept", [Adamax], lambda h, k, s: {"beta2": 1.0})
by_words("NanDropped", [Adam, AdamW, Adamax], maximum=np.fmax)
by_words("NanDropped", [Adafactor], direction=rebuilt(adafactor.direction, maximum=np.fmax))
by_update(
    "NanDropped", [SGD], lambda room, s, p, g, *state: room.update(s, p, np.where(g != g, g.dtype.type(0), g), *state)
)


# Momentum


def lr_inside(room: Room) -> Room:
    """The gradient that enters the buffer is scaled by lr."""

    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            right = super().scalars(h, k, registers)
            return {**right, "lr": h.lr, "step_size": right["step_size"] / h.lr}

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            inside = lr_words(room, s, g)
            return updated(room, inside, s, p, g, *state)

    return Mutant


def lr_words(room: Room, s: Any, g: Any) -> dict[str, Any]:
    if room is SGD:
        return {"axpy": lambda x, y, c: mul(axpy(x, y, c), s.lr) if x is g else axpy(x, y, c)}
    if room is SparseAdam:
        return {"sub": lambda x, y: sub(mul(x, s.lr), y) if x is g else sub(x, y)}
    return {"lerp": lambda x, y, c: lerp(x, mul(y, s.lr), c)}


def first_dampened(room: Room, s: Any, p: Any, g: Any, buf: Any) -> Any:
    return room.update(s, p, g, np.zeros_like(g) if buf is None else buf)


def twice_ahead(room: Room, s: Any, p: Any, g: Any, buf: Any) -> Any:
    g = axpy(g, p, s.weight_decay)
    buf = g if buf is None else axpy(mul(buf, s.momentum), g, s.undamped)
    ahead = axpy(g, buf, s.momentum)
    return axpy(p, axpy(g, ahead, s.momentum), s.step_size), buf


def not_averaged(room: Room) -> Room:
    def words(s: Any) -> dict[str, Any]:
        def summed(x: Any, y: Any, c: Any) -> Any:
            return add(mul(x, s.momentum), y) if c is s.one_minus_momentum else lerp(x, y, c)

        return {"lerp": summed}

    class Mutant(room):
        @classmethod
        def measure(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return rebuilt(room.measure.__func__, **words(s))(cls, s, p, g, *state)

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return updated(room, words(s), s, p, g, *state)

    return Mutant


def without_schedule(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def advance(cls, h: Any, k: int, registers: Any) -> Any:
            return super().advance(changed(h, momentum_decay=1.0), k, registers)

        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(changed(h, momentum_decay=1.0), k, registers)

    return Mutant


def sharing_product(room: Room) -> Room:
    class Mutant(room):
        def step(self, closure: Any = None, *, grads: Any = None) -> Any:
            params = self.param_groups[0]["params"]
            for i, p in enumerate(params):
                super().step(grads=[g if i == j else None for j, g in enumerate(grads)])
                for q in params if "mu_product" in self.state[p] else []:
                    self.state[q]["mu_product"] = self.state[p]["mu_product"]

    return Mutant


def product_in_double(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def advance(cls, h: Any, k: int, registers: Any) -> Any:
            return super().advance(h, k, {name: np.float64(x) for name, x in registers.items()})

    return Mutant


register("LrInsideMomentum", [SGD, Adam, SparseAdam], lr_inside)
by_scalars("LrInsideMomentum", [RMSprop], lambda h, k, s: {"one": h.lr, "step_size": -1.0})
by_update("FirstStepDampened", [SGD], first_dampened)
by_scalars("DampeningIgnored", [SGD], lambda h, k, s: {"undamped": 1.0})
by_update("NesterovAppliedTwice", [SGD], twice_ahead)
by_scalars("NesterovIgnored", [SGD, Muon], lambda h, k, s: {"nesterov": not h.nesterov})
register("MomentumNotAveraged", [Muon], not_averaged)
register("MomentumDecayIgnored", [NAdam], without_schedule)
register("MuProductShared", [NAdam], sharing_product)
register("MuProductInDouble", [NAdam], product_in_double)


# The averages of squares


def lr_inside_average(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(h, k, registers) | {"lr": h.lr, "step_size": -1.0}

        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return updated(room, {"div": lambda x, y: mul(div(x, y), s.lr)}, s, p, g, *state)

    return Mutant


def old_squares(room: Room, s: Any, p: Any, g: Any, square_avg: Any, acc_delta: Any) -> Any:
    words = {"add": lambda x, c: add(x if x is acc_delta else square_avg, c)}
    return updated(room, words, s, p, g, square_avg, acc_delta)


def first_values(**values: float) -> Callable[[Room], Room]:
    def make(room: Room) -> Room:
        class Mutant(room):
            @classmethod
            def arrays(cls, h: Any, shape: Any) -> Any:
                return {**super().arrays(h, shape), **values}

        return Mutant

    return make


by_scalars("LrIgnored", [Adadelta], lambda h, k, s: {"step_size": -1.0})
register("LrInsideAverage", [Adadelta], lr_inside_average)
by_update("OldSquares", [Adadelta], old_squares)
register("InitialAccumulatorIgnored", [Adagrad], first_values(sum=0.0))
by_scalars("LrDecayFromFirstStep", [Adagrad], lambda h, k, s: {"step_size": -(h.lr / (1 + k * h.lr_decay))})
register("InitialSquaresOne", [RMSprop], first_values(square_avg=1.0))
by_scalars("CenteredIgnored", [RMSprop], lambda h, k, s: {"centered": False})


# Rprop and ASGD


def lagging(room: Room, s: Any, p: Any, g: Any, prev: Any, step_size: Any) -> Any:
    _, g, longer = room.update(s, p, g, prev, step_size)
    return addcmul(p, sign_of(g), step_size, s.minus_one), g, longer


def kept_after_turn(room: Room, s: Any, p: Any, g: Any, prev: Any, step_size: Any) -> Any:
    p, _, step_size = room.update(s, p, g, prev, step_size)
    return p, g, step_size


def eta_of_this_step(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return super().scalars(h, k, {**registers, "eta": cls.advance(h, k, registers)["eta"]})

    return Mutant


def averaging_early(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def advance(cls, h: Any, k: int, registers: Any) -> Any:
            return super().advance(changed(h, t0=0), k, registers)

    return Mutant


by_update("StepLags", [Rprop], lagging)
by_update("GradientKeptAfterTurn", [Rprop], kept_after_turn)
by_scalars("StepSizeUnbounded", [Rprop], lambda h, k, s: {"smallest": 0.0, "largest": 6e4})
by_words("SignOfNan", [Rprop], sign=np.sign)
register("EtaOfThisStep", [ASGD], eta_of_this_step)
register("EtaInDouble", [ASGD], product_in_double)
register("AveragingTooEarly", [ASGD], averaging_early)


# Adafactor and Muon


def measuring(**names: Any) -> Callable[[Room], Room]:
    """Make mutants that measure by other functions."""

    def make(room: Room) -> Room:
        return type("Mutant", (room,), {"measure": classmethod(rebuilt(room.measure.__func__, **names))})

    return make


def unsized(room: Room) -> Room:
    """Make a mutant whose steps have the learning rate alone for their size."""

    class Mutant(room):
        @classmethod
        def step_size(cls, s: Any, shape: tuple[int, ...]) -> Any:
            return -s.exact.lr

    return Mutant


def factored_with_eps(s: Any, eps1: float, g: Any, *averages: Any) -> Any:
    def mean_square(g: Any, axis: int) -> Any:
        square = adafactor.mean_square(g, axis)
        return square + square.dtype.type(eps1)

    return rebuilt(adafactor.factored, mean_square=mean_square)(s, eps1, g, *averages)


def in_full(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def arrays(cls, h: Any, shape: Any) -> Any:
            return {"variance": 0.0}

        @classmethod
        def shapes(cls, shape: Any) -> Any:
            return {}

    return Mutant


def not_relative(room: Room) -> Room:
    class Mutant(room):
        @classmethod
        def measure(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            right = super().measure(s, p, g, *state)
            size = float(np.sqrt(np.mean(np.square(p, dtype=np.float64))))
            return {**right, "step_size": right["step_size"] / max(s.exact.eps2, size)}

    return Mutant


register("EpsAddedToSquares", [Adafactor], measuring(factored=factored_with_eps))
register("NotFactored", [Adafactor], in_full)
register("StepNotRelative", [Adafactor], not_relative)
by_scalars("UpdateUnclipped", [Adafactor], lambda h, k, s: {"d": inf})
by_scalars("LrUnbounded", [Adafactor], lambda h, k, s: {"rho": h.lr})
by_scalars("IterationUnrounded", [Muon], lambda h, k, s: {"ns_dtype": "float32"})
register("RatioIgnored", [Muon], unsized)
register("EpsAddedToNorm", [Muon], measuring(orthogonalized=rebuilt(muon.orthogonalized, maximum=np.add)))
register("TransposeMissing", [Muon], measuring(orthogonalized=rebuilt(muon.orthogonalized, len=lambda u: 0)))


# Sparse gradients and gaps


def taking(accepted: Callable[[SparseGrad], Any]) -> Callable[[Room], Room]:
    """Make mutants that take a sparse gradient for another one."""

    def make(room: Room) -> Room:
        class Mutant(room):
            @classmethod
            def accept(cls, h: Any, grad: Any) -> Any:
                return accepted(super().accept(h, grad))

        return Mutant

    return make


def last_entries(grad: SparseGrad) -> SparseGrad:
    last = list({row: j for j, row in enumerate(grad.indices[0].tolist())}.values())
    return SparseGrad(grad.indices[:, last], grad.values[last], grad.shape)


def moving(room: Room) -> Room:
    class Mutant(room):
        def step(self, closure: Any = None, *, grads: Any = None) -> Any:
            params = self.param_groups[0]["params"]
            filled = [np.zeros_like(p.data) if g is None else g for p, g in zip(params, grads, strict=True)]
            return super().step(grads=filled)

    return Mutant


def losing(name: str) -> Callable[[Room], Room]:
    def make(room: Room) -> Room:
        class Mutant(room):
            def load_state_dict(self, state_dict: Any) -> None:
                super().load_state_dict(state_dict)
                for state in self.state.values():
                    state.pop(name, None)

        return Mutant

    return make


STATE: dict[Room, Sequence[str]] = {
    SGD: ["momentum_buffer"],
    Adam: ["step", "exp_avg", "exp_avg_sq"],
    AdamW: ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    NAdam: ["step", "mu_product", "exp_avg", "exp_avg_sq"],
    RAdam: ["step", "exp_avg", "exp_avg_sq"],
    Adamax: ["step", "exp_avg", "exp_inf"],
    Adadelta: ["square_avg", "acc_delta"],
    Adagrad: ["step", "sum"],
    RMSprop: ["square_avg", "momentum_buffer", "grad_avg"],
    Rprop: ["prev", "step_size"],
    ASGD: ["step", "eta", "mu", "ax"],
    SparseAdam: ["step", "exp_avg", "exp_avg_sq"],
    Adafactor: ["step", "row_var", "col_var", "variance"],
    Muon: ["momentum_buffer"],
}
"""What of the state decides how a run goes on."""

for room, names in STATE.items():
    for name in names:
        register("StateLost", [room], losing(name))
register("DuplicatesOverwritten", [Adagrad, SparseAdam], taking(last_entries))
register("UntouchedRowsMoved", [SparseAdam], taking(SparseGrad.to_dense))
register("MovedWithoutGradient", [SGD, Adam, AdamW, Adadelta, RMSprop, Rprop, Muon], moving)


# Arithmetic


TINIEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
"""The smallest normal numbers."""


def flushing(room: Room, s: Any, p: Any, g: Any, *state: Any) -> Any:
    operands = (x if x is None else flushed(x) for x in (p, g, *state))
    return tuple(map(flushed, room.update(s, *operands)))


def flushed(x: Any) -> Any:
    return np.where(np.abs(x) < x.dtype.type(TINIEST[x.dtype.name]), np.copysign(x.dtype.type(0), x), x)


def unsigned_zeros(room: Room, s: Any, p: Any, g: Any, *state: Any) -> Any:
    return tuple(x + x.dtype.type(0) for x in room.update(s, p, g, *state))


def fused(x: Any, y: Any, z: Any) -> Any:
    """x + y * z, rounded once."""
    operands = (np.broadcast_to(t, x.shape).ravel().tolist() for t in (x, y, z))
    exact = (Fraction(a) + Fraction(b) * Fraction(c) for a, b, c in zip(*operands, strict=True))
    return np.array([float(t) for t in exact]).reshape(x.shape).astype(x.dtype)


def modulus_squared(x: Any) -> Any:
    squares = np.square(x.reshape(-1, 2))
    return np.repeat(squares[:, 0] + squares[:, 1], 2).reshape(x.shape)


EVERY = (*MOMENTS, SparseAdam, Adafactor, Muon)
by_update("SubnormalsFlushed", [*EVERY, Rprop], flushing)
by_update("SignOfZeroLost", EVERY, unsigned_zeros)
by_words("LerpOneSided", [Adam, RMSprop], lerp=lambda x, y, c: add(x, mul(sub(y, x), c)))
by_words("ComplexModulus", [Adam], addcmul=lambda x, y, z, c: axpy(x, modulus_squared(y), c))
by_words("FusedMultiplyAdd", [SGD, Adam, AdamW], axpy=fused, addcmul=lambda x, y, z, c: fused(x, mul(y, c), z))
