"""Runs of L-BFGS on the Rosenbrock function, alone and beside torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import rosen, rosen_der

from helpers.pictures import frozen
from refoptim import Parameter
from refoptim.optimizers.lbfgs import LBFGS

STATE = {"func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad", "prev_loss", "al"}


def start(n: int, dtype: str = "float64") -> Any:
    return np.resize([-1.2, 1.0], n).astype(dtype)


def quadratic(n: int, seed: int = 5) -> tuple[Any, Any]:
    """Return a positive definite matrix of condition 30, and a vector."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return q * np.geomspace(0.2, 6, n) @ q.T, rng.standard_normal(n)


class Run:
    """An optimizer over parts of a flat vector, with a closure for the Rosenbrock function of the vector."""

    def __init__(self, parts: list[Any], sign: int = 1, **hyper: Any) -> None:
        self.params = [Parameter(x) for x in parts]
        self.optimizer = LBFGS(self.params, **hyper)
        self.sign, self.calls, self.visited = sign, 0, [self.flat()]

    def flat(self) -> Any:
        return np.concatenate([p.data.reshape(-1) for p in self.params])

    def closure(self) -> float:
        self.calls += 1
        x = self.flat()
        self.visited.append(x)
        rest = rosen_der(x) * self.sign
        for p in self.params:
            p.grad, rest = rest[: p.data.size].reshape(p.shape), rest[p.data.size :]
        return float(rosen(x)) * self.sign

    def step(self) -> Any:
        return self.optimizer.step(self.closure)

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.params[0]]

    def everything(self) -> Any:
        """Return all that a failing step must leave as it was."""
        return frozen([self.flat(), self.optimizer.state_dict()])


class Pair(Run):
    """The same with torch beside it."""

    def __init__(self, torch: Any, parts: list[Any], **hyper: Any) -> None:
        self.tensors = [torch.from_numpy(x.copy()) for x in parts]
        self.theirs = torch.optim.LBFGS(self.tensors, **hyper)
        self.torch = torch
        super().__init__(parts, **hyper)

    def torch_closure(self) -> float:
        x = np.concatenate([tensor.numpy().reshape(-1) for tensor in self.tensors])
        rest = rosen_der(x)
        for tensor in self.tensors:
            n = tensor.numel()
            tensor.grad, rest = self.torch.from_numpy(rest[:n].reshape(tuple(tensor.shape)).copy()), rest[n:]
        return float(rosen(x))

    @property
    def torch_state(self) -> dict[str, Any]:
        return self.theirs.state[self.tensors[0]]

    def gap(self) -> float:
        return max(float(np.abs(p.data - t.numpy()).max()) for p, t in zip(self.params, self.tensors, strict=True))


def as_numpy(x: Any) -> Any:
    if isinstance(x, list):
        return [as_numpy(y) for y in x]
    return x.numpy() if hasattr(x, "numpy") else x
