"""OneCycleLR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from ..numerics.power import cos
from ..optimizers.base import Optimizer
from ..step.groups import Group
from ..step.hyper import Choice, Count, Flag, Interval, Real
from .base import LR, LastEpoch, Whole, check
from .momentum_cycler import MomentumCycler
from .per_group import PerGroup, Rates, check_optimizer, spread
from .saved import UNSIGNED, ListOf

UP = ("initial_lr", "max_lr", "max_momentum", "base_momentum")
DOWN = ("max_lr", "min_lr", "base_momentum", "max_momentum")
BACK = ("max_lr", "initial_lr", "base_momentum", "max_momentum")
OUT = ("initial_lr", "min_lr", "max_momentum", "max_momentum")


STRATEGY = Choice(
    "the shape of the ways",
    options=("cos", "linear"),
    stem="anneal_strategy must be one of 'cos' or 'linear', instead got {value}",
)

Phase = dict[str, Any]
"""Where a phase ends, and the names of the values at its ends."""


def _phase(end_step: float, names: tuple[str, str, str, str]) -> Phase:
    keys = ("start_lr", "end_lr", "start_momentum", "end_momentum")
    return {"end_step": end_step, **dict(zip(keys, names, strict=True))}


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[Phase]:
    up, end = _phase(float(pct_start * total_steps) - 1, UP), total_steps - 1
    if not three_phase:
        return [up, _phase(end, DOWN)]
    return [up, _phase(float(2 * pct_start * total_steps) - 2, BACK), _phase(end, OUT)]


def _count(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            f"You must define either total_steps OR (epochs AND steps_per_epoch), "
            f"got total_steps=None, epochs={epochs}, steps_per_epoch={steps_per_epoch}"
        )
    return epochs * steps_per_epoch


def _steps(name: str, doc: str) -> Whole:
    stem = f"Expected positive integer {name}, but got {{value}}"
    return Whole(doc, stem=stem, interval=Interval("[1, inf)"), optional=True)


class OneCycleLR(MomentumCycler):
    """Moves the learning rate up and then far down, once; the momentum goes the other way.

    .. code-block:: text

        initial_lr = max_lr / div_factor        min_lr = initial_lr / final_div_factor

        phase   ends at step                  lr                         momentum
        1       pct_start * total_steps - 1   initial_lr … max_lr        max_momentum … base_momentum
        2       total_steps - 1               max_lr … min_lr            base_momentum … max_momentum
        or, with three_phase:
        2       2 * pct_start * total - 2     max_lr … initial_lr        base_momentum … max_momentum
        3       total_steps - 1               initial_lr … min_lr        max_momentum

        cos:     end + (start - end) / 2 * (cos(pi * pct) + 1)
        linear:  (end - start) * pct + start

    ``pct`` is the part of the phase that has passed. A phase without length is at its end. One step beyond
    ``total_steps - 1`` is allowed and runs the last phase on.

    Source: Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates",
    2019.
    """

    _governs: ClassVar[tuple[str, ...]] = (*MomentumCycler._governs, "max_lr", "min_lr")
    _per_group = {**MomentumCycler._per_group, "_given_lrs": "max_lr", "min_lrs": "max_lr"}
    _optional = MomentumCycler._optional | {"max_lrs", "min_lrs", "_anneal_func_type", "_schedule_phases"}
    _legacy = MomentumCycler._legacy | {"anneal_func", "step_size_up", "step_size_down"}
    _kept = {
        **MomentumCycler._kept,
        "total_steps": Count("", interval=Interval("[1, inf)")),
        "min_lrs": ListOf("", item=UNSIGNED),
        "_anneal_func_type": STRATEGY,
    }

    total_steps: int
    min_lrs: list[float]

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Annotated[Rates, PerGroup("the highest learning rate", item=Real(""))],
        total_steps: Annotated[int | None, _steps("total_steps", "the steps of the cycle")] = None,
        epochs: Annotated[int | None, _steps("epochs", "the epochs of the cycle, if total_steps is None")] = None,
        steps_per_epoch: Annotated[
            int | None, _steps("steps_per_epoch", "the steps of an epoch, if total_steps is None")
        ] = None,
        pct_start: Annotated[
            float,
            Real(
                "the part of the steps on the way up",
                stem="Expected float between 0 and 1 pct_start, but got {value}",
                interval=Interval("[0, 1]"),
            ),
        ] = 0.3,
        anneal_strategy: Annotated[str, STRATEGY] = "cos",
        cycle_momentum: Annotated[bool, Flag("cycle the momentum, or the first beta, too")] = True,
        base_momentum: Annotated[Rates, PerGroup("the lowest momentum", item=Real(""))] = 0.85,
        max_momentum: Annotated[Rates, PerGroup("the highest momentum", item=Real(""))] = 0.95,
        div_factor: Annotated[float, Real("max_lr / initial_lr", interval=Interval("(0, inf)"))] = 25.0,
        final_div_factor: Annotated[float, Real("initial_lr / min_lr", interval=Interval("(0, inf)"))] = 1e4,
        three_phase: Annotated[bool, Flag("go down to initial_lr as fast as up, then on to min_lr")] = False,
        last_epoch: LastEpoch = -1,
    ) -> None:
        given = check(type(self), locals())
        check_optimizer(optimizer)
        self.total_steps = _count(given["total_steps"], given["epochs"], given["steps_per_epoch"])
        self._schedule_phases = _phases(self.total_steps, given["pct_start"], given["three_phase"])
        self._anneal_func_type = given["anneal_strategy"]
        self.max_lrs = spread("max_lr", given["max_lr"], optimizer)
        self._given_lrs = [max_lr / given["div_factor"] for max_lr in self.max_lrs]
        self.min_lrs = [lr / given["final_div_factor"] for lr in self._given_lrs]
        self.cycle_momentum = given["cycle_momentum"]
        if self.cycle_momentum:
            self._check_momentum(optimizer)
            self.max_momentums = spread("max_momentum", given["max_momentum"], optimizer)
            self.base_momentums = spread("base_momentum", given["base_momentum"], optimizer)
        super().__init__(optimizer, last_epoch)

    def _prepare(self, group: Group, i: int) -> None:
        super()._prepare(group, i)
        group["initial_lr"], group["max_lr"] = self._given_lrs[i], self.max_lrs[i]
        group["min_lr"] = self.min_lrs[i]

    def _next(self, lr: LR, i: int) -> LR:
        values = {"initial_lr": self.base_lrs[i], "max_lr": self.max_lrs[i], "min_lr": self.min_lrs[i]}
        phase, part = self._place()
        return self._anneal(values[phase["start_lr"]], values[phase["end_lr"]], part)

    def _momentum(self, i: int) -> float:
        values = {"max_momentum": self.max_momentums[i], "base_momentum": self.base_momentums[i]}
        phase, part = self._place()
        return self._anneal(values[phase["start_momentum"]], values[phase["end_momentum"]], part)

    def _place(self) -> tuple[Phase, float]:
        """Return the phase, and the part of it that has passed."""
        step, start = self.last_epoch, 0.0
        if step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {self.total_steps}")
        for phase in self._schedule_phases[:-1]:
            if step <= phase["end_step"]:
                return phase, _part(step, start, phase["end_step"])
            start = phase["end_step"]
        last = self._schedule_phases[-1]
        return last, _part(step, start, last["end_step"])

    def _anneal(self, start: float, end: float, part: float) -> float:
        linear = self._anneal_func_type == "linear"
        return self._annealing_linear(start, end, part) if linear else self._annealing_cos(start, end, part)

    @staticmethod
    def _annealing_cos(start: float, end: float, pct: float) -> float:
        return end + (start - end) / 2.0 * (cos(math.pi * pct) + 1)

    @staticmethod
    def _annealing_linear(start: float, end: float, pct: float) -> float:
        return (end - start) * pct + start

    def _reads_groups(self, state: Mapping[str, Any]) -> bool:
        return "max_lrs" not in state

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        super()._load_values(own, state)
        if self._reads_groups(state):
            groups = self.optimizer.param_groups
            for name in ("max_lr", "min_lr", *(("base_momentum", "max_momentum") if self.cycle_momentum else ())):
                setattr(self, f"{name}s", [UNSIGNED.resolve(name, group[name]) for group in groups])
        if "_anneal_func_type" not in state:
            self._anneal_func_type = _strategy(state.get("anneal_func"), vars(self).get("_anneal_func_type", "cos"))
        if "step_size_up" in state:
            self._schedule_phases = [_phase(state["step_size_up"], UP), _phase(self.total_steps - 1, DOWN)]
        _check_phases(self._schedule_phases, self.total_steps)


def _strategy(anneal_func: Any, own: str) -> str:
    """Return the name of a function that a state dict holds which torch wrote before 2.1; a file has it as a text."""
    names = {"_annealing_cos": "cos", "_annealing_linear": "linear"}
    name = anneal_func if isinstance(anneal_func, str) else getattr(anneal_func, "__name__", "")
    return names.get(name.rpartition(".")[2], own)


def _check_phases(phases: Any, total_steps: int) -> None:
    """Raise ValueError unless saved phases are those of a cycle of so many steps."""
    names = [{**x, "end_step": None} for x in phases]
    first, *others, last = [Real("", interval=Interval("[-1, inf)")).resolve("end_step", x["end_step"]) for x in phases]
    expected = _phases(total_steps, (first + 1) / total_steps, three_phase=bool(others))
    fits = first <= last == total_steps - 1 and others in ([], [2 * first])
    if not fits or names != [{**x, "end_step": None} for x in expected]:
        raise ValueError(f"loaded state dict has phases of another cycle than one of {total_steps} steps: {phases!r}")


def _part(step: int, start: float, end: float) -> float:
    return (step - start) / (end - start) if end != start else 1.0
