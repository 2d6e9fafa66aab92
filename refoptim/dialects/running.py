"""How a run goes: who counts steps, what a missing or sparse gradient does, what is saved, when a setting counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..optimizers.adadelta import Adadelta
from ..optimizers.adafactor import Adafactor
from ..optimizers.adagrad import Adagrad
from ..optimizers.adam import Adam
from ..optimizers.adamax import Adamax
from ..optimizers.adamw import AdamW
from ..optimizers.asgd import ASGD
from ..optimizers.base import Optimizer
from ..optimizers.muon import Muon
from ..optimizers.nadam import NAdam
from ..optimizers.radam import RAdam
from ..optimizers.rmsprop import RMSprop
from ..optimizers.rprop import Rprop
from ..optimizers.sgd import SGD
from ..optimizers.sparse_adam import SparseAdam
from ..step.rule import Hypers
from ..step.sparse import SparseGrad
from .change import Change, declare
from .correction import COUNTING

GAPS, RESUMING, SPARSE, CHANGING = "missing gradients", "resuming", "sparse gradients", "changing settings"

EVERY = (
    *(SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adadelta, Adagrad, RMSprop, ASGD),
    *(SparseAdam, Adafactor, Muon, Rprop),
)


@declare("StepShared", COUNTING, "whose step count")
class SharedCount(Change):
    """One count serves all parameters, and with it what is multiplied up from step to step."""

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step whose number is the same for all."""
        self._share()
        loss = super().step(closure, grads=grads, **more)
        self._share()
        return loss

    def _share(self) -> None:
        """Give every parameter the count of the one that is farthest."""
        states = [self.state[p] for group in self.param_groups for p in group["params"]]
        farthest = max(states, key=lambda state: int(state.get("step", 0)), default={})
        for state in states:
            state["step"] = int(farthest.get("step", 0))
            state.update((name, farthest[name]) for name in ("mu_product", "weight_sum", "lr_max") if name in farthest)


@declare("MovedWithoutGradient", [rule for rule in EVERY if rule is not SparseAdam], GAPS)
class Moving(Change):
    """A gradient that is missing counts as zero."""

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step in which every parameter has a gradient."""
        members = [p for group in self.param_groups for p in group["params"]]
        given = [p.grad for p in members] if grads is None else list(grads)
        filled = [np.zeros_like(p.data) if g is None else g for p, g in zip(members, given, strict=True)]
        return super().step(closure, grads=filled, **more)


@declare("DecayWithoutGradient", [AdamW], GAPS)
class Decaying(Change):
    """A parameter without a gradient shrinks all the same."""

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step, and shrink what it left out."""
        members = [(group, p) for group in self.param_groups for p in group["params"]]
        given = [p.grad for _, p in members] if grads is None else list(grads)
        loss = super().step(closure, grads=grads, **more)
        for (group, p), g in zip(members, given, strict=True):
            if g is None:
                p.data[...] = p.data * p.data.dtype.type(1 - group["lr"] * group["weight_decay"])
        return loss


class ChangingLate(Change):
    """Settings that are changed count from the step after the next."""

    def step(self, closure: Any = None, *, grads: Any = None, **more: Any) -> Any:
        """Take a step with the settings that stood before the last step."""
        now = [{key: x for key, x in group.items() if key != "params"} for group in self.param_groups]
        before, self._settings = self.__dict__.get("_settings", now), self._kept(now)
        try:
            for group, settings in zip(self.param_groups, before, strict=True):
                group.update(settings)
            return super().step(closure, grads=grads, **more)
        finally:
            for group, settings in zip(self.param_groups, now, strict=True):
                group.update(settings)

    def _kept(self, now: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return now


class ChangingNever(ChangingLate):
    """Settings that are changed do not count: those of the first step stay."""

    def _kept(self, now: list[dict[str, Any]]) -> list[dict[str, Any]]:
        first: list[dict[str, Any]] = self.__dict__.get("_settings", now)
        return first


for _flag, _change in (("ChangeLate", ChangingLate), ("ChangeIgnored", ChangingNever)):
    declare(_flag, (SGD, Adam, AdamW, Adadelta, RMSprop, ASGD, SparseAdam), CHANGING)(_change)


def taking(flag: str, rules: Iterable[type[Optimizer]], accepted: Callable[[Any], Any]) -> None:
    """Enter a change by which a sparse gradient is taken for another one."""

    @declare(flag, rules, SPARSE)
    class Taking(Change):
        @classmethod
        def accept(cls, h: Hypers, grad: Any) -> Any:
            taken = super().accept(h, grad)
            return accepted(taken) if isinstance(taken, SparseGrad) else taken


def _last_entries(grad: SparseGrad) -> SparseGrad:
    last = list({row: j for j, row in enumerate(grad.indices[0].tolist())}.values())
    return SparseGrad(grad.indices[:, last], grad.values[last], grad.shape)


taking("DuplicatesOverwritten", [Adagrad, SparseAdam], _last_entries)
taking("UntouchedRowsMoved", [SparseAdam], SparseGrad.to_dense)


STATE: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("step", "exp_avg", "exp_avg_sq"),
    AdamW: ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    NAdam: ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    RAdam: ("step", "exp_avg", "exp_avg_sq"),
    Adamax: ("step", "exp_avg", "exp_inf"),
    Adadelta: ("square_avg", "acc_delta"),
    Adagrad: ("step", "sum"),
    RMSprop: ("square_avg", "momentum_buffer", "grad_avg"),
    Rprop: ("prev", "step_size"),
    ASGD: ("step", "eta", "mu", "ax"),
    SparseAdam: ("step", "exp_avg", "exp_avg_sq"),
    Adafactor: ("step", "row_var", "col_var", "variance"),
    Muon: ("momentum_buffer",),
}
"""What of the state decides how a run goes on."""


def losing(rule: type[Optimizer], names: tuple[str, ...]) -> None:
    """Enter a change by which some of the state does not survive its loading."""

    @declare("StateLost", [rule], RESUMING)
    class Losing(Change):
        lost = names

        def load_state_dict(self, state_dict: Any) -> None:
            """Load a state dict and drop what is lost."""
            super().load_state_dict(state_dict)
            for state in self.state.values():
                for name in names:
                    state.pop(name, None)


for _rule, _names in STATE.items():
    for _lost in [(name,) for name in _names] + ([_names] if len(_names) > 1 else []):
        losing(_rule, _lost)
