"""ASGD."""

from __future__ import annotations

from typing import Annotated, Any

from ..numerics.arith import Array, add, axpy, mul, sub
from ..numerics.followed import double, rounded
from ..numerics.power import power
from ..step import hyper as hp
from ..step.groups import Params
from ..step.rule import Hypers, Record, Registers
from .base import Optimizer


class ASGD(Optimizer):
    """Averaged stochastic gradient descent: steps that shrink, and the average of the parameters they pass through.

    .. code-block:: text

        g  = g + weight_decay * p
        p  = p * (1 - lambd * eta)
        p  = p - eta * g
        ax = p                                  while mu = 1
        ax = ax + (p - ax) * mu                 else
        eta = lr / (1 + lambd * lr * k)**alpha
        mu  = 1 / max(1, k - t0)

    The last two lines take effect in the next step. The average is in the state, as ``ax``; the parameter is not
    replaced by it.

    State: ``step``, ``eta`` (``lr`` at first), ``mu`` (1 at first), numbers in the default dtype; ``ax`` (like the
    parameter).

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992;
    the schedule of ``eta`` is Bottou's, "Stochastic gradient descent tricks", 2012.
    """

    varying = frozenset({"mu", "shrink", "step_size"})

    def __init__(
        self,
        params: Params,
        lr: hp.LearningRate = 1e-2,
        lambd: Annotated[hp.Scalar, hp.Real("the decay term")] = 1e-4,
        alpha: Annotated[hp.Scalar, hp.Real("the power with which the step size falls")] = 0.75,
        t0: Annotated[hp.Scalar, hp.Real("the step at which averaging begins", interval=hp.Interval("[0, inf]"))] = 1e6,
        weight_decay: hp.WeightDecay = 0,
        foreach: hp.Foreach = None,
        maximize: hp.Maximize = False,
        differentiable: hp.Differentiable = False,
        capturable: hp.Capturable = False,
        *,
        fused: hp.Fused = None,
    ) -> None:
        super().__init__(**hp.settings(locals()))

    @classmethod
    def arrays(cls, h: Hypers, shape: tuple[int, ...]) -> dict[str, float | None]:
        return {"ax": 0.0}

    @classmethod
    def registers(cls, h: Hypers) -> dict[str, float]:
        return {"eta": h.lr, "mu": 1.0}

    @classmethod
    def advance(cls, h: Hypers, k: int, registers: Registers) -> Registers:
        dtype = registers["eta"].dtype
        eta, mu = h.lr / power(1 + h.lambd * h.lr * k, h.alpha), 1 / max(1, k - h.t0)
        return {"eta": rounded(eta, dtype), "mu": rounded(mu, dtype)}

    @classmethod
    def scalars(cls, h: Hypers, k: int, registers: Registers) -> dict[str, Any]:
        eta, mu = double(registers["eta"]), double(registers["mu"])
        return dict(weight_decay=h.weight_decay, shrink=1 - h.lambd * eta, step_size=-eta, averaging=mu != 1, mu=mu)

    @classmethod
    def update(cls, s: Record, p: Array, g: Array, *state: Array) -> tuple[Array, ...]:
        (ax,) = state
        if s.weight_decay:
            g = axpy(g, p, s.weight_decay)
        p = axpy(mul(p, s.shrink), g, s.step_size)
        ax = add(ax, mul(sub(p, ax), s.mu)) if s.averaging else p
        return p, ax
