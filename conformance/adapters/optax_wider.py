"""optax' optimizers that torch does not have, from refoptim's settings.

A setting that optax does not have is refused, unless it is at the value at which both rules are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import Unsupported

Hyper = Mapping[str, Any]


def _refuse(h: Hyper, **fixed: Any) -> None:
    """Raise Unsupported unless settings have the values that optax has fixed."""
    for name, x in fixed.items():
        if h[name] != x:
            raise Unsupported(f"optax has no {name} but {x!r}")


def _betas(h: Hyper) -> dict[str, Any]:
    return {f"b{i}": beta for i, beta in enumerate(h["betas"], 1)}


def _decayed(h: Hyper, rule: Any) -> Any:
    """Return a rule whose update grows by the decay."""
    import optax

    rate = optax.scale_by_learning_rate(h["lr"])
    return optax.chain(rule, optax.add_decayed_weights(h["weight_decay"]), rate)


def _lion(h: Hyper) -> Any:
    import optax

    return optax.lion(h["lr"], **_betas(h), weight_decay=h["weight_decay"])


def _adabelief(h: Hyper) -> Any:
    import optax

    _refuse(h, amsgrad=False, rectify=False, fixed_decay=False, weight_decouple=True)
    return _decayed(h, optax.scale_by_belief(**_betas(h), eps=h["eps"], eps_root=h["eps"]))


def _adan(h: Hyper) -> Any:
    import optax

    _refuse(h, no_prox=True)
    return optax.adan(h["lr"], **_betas(h), eps=h["eps"], eps_root=0.0, weight_decay=h["weight_decay"])


def _adopt(h: Hyper) -> Any:
    import optax

    _refuse(h, weight_decay=0)
    bound = h["clip_exp"]
    more = {"use_clipping": False} if bound is None else {"clip_value_fn": lambda step: step**bound}
    return optax.contrib.adopt(h["lr"], **_betas(h), eps=h["eps"], **more)


def _prodigy(h: Hyper) -> Any:
    import optax

    _refuse(h, decouple=True, use_bias_correction=True, growth_rate=float("inf"))
    names = {"beta3": "beta3", "eps": "eps", "estim_lr0": "d0", "estim_lr_coef": "d_coef"}
    more = {theirs: h[ours] for theirs, ours in names.items()}
    return optax.contrib.prodigy(
        h["lr"], h["betas"], **more, weight_decay=h["weight_decay"], safeguard_warmup=h["safeguard_warmup"]
    )


def _yogi(h: Hyper) -> Any:
    import optax

    _refuse(h, weight_decay=0, initial_exp_avg=None)
    more = {"initial_accumulator_value": h["initial_accumulator"]}
    return optax.chain(optax.scale_by_yogi(**_betas(h), eps=h["eps"], **more), optax.scale_by_learning_rate(h["lr"]))


RULES: dict[str, Callable[[Hyper], Any]] = {
    "AdaBelief": _adabelief,
    "Adan": _adan,
    "ADOPT": _adopt,
    "Lion": _lion,
    "Prodigy": _prodigy,
    "Yogi": _yogi,
}
