"""AdamW8bit."""

from __future__ import annotations

from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers
from .adam8bit import Adam8bit, BlockSize, DoubleScalars


class AdamW8bit(Adam8bit):
    """Adam8bit with decoupled weight decay: the parameter itself shrinks, before the update.

    The formula, the state and the order of operations are those of ``Adam8bit`` with ``decoupled_weight_decay=True``.

    Sources: those of ``Adam8bit`` and ``AdamW``; the form is torchao's.
    """

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        betas: hp.Betas = (0.9, 0.999),
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 1e-2,
        *,
        block_size: BlockSize = 256,
        double_scalars: DoubleScalars = False,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        capturable: hp.Capturable = False,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()), decoupled_weight_decay=True)

    @classmethod
    def check(cls, h: Hypers) -> None:
        if not h.decoupled_weight_decay:
            raise ValueError("AdamW8bit decouples its weight decay: decoupled_weight_decay must be True, got False")
