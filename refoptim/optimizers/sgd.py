"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, axpy, mul
from ..step import hyper as hp
from ..step.cautious import masked
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from ..step.sparse import SparseGrad
from .base import Optimizer


class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum or Nesterov's momentum.

    .. code-block:: text

        g   = g + weight_decay * p
        buf = g                                     in the first step
        buf = momentum * buf + (1 - dampening) * g  after it
        g   = g + momentum * buf                    if nesterov
        g   = buf                                   else
        p   = p - lr * g

    The two lines of ``buf`` and the choice after them apply only where ``momentum`` is not 0. The first step is not
    dampened. A sparse gradient touches its own rows only, unless there is momentum, which moves all rows.

    If ``cautious``, a mask stands on ``g`` in the last line; without momentum none stands.

    State: ``momentum_buffer`` (like the parameter), if there is momentum.

    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013, with the learning rate outside the buffer.
    """

    counts_steps = False
    varying = frozenset({"step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-3,
        momentum: hp.Momentum = 0,
        dampening: Annotated[
            hp.Scalar, hp.Real("the dampening of the momentum", interval=hp.Interval("(-inf, inf)"))
        ] = 0,
        weight_decay: hp.WeightDecay = 0,
        nesterov: Annotated[bool, hp.Flag("look ahead by Nesterov's momentum")] = False,
        *,
        maximize: hp.Maximize = False,
        foreach: hp.Foreach = None,
        differentiable: hp.Differentiable = False,
        fused: hp.Fused = None,
        capturable: hp.Capturable = False,
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
    def accept(cls, h: Hypers, grad: Any) -> Any:
        if isinstance(grad, SparseGrad) and h.weight_decay:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        return grad.to_dense() if isinstance(grad, SparseGrad) and h.momentum else grad

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        # At a momentum of 0 that a library follows there is a derivative too, unless the dampening makes a jump there.
        has_buffer = h.momentum != 0 or (bool(h.momentum) and not h.dampening)
        return {"momentum_buffer": None} if has_buffer else {}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        return dict(
            weight_decay=h.weight_decay,
            momentum=h.momentum,
            has_buffer=h.momentum != 0,
            undamped=1 - h.dampening,
            nesterov=h.nesterov,
            step_size=-h.lr,
        )

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        if not state:
            return (axpy(p, g, s.step_size),)
        (buf,) = state
        buf = g if buf is None else axpy(mul(buf, s.momentum), g, s.undamped)
        u = axpy(g, buf, s.momentum) if s.nesterov else buf
        return axpy(p, masked(s, u, g), s.step_size), buf
