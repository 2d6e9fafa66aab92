"""Where eps is added, and how it is scaled."""

from __future__ import annotations

from typing import Any

from ..numerics.arith import Array, add, addcdiv, maximum, mul, sqrt
from ..numerics.power import power
from ..optimizers.adadelta import Adadelta
from ..optimizers.adagrad import Adagrad
from ..optimizers.adam import Adam
from ..optimizers.adamax import Adamax
from ..optimizers.adamw import AdamW
from ..optimizers.nadam import NAdam
from ..optimizers.radam import RAdam
from ..optimizers.rmsprop import RMSprop
from ..optimizers.sparse_adam import SparseAdam
from ..step.rule import Record
from .change import Words, by_scalars, by_words, declare, with_settings

PLACE = "eps"


def _inside(s: Record, p: Array, g: Array, *state: Array) -> Words:
    return {"sqrt": lambda x: sqrt(add(x, s.eps)), "add": unless(s.eps)}


def unless(eps: Array) -> Any:
    """Addition that leaves eps out."""
    return lambda x, c: x if c is eps else add(x, c)


def inside_corrected(s: Record, p: Array, g: Array, *state: Array) -> Words:
    """Under the root of the corrected average: at the uncorrected one eps counts as much as the correction."""
    square = mul(s.root_correction2, s.root_correction2)
    return {"sqrt": lambda x: sqrt(add(x, mul(s.eps, square))), "add": unless(s.eps)}


def _subtracted(s: Record, p: Array, g: Array, *state: Array) -> Words:
    return {"sqrt": lambda x: sqrt(add(x, -s.eps)), "add": unless(s.eps)}


def _outside_maximum(s: Record, p: Array, g: Array, *state: Array) -> Words:
    return {"addcdiv": lambda x, y, z, c: addcdiv(x, y, add(z, s.eps), c), "add": unless(s.eps)}


def _outside_root(s: Record, p: Array, g: Array, *state: Array) -> Words:
    return {"add": lambda x, c: (x, c), "sqrt": lambda pair: add(sqrt(pair[0]), pair[1])}


def _missing_above(s: Record, p: Array, g: Array, square_avg: Array, acc_delta: Array) -> Words:
    return {"add": lambda x, c: x if x is acc_delta else add(x, c)}


def _unscaled(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"eps": h.eps / s["root_correction2"]}


def _unscaled_nadam(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"eps": h.eps / power(s["correction2"], 0.5)}


def _scaled(h: Any, k: int, s: dict[str, Any]) -> dict[str, Any]:
    return {"eps": h.eps * power(1 - power(h.betas[1], k), 0.5)}


by_words("EpsInsideRoot", [Adam, AdamW, NAdam, Adagrad, RMSprop, SparseAdam], PLACE, words=_inside)
by_words("EpsInsideCorrectedRoot", [Adam, AdamW], PLACE, words=inside_corrected)
by_words("EpsSubtracted", [RMSprop], PLACE, words=_subtracted)
by_words("EpsOutsideMaximum", [Adamax], PLACE, words=_outside_maximum)
by_words("EpsMissingAbove", [Adadelta], PLACE, words=_missing_above)
by_words("EpsOutsideRoot", [Adadelta], PLACE, words=_outside_root)
by_scalars("EpsUnscaled", [Adam, AdamW], PLACE, change=_unscaled, varying={"eps"})
by_scalars("EpsUnscaled", [NAdam], PLACE, change=_unscaled_nadam, varying={"eps"})
by_scalars("EpsScaled", [SparseAdam, RAdam], PLACE, change=_scaled, varying={"eps"})
declare("EpsIgnored", [Adam, AdamW, NAdam, RAdam, Adamax, Adadelta, Adagrad, RMSprop, SparseAdam], PLACE)(
    with_settings(lambda h: {"eps": 0.0})
)


def inside_with_momentum(s: Record, p: Array, g: Array, *state: Array) -> Words:
    """Inside the root where there is momentum, and outside of it where there is none (TensorFlow 2)."""
    return _inside(s, p, g, *state) if s.momentum else {}


by_words("EpsInsideRoot", [RMSprop], PLACE, words=inside_with_momentum)


def _beside_decayed(s: Record, p: Array, g: Array, *state: Array) -> Words:
    return {"maximum": lambda x, y: maximum(add(x, s.eps), y), "add": unless(s.eps)}


by_words("EpsBesideMaximum", [Adamax], PLACE, words=_beside_decayed)
