"""Sophia as its authors wrote it down: SophiaG.

What is given as estimates are gradients of the loss with labels drawn from what the model predicts: their squares are
averaged, as ``update_hessian`` of the authors does. They come with a step, and before it; what ``update_hessian`` is
given between two steps is to be given with the second.

Source: https://github.com/Liuhong99/Sophia, sophia.py.
"""

from __future__ import annotations

from typing import Annotated, Any

import refoptim

from ..numerics.arith import Array, addcmul, axpy, maximum, mul
from ..optimizers.base import Optimizer
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from . import made_of
from .change import AXES, Change, Words
from .preset import Preset, entered

__all__ = ["Sophia"]

WITNESS = "the formula of its source, in NumPy, and exact arithmetic"

AXES_OF_SOPHIA = (AXES["Sophia", "EpsAddedToEstimates"][0],)

DEFAULTS = {"lr": 1e-4, "betas": (0.965, 0.99), "weight_decay": 0.1, "p": 1.0, "eps": 1e-15}

_Dialect: Any = made_of(refoptim.Sophia, *AXES_OF_SOPHIA)


class OwnSettings(Change):
    """

    Two settings are the authors' own::

        p = p * (1 - weight_decay * lr)
        momentum       = beta1 * momentum + (1 - beta1) * g
        hessian_moment = beta2 * hessian_moment + ((1 - beta2) * h) * h      in steps with an estimate h
        u = min(|momentum| / (rho * bs * hessian_moment + eps), clip)        clip is the hyperparameter p
        p = p - lr * sign(momentum) * u
    """

    def __init__(
        self,
        params: Params,
        lr: Any = 1e-4,
        betas: Any = (0.965, 0.99),
        weight_decay: Any = 0.1,
        p: Any = 1.0,
        eps: Any = 1e-15,
        *,
        rho: Annotated[hp.Scalar, hp.Real("what the average of estimates is multiplied by")] = 0.04,
        bs: Annotated[hp.Scalar, hp.Real("the size of a batch, by which it is multiplied too")] = 5120,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
    ) -> None:
        Optimizer.__init__(self, **hp.settings(locals()))

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        beta1, beta2 = h.betas
        return {**super().scalars(h, k, registers), "beta1": beta1, "beta2": beta2, "size": h.rho * h.bs}

    @classmethod
    def words(cls, s: Record, p: Array, g: Array, *state: Array) -> Words:
        right = super().words(s, p, g, *state)
        bounded = right.get("maximum", maximum)

        def averaged(x: Array, y: Array, c: Any) -> Array:
            return axpy(mul(x, s.beta1), y, c) if y is g else addcmul(mul(x, s.beta2), y, y, c)

        def sized(x: Array, c: Any) -> Array:
            return bounded(mul(x, s.size) if c is s.eps else x, c)

        return right | {"lerp": averaged, "maximum": sized}


class Sophia(Preset, OwnSettings, _Dialect):  # type: ignore[misc]
    __doc__ = OwnSettings.__doc__
    own = ("rho", "bs")


entered(__name__, Sophia, refoptim.Sophia, AXES_OF_SOPHIA, DEFAULTS)
