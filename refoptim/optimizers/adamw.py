"""AdamW."""

from __future__ import annotations

from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers
from .adam import Adam


class AdamW(Adam):
    """Adam with decoupled weight decay: the parameter itself shrinks, before the update, and the moments do not see it.

    The formula, the state and the order of operations are those of ``Adam`` with ``decoupled_weight_decay=True``.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, with the decay
    multiplied by the learning rate.
    """

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 1e-2,
        amsgrad: hp.AMSGrad = False,
        *,
        maximize: hp.Maximize = False,
        foreach: hp.Foreach = None,
        capturable: hp.Capturable = False,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()), decoupled_weight_decay=True)

    @classmethod
    def check(cls, h: Hypers) -> None:
        if not h.decoupled_weight_decay:
            raise ValueError("AdamW decouples its weight decay: decoupled_weight_decay must be True, got False")
