"""Packages of optimizers that are torch's kind, as they are installed: timm, pytorch-optimizer and others.

Each holds some of the rules that torch does not have. Settings go by their names there; one that a package does not
have must be at its default. Parameters are compared, not state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import lr_witnesses, oracle
from ..cases import Case
from . import Unsupported, all_hyper
from .peer import Hyper, Theirs, TorchPeer


class Port(NamedTuple):
    """A package's class for a rule.

    Attributes:
        cls: ``module:Class``.
        names: what settings are called there, where that is another name.
        given: arguments of its own, or what makes one of all settings.
        takes: settings that ``given`` is made of.
    """

    cls: str
    names: Mapping[str, str] = {}
    given: Mapping[str, Any] = {}
    takes: tuple[str, ...] = ()

    def load(self, bare: Mapping[str, Sequence[str]]) -> Any:
        """Import the class, with what stands in for parts of its package."""
        return oracle.imported(self.cls, bare)

    def lacking(self, cls: Any, optimizer: str, h: Hyper) -> list[str]:
        """Return the settings that the class does not have, unless they are at their default."""
        known, defaults = {*signature(cls).parameters}, all_hyper(optimizer, {})
        other = [name for name in h if self.names.get(name, name) not in known and name not in self.takes]
        return [name for name in other if name != "maximize" and h[name] != defaults.get(name)]

    def arguments(self, cls: Any, h: Hyper) -> dict[str, Any]:
        """Return the settings by their names there."""
        known = {*signature(cls).parameters} - {"maximize"}
        theirs = {self.names.get(name, name): x for name, x in h.items()}
        own = {name: x(h) if callable(x) else x for name, x in self.given.items()}
        return {name: x for name, x in theirs.items() if name in known} | own


class Ports(TorchPeer):
    """A base for such packages.

    Attributes:
        ports: their classes by refoptim's names.
        bare: parts of the package that ``oracle.imported`` stands in for.
    """

    ports: ClassVar[Mapping[str, Port]]
    bare: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init_subclass__(cls) -> None:
        cls.rules = {name: Theirs(partial(cls._made, port)) for name, port in cls.ports.items()}

    def why_not(self, case: Case, dtype: str) -> str | None:
        reason = super().why_not(case, dtype)
        if reason is not None:
            return reason
        port = self.ports[case.optimizer]
        lacking = port.lacking(port.load(self.bare), case.optimizer, case.hyper)
        return f"the {case.optimizer} of {self.package} has no {lacking[0]}" if lacking else None

    @classmethod
    def _made(cls, port: Port, h: Hyper) -> Callable[[Any], Any]:
        theirs = port.load(cls.bare)
        return partial(theirs, **port.arguments(theirs, h))


LOOP = {"foreach": False}


class Timm(Ports):
    """timm.optim."""

    package = "timm"
    bare: ClassVar[Mapping[str, Sequence[str]]] = {"timm": [], "timm.models": ["group_parameters"]}
    ports: ClassVar[Mapping[str, Port]] = {
        "AdaBelief": Port("timm.optim.adabelief:AdaBelief", {"weight_decouple": "decoupled_decay"}),
        "Adan": Port("timm.optim.adan:Adan", given=LOOP),
        "ADOPT": Port("timm.optim.adopt:Adopt", given=LOOP),
        "LAMB": Port("timm.optim.lamb:Lamb", given=LOOP),
        "LARS": Port("timm.optim.lars:Lars", given=LOOP),
        "Lion": Port("timm.optim.lion:Lion", given=LOOP),
        "MARS": Port("timm.optim.mars:Mars"),
        "NovoGrad": Port("timm.optim.nvnovograd:NvNovoGrad"),
    }

    def schedule(self, name: str, settings: Hyper, lr: float, epochs: int) -> list[float]:
        if name != "CosineCyclesLR":
            raise Unsupported(f"timm has no {name} of its own")
        return lr_witnesses.timm(name, settings, lr, epochs)


def _lambda(h: Hyper) -> Callable[[int], float]:
    if h["clip_exp"] is None:
        raise Unsupported("pytorch-optimizer's ADOPT always has a bound")
    return lambda step: step ** h["clip_exp"]


CLIPPING = {
    "max_grad_norm": lambda h: h["max_grad_norm"] or 0.0,
    "pre_norm": lambda h: h["max_grad_norm"] is not None,
}
"""pytorch-optimizer's LAMB clips if both are set."""

UNSCALED = {"adam": lambda h: not (h["weight_decay"] or h["always_adapt"])}
"""Both LAMBs scale all steps, or none."""

DECOUPLED = {"decoupled": "weight_decouple"}


class PytorchOptimizer(Ports):
    """pytorch-optimizer."""

    package = "pytorch_optimizer"
    ports: ClassVar[Mapping[str, Port]] = {
        "AdaBelief": Port("pytorch_optimizer:AdaBelief", {"amsgrad": "ams_bound"}),
        "Adan": Port("pytorch_optimizer:Adan", {"no_prox": "weight_decouple"}, LOOP),
        "AdEMAMix": Port("pytorch_optimizer:AdEMAMix", given=LOOP),
        "ADOPT": Port("pytorch_optimizer:ADOPT", DECOUPLED, {"clip_lambda": _lambda, **LOOP}, ("clip_exp",)),
        "FTRL": Port(
            "pytorch_optimizer:FTRL",
            {"learning_rate_power": "lr_power", "l1": "lambda_1"},
            {"lambda_2": lambda h: 2 * h["l2"], **LOOP},
            ("l2",),
        ),
        "LAMB": Port(
            "pytorch_optimizer:Lamb",
            given={
                **CLIPPING,
                **UNSCALED,
                "adam_debias": lambda h: not h["bias_correction"],
                "weight_decouple": False,
                **LOOP,
            },
            takes=("max_grad_norm", "always_adapt", "bias_correction"),
        ),
        "LARS": Port("pytorch_optimizer:LARS", {"trust_coeff": "trust_coefficient"}, LOOP, takes=("eps",)),
        "Lion": Port("pytorch_optimizer:Lion", given=LOOP),
        "MARS": Port(
            "pytorch_optimizer:MARS",
            given={
                "betas_1d": lambda h: h["betas_1d"] or h["betas"],
                "lr_1d": lambda h: h["lr"] * h["lr_1d_factor"],
                "weight_decay_1d": lambda h: h["weight_decay"],
                **LOOP,
            },
            takes=("lr_1d_factor",),
        ),
        "NovoGrad": Port("pytorch_optimizer:NovoGrad", {"decoupled_decay": "weight_decouple"}, LOOP),
        "Prodigy": Port(
            "pytorch_optimizer:Prodigy", {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}
        ),
        "ScheduleFreeAdamW": Port("pytorch_optimizer:ScheduleFreeAdamW", given=LOOP),
        "ScheduleFreeRAdam": Port("pytorch_optimizer:ScheduleFreeRAdam", given=LOOP),
        "ScheduleFreeSGD": Port("pytorch_optimizer:ScheduleFreeSGD", given=LOOP),
        "SOAP": Port("pytorch_optimizer:SOAP"),
        "Sophia": Port("pytorch_optimizer:SophiaH", given={"update_period": 1 << 30, **LOOP}),
        "StableAdamW": Port("pytorch_optimizer:StableAdamW", given={"kahan_sum": False, **LOOP}),
        "Yogi": Port("pytorch_optimizer:Yogi", given=LOOP),
    }

    def why_not(self, case: Case, dtype: str) -> str | None:
        partly = any(isinstance(x, list) for x in case.estimated) or (case.estimate and 1 not in case.estimated)
        return super().why_not(case, dtype) or ("it makes estimates that are not given to all" if partly else None)

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        import torch

        given = [torch.from_numpy(np.array(x)) for x in estimates or () if x is not None]
        self.beside = {"hessian": given} if given else {}
        super().step(grads)


class TorchOptimizer(Ports):
    """torch-optimizer."""

    package = "torch_optimizer"
    bare: ClassVar[Mapping[str, Sequence[str]]] = {"torch_optimizer": []}
    ports: ClassVar[Mapping[str, Port]] = {
        "AdaBelief": Port("torch_optimizer.adabelief:AdaBelief"),
        "LAMB": Port("torch_optimizer.lamb:Lamb", {"bias_correction": "debias"}, UNSCALED, ("always_adapt",)),
        "LARS": Port("torch_optimizer.lars:LARS", {"trust_coeff": "trust_coefficient"}),
        "NovoGrad": Port("torch_optimizer.novograd:NovoGrad"),
        "Yogi": Port("torch_optimizer.yogi:Yogi"),
    }


class LionPytorch(Ports):
    """lion-pytorch."""

    package = "lion_pytorch"
    ports: ClassVar[Mapping[str, Port]] = {"Lion": Port("lion_pytorch:Lion")}


class AdabeliefPytorch(Ports):
    """adabelief-pytorch."""

    package = "adabelief_pytorch"
    ports: ClassVar[Mapping[str, Port]] = {
        "AdaBelief": Port("adabelief_pytorch:AdaBelief", given={"print_change_log": False})
    }


class Optimi(Ports):
    """optimi."""

    package = "torch-optimi"
    ports: ClassVar[Mapping[str, Port]] = {
        "Adan": Port("optimi:Adan", {"no_prox": "adam_wd"}, LOOP),
        "Lion": Port("optimi:Lion", given=LOOP),
        "StableAdamW": Port("optimi:StableAdamW", given={"kahan_sum": False, **LOOP}),
    }


class Prodigyopt(Ports):
    """prodigyopt."""

    package = "prodigyopt"
    ports: ClassVar[Mapping[str, Port]] = {"Prodigy": Port("prodigyopt:Prodigy")}


class Schedulefree(Ports):
    """schedulefree."""

    package = "schedulefree"
    ports: ClassVar[Mapping[str, Port]] = {
        "ScheduleFreeAdamW": Port("schedulefree:AdamWScheduleFree", given=LOOP),
        "ScheduleFreeRAdam": Port("schedulefree:RAdamScheduleFree", given=LOOP),
        "ScheduleFreeSGD": Port("schedulefree:SGDScheduleFree", given=LOOP),
    }

    def _begin(self, made: Any) -> None:
        super()._begin(made)
        self._optimizer.train()


class Torchao(Ports):
    """torchao.optim, run eagerly."""

    package = "torchao"
    ports: ClassVar[Mapping[str, Port]] = {
        "Adam8bit": Port("torchao.optim:Adam8bit"),
        "AdamW8bit": Port("torchao.optim:AdamW8bit"),
    }

    def _set_lr(self, lr: float) -> None:
        self._optimizer.param_groups[0]["lr"].fill_(lr)

    def _step(self, grads: Sequence[Any]) -> None:
        import torch

        with torch.compiler.set_stance("force_eager"):
            super()._step(grads)
