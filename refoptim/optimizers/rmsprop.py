"""RMSprop."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, addcdiv, addcmul, axpy, lerp, mul, sqrt
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class RMSprop(Optimizer):
    """Steps scaled by the root of a running average of squared gradients.

    .. code-block:: text

        g = g + weight_decay * p
        square_avg = alpha * square_avg + ((1 - alpha) * g) * g
        grad_avg   = lerp(grad_avg, g, 1 - alpha)                      if centered
        avg        = sqrt(square_avg - grad_avg * grad_avg) + eps      if centered
        avg        = sqrt(square_avg) + eps                            else
        buf = momentum * buf + g / avg                                 if momentum > 0
        p   = p - lr * buf                                             if momentum > 0
        p   = p - (lr * g) / avg                                       else

    If ``cautious``, a mask stands on ``buf`` where it moves the parameter; without momentum none stands.

    State: ``step``, ``square_avg``, ``momentum_buffer`` if there is momentum, ``grad_avg`` if ``centered`` (all like
    the parameter). Rounding can make the centered variance negative, and its root NaN; nothing hides that.

    Sources: Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012; centered: Graves, "Generating sequences with recurrent
    neural networks", 2013, equations 38 to 41, with ``eps`` outside the root.
    """

    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-2,
        alpha: Annotated[
            hp.Scalar, hp.Real("the decay rate of the running averages", interval=hp.Interval("[0, 1]"))
        ] = 0.99,
        eps: hp.Epsilon = 1e-8,
        weight_decay: hp.WeightDecay = 0,
        momentum: hp.Momentum = 0,
        centered: Annotated[bool, hp.Flag("divide by an estimate of the variance, not of the second moment")] = False,
        capturable: hp.Capturable = False,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        *,
        fused: hp.Fused = None,
        cautious: hp.Cautious = False,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        buffers: dict[str, float | None] = {"square_avg": 0.0}
        if h.momentum:
            buffers["momentum_buffer"] = 0.0
        if h.centered:
            buffers["grad_avg"] = 0.0
        return buffers

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            weight_decay=h.weight_decay,
            alpha=h.alpha,
            one_minus_alpha=1 - h.alpha,
            centered=h.centered,
            minus_one=-1.0,
            eps=h.eps,
            momentum=h.momentum,
            has_buffer=h.momentum != 0,
            one=1.0,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        square_avg, *buffers = state
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        square_avg = addcmul(mul(square_avg, s.alpha), g, g, s.one_minus_alpha)
        variance = square_avg
        if s.centered:
            buffers[-1] = lerp(buffers[-1], g, s.one_minus_alpha)
            variance = addcmul(square_avg, buffers[-1], buffers[-1], s.minus_one)
        avg = add(sqrt(variance), s.eps)
        if len(buffers) > s.centered:
            buffers[0] = addcdiv(mul(buffers[0], s.momentum), g, avg, s.one)
            p = axpy(p, masked(s, buffers[0], g), s.step_size)
        else:
            p = addcdiv(p, g, avg, s.step_size)
        return p, square_avg, *buffers
