"""The optimizers of scikit-learn's neural networks. They have no decay: the loss has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from refoptim.numerics.arith import Array

from .peer import Hyper, Peer, Theirs


def _sgd(h: Hyper) -> Any:
    from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

    return lambda arrays: SGDOptimizer(arrays, h["lr"], momentum=h["momentum"], nesterov=h["nesterov"])


def _adam(h: Hyper) -> Any:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    return lambda arrays: AdamOptimizer(arrays, h["lr"], *h["betas"], epsilon=h["eps"])


class Sklearn(Peer):
    """sklearn.neural_network's SGDOptimizer and AdamOptimizer."""

    package = "scikit-learn"
    rules: ClassVar[Mapping[str, Theirs]] = {
        "SGD": Theirs(_sgd, ("dampening", "weight_decay")),
        "Adam": Theirs(_adam, ("amsgrad", "weight_decay")),
    }

    def _begin(self, made: Any) -> None:
        self._optimizer = made(self._arrays)

    def _set_lr(self, lr: float) -> None:
        self._optimizer.learning_rate = self._optimizer.learning_rate_init = lr

    def _step(self, grads: Sequence[Array]) -> None:
        self._optimizer.update_params(self._arrays, grads)
