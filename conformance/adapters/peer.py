"""What adapters of other libraries have in common: which optimizers they have, with which options.

A library is described by a table, ``rules``: by torch's name of an optimizer what makes theirs of torch's
hyperparameters, and the options that theirs does not have. Gradients have their signs turned to maximize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from refoptim.numerics.arith import COMPLEX, Array

from ..cases import Case
from . import Adapter, all_hyper, installed, turned

Hyper = Mapping[str, Any]


class Theirs(NamedTuple):
    """An optimizer of another library: what makes it, and the options that it lacks."""

    make: Callable[[Hyper], Any]
    lacks: tuple[str, ...] = ()


class Peer(Adapter):
    """A base for libraries that step arrays of NumPy, or take and hand over such arrays.

    Attributes:
        package: the name under which the library is installed.
        rules: its optimizers by torch's names.
        dtypes: the storage types that it computes in.
        changes: the hyperparameters that can be changed on the way.
        skips: whether a parameter may have no gradient.
    """

    package: ClassVar[str]
    rules: ClassVar[Mapping[str, Theirs]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")
    changes: ClassVar[tuple[str, ...]] = ("lr",)
    skips: ClassVar[bool] = False

    def versions(self) -> dict[str, str]:
        return {self.package: installed(self.package)}

    def why_not(self, case: Case, dtype: str) -> str | None:
        if case.optimizer not in self.rules:
            return f"{self.package} has no {case.optimizer} of this kind"
        if "nnz" in case.gradient or dtype in COMPLEX:
            return "no sparse gradients and no complex parameters"
        if dtype not in self.dtypes:
            return f"{self.package} is not run in {dtype}"
        hyper = all_hyper(case.optimizer, case.hyper)
        lacking = [name for name in self.rules[case.optimizer].lacks if hyper.get(name)]
        if lacking:
            return f"the {case.optimizer} of {self.package} has no {lacking[0]}"
        fixed = sorted({name for change in case.set.values() for name in change} - set(self.changes))
        if fixed:
            return f"{self.package} cannot change {fixed[0]}"
        if case.resume is not None or (case.skip and not self.skips):
            return "its state is not saved here" if case.resume is not None else "every parameter needs a gradient"
        return None

    def make(self, optimizer: str, hyper: Hyper, parameters: Sequence[Array]) -> None:
        self._hyper = all_hyper(optimizer, hyper)
        self._arrays = [np.array(p) for p in parameters]
        self._begin(self.rules[optimizer].make(self._hyper))

    def set(self, hyper: Hyper) -> None:
        self._hyper = {**self._hyper, **hyper}
        self._set_lr(self._hyper["lr"])

    def step(self, grads: Sequence[Any]) -> None:
        self._step([None if g is None else np.asarray(g) for g in turned(grads, self._hyper)])

    def parameters(self) -> list[Array]:
        return self._arrays

    def _begin(self, made: Any) -> None:
        """Begin with what ``rules`` made of the hyperparameters."""
        raise NotImplementedError

    def _set_lr(self, lr: float) -> None:
        raise NotImplementedError

    def _step(self, grads: Sequence[Any]) -> None:
        """Take a step and put its results into the arrays."""
        raise NotImplementedError


def settings_of(h: Hyper, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their names in a library, each a hyperparameter's name or a function of all of them."""
    return {key: x(h) if callable(x) else h[x] for key, x in settings.items()}


class TorchPeer(Peer):
    """A base for libraries whose optimizers are torch's kind: they step torch's parameters."""

    skips = True
    beside: Mapping[str, Any] = {}
    """What the next step is given beside the gradients, by the names of its arguments."""

    def _begin(self, made: Any) -> None:
        import torch

        self._params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in self._arrays]
        self._optimizer = made(self._params)

    def _set_lr(self, lr: float) -> None:
        self._optimizer.param_groups[0]["lr"] = lr

    def _step(self, grads: Sequence[Any]) -> None:
        import torch

        for p, g in zip(self._params, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(np.array(g))
        self._optimizer.step(**self.beside)
        self._arrays = [p.detach().numpy().copy() for p in self._params]
