"""LARS."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..numerics.arith import Array, axpy, mul
from ..numerics.tree import square
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: SGD whose gradients are scaled to the size of their parameter.

    .. code-block:: text

        w, n  = norm(p), norm(g)
        ratio = trust_coeff * w / (n + w * weight_decay + eps)     1 where w or n is 0
        ratio = min(ratio / lr, 1)                                 if trust_clip
        g     = ratio * (g + weight_decay * p)                     if weight_decay or always_adapt
        buf   = momentum * buf + (1 - dampening) * g               the first gradient enters whole
        g     = g + momentum * buf                                 if nesterov
        g     = buf                                                otherwise
        p     = p - lr * g

    Norms are over a whole parameter, in the order of ``tree``, and n is that of the gradient without the decay.
    Biases and the scales of normalizations are usually left out, in a group without decay.

    If ``cautious``, a mask stands on ``g`` in the last line; without momentum none stands.

    State: ``momentum_buffer`` (like the parameter), if there is a momentum.

    Source: You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, arXiv 1708.03888; with
    trust_clip it is LARC.
    """

    of_torch = False
    counts_steps = False
    varying = frozenset({"lr", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1.0,
        momentum: hp.Momentum = 0,
        dampening: Annotated[hp.Scalar, hp.Real("dampening of the momentum", interval=hp.REALS)] = 0,
        weight_decay: hp.WeightDecay = 0,
        nesterov: Annotated[bool, hp.Flag("look ahead by Nesterov's momentum")] = False,
        trust_coeff: Annotated[hp.Scalar, hp.Real("how far a parameter moves, in parts of its norm")] = 0.001,
        eps: hp.Epsilon = 1e-8,
        trust_clip: Annotated[bool, hp.Flag("scale gradients down only, so that lr bounds the step (LARC)")] = False,
        always_adapt: Annotated[bool, hp.Flag("scale the gradient without a weight decay too")] = False,
        *,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def check(cls, h: Hypers) -> None:
        if h.nesterov and (h.momentum <= 0 or h.dampening != 0):
            raise ValueError(
                f"Nesterov momentum requires a momentum and zero dampening "
                f"(nesterov=True with momentum={h.momentum}, dampening={h.dampening})"
            )

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"momentum_buffer": None} if h.momentum != 0 else {}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            lr=h.lr,
            weight_decay=h.weight_decay,
            trust_coeff=h.trust_coeff,
            eps=h.eps,
            trust_clip=h.trust_clip,
            adapted=h.weight_decay != 0 or h.always_adapt,
            momentum=h.momentum,
            has_buffer=h.momentum != 0,
            undamped=1 - h.dampening,
            nesterov=h.nesterov,
            step_size=-h.lr,
        )

    @classmethod
    def sums(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        return square(p), square(g)

    @classmethod
    def measured(cls, s: Record, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        squares_of_p, squares_of_g = totals
        w = math.sqrt(squares_of_p)
        n = math.sqrt(squares_of_g)
        ratio = s.trust_coeff * w / (n + w * s.weight_decay + s.eps) if w > 0 and n > 0 else 1.0
        clipped = 1.0 if ratio >= s.lr else ratio / s.lr
        return dict(ratio=clipped if s.trust_clip else ratio)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        if s.adapted:
            g = mul(axpy(g, p, s.weight_decay), s.ratio)
        if not state:
            return (axpy(p, g, s.step_size),)
        (buf,) = state
        buf = g if buf is None else axpy(mul(buf, s.momentum), g, s.undamped)
        u = axpy(g, buf, s.momentum) if s.nesterov else buf
        return axpy(p, masked(s, u, g), s.step_size), buf
