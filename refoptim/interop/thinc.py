"""The optimizers for models of thinc.

::

    from refoptim.interop.thinc import Optimizer

    optimizer = Optimizer(refoptim.AdamW, 1e-3, weight_decay=0.1)
    model.finish_update(optimizer)
"""

from __future__ import annotations

from typing import Any

from thinc.backends import get_array_ops
from thinc.optimizers import Optimizer as ThincOptimizer

from ..numerics.arith import Array
from ..numerics.array_types import HOST, Place, fill, gpu, is_writable, moved, place
from ..optimizers import base
from ..optimizers.closure import ClosureOptimizer
from ..step.parameter import Parameter

Key = tuple[int, str]
"""What thinc calls a parameter by: the number of its node, and its name there."""


_ops: Any = get_array_ops


class Optimizer(ThincOptimizer):
    """An optimizer of refoptim that models of thinc call, with the bits of the optimizer itself.

    It has thinc's ``step_schedules``, ``learn_rate``, ``averages`` and ``last_score``. Weights are changed in place,
    and gradients set to zero, as thinc's own optimizers do.

    Args:
        rule: the class, such as ``refoptim.AdamW``.
        learn_rate: the learning rate: a number, or a schedule as thinc takes it; None for the default of ``rule``.
        grad_clip: the norm to which each gradient is clipped, by thinc; 0: to none.
        use_averages: keep running averages of the weights in ``averages``, as thinc does.
        settings: the hyperparameters of ``rule``. One that is a schedule of thinc changes with the step.

    Raises:
        TypeError, ValueError, RuntimeError: the rule or a setting is wrong.
    """

    averages: Any

    def __init__(
        self,
        rule: type[base.Optimizer],
        learn_rate: Any = None,
        *,
        grad_clip: Any = 0.0,
        use_averages: bool = False,
        **settings: Any,
    ) -> None:
        if not (isinstance(rule, type) and issubclass(rule, base.Optimizer)) or rule is base.Optimizer:
            raise TypeError(f"rule must be a class of optimizers such as refoptim.Adam, got {rule!r}")
        if issubclass(rule, ClosureOptimizer):
            raise TypeError(f"{rule.__name__} calls a closure several times in a step, and models of thinc have none")
        if learn_rate is not None and "lr" in settings:
            raise TypeError("give the learning rate as learn_rate or as lr, not both")
        lr = settings.pop("lr", None) if learn_rate is None else learn_rate
        self.rule, self.settings = rule, settings
        self._of: dict[Key, base.Optimizer] = {}
        if lr is None:
            lr = rule([{"params": []}], **self._now(None)).defaults["lr"]
        super().__init__(lr, grad_clip=grad_clip, use_averages=use_averages)
        rule([{"params": []}], **self._now(None))

    def __call__(self, key: Key, weights: Array, gradient: Array, *, lr_scale: float = 1.0) -> tuple[Array, Array]:
        """Take a step of one parameter; return its weights and its gradient, which is zero then.

        Raises:
            TypeError, ValueError, RuntimeError: the weights, their gradient or a setting is wrong; nothing has changed.
        """
        if len(gradient) < 1:
            return weights, gradient
        if not is_writable(gradient):
            raise ValueError(f"the gradient of {_name(key)} must be writable: it is set to zero after the step")
        if key in self._of and place(_only(self._of[key]).data) != place(weights):
            self._move(place(weights))
        now = self._now(key)
        optimizer = self._of[key] if key in self._of else self._made(key, weights, now)
        _only(optimizer).data = weights
        optimizer.param_groups[0].update(now, lr=now["lr"] * lr_scale)
        optimizer.step(grads=[self._clipped(key, gradient)])
        self._of[key] = optimizer
        fill(gradient, 0)
        self._average(key, weights)
        return weights, gradient

    def to_cpu(self) -> None:
        """Move what is kept to the memory of the computer."""
        self._move(HOST)

    def to_gpu(self, gpu_id: int = 0) -> None:
        """Move what is kept to a GPU."""
        self._move(gpu(gpu_id))

    def _now(self, key: Key | None) -> dict[str, Any]:
        """Return the settings of this step."""
        rate = {"lr": self._at_this_step(self.learn_rate, key)} if hasattr(self, "learn_rate") else {}
        return {name: self._at_this_step(x, key) for name, x in self.settings.items()} | rate

    def _at_this_step(self, x: Any, key: Key | None) -> Any:
        """Return the value of a schedule, which before thinc 9 stands in the attribute itself."""
        return x(self.step, key=key, last_score=self.last_score) if callable(x) else x

    def _made(self, key: Key, weights: Array, now: dict[str, Any]) -> base.Optimizer:
        return self.rule([Parameter(weights, name=_name(key))], **now)

    def _clipped(self, key: Key, gradient: Array) -> Array:
        norm = self._at_this_step(self.grad_clip, key)
        return _ops(gradient).clip_gradient(gradient.copy(), norm) if norm else gradient

    def _average(self, key: Key, weights: Array) -> None:
        if self.averages is None:
            return
        ops = _ops(weights)
        self.nr_update[key] += 1
        if key not in self.averages:
            self.averages[key] = ops.alloc(weights.shape, dtype="float32")
        ops.update_averages(self.averages[key], weights, self.nr_update[key])

    def _move(self, where: Place | None) -> None:
        of = {key: self._moved(optimizer, where) for key, optimizer in self._of.items()}
        averages = {key: moved(x, where) for key, x in (self.averages or {}).items()}
        self._of, self.averages = of, averages if self.averages is not None else None

    def _moved(self, optimizer: base.Optimizer, where: Place | None) -> base.Optimizer:
        """Return an optimizer like this one whose state lies elsewhere."""
        p = _only(optimizer)
        there = self.rule([Parameter(moved(p.data, where), name=p.name)], **optimizer.defaults)
        there.load_state_dict(optimizer.state_dict())
        return there


def _only(optimizer: base.Optimizer) -> Parameter:
    p: Parameter = optimizer.param_groups[0]["params"][0]
    return p


def _name(key: Key) -> str:
    """Name a parameter in messages."""
    return f"{key[1]} of node {key[0]}" if isinstance(key, tuple) and len(key) == 2 else str(key)
