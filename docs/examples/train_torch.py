"""Train a module of torch with refoptim in three ways, and see that all end with the same bits.

    python docs/examples/train_torch.py
    python docs/examples/train_torch.py NAdam --steps 300

torch computes the loss and the gradients in each. In the first way a class of refoptim is given the parameters of the
module; in the second a class of refoptim.interop.torch, which torch's own scheduler drives; in the third there is no
module: the weights are NumPy arrays, and so are the gradients that refoptim is given.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

import refoptim
from refoptim.interop import torch as front

Array = Any
Training = Callable[[str, int, dict[str, Any]], tuple[float, list[Array]]]

WHOLE = ("LBFGS", "ConjugateGradient", "Muon", "SparseAdam")
"""Optimizers that want a closure, matrices alone, or sparse gradients."""


def network() -> torch.nn.Module:
    """Return a network with one input, 32 hidden units and one output, always with the same weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))


def loss_of(model: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return how far a model is from a sine: the mean of the squared errors."""
    x = torch.linspace(-1, 1, 200)[:, None]
    return (model(x) - torch.sin(4 * x)).square().mean()


def plain(name: str, steps: int, settings: dict[str, Any]) -> tuple[float, list[Array]]:
    """Train a module with a class of refoptim; return the last loss and the weights."""
    model = network()
    optimizer = getattr(refoptim, name)(model.parameters(), **settings)
    return trained(model, optimizer, refoptim.lr_scheduler.ExponentialLR(optimizer, 0.99), steps)


def as_torch(name: str, steps: int, settings: dict[str, Any]) -> tuple[float, list[Array]]:
    """Train a module with an optimizer of torch's whose steps are refoptim's, and torch's scheduler."""
    model = network()
    optimizer = getattr(front, name)(model.parameters(), **settings)
    return trained(model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), steps)


def trained(model: torch.nn.Module, optimizer: Any, scheduler: Any, steps: int) -> tuple[float, list[Array]]:
    """Train a module as one always does with torch; return the last loss and the weights."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        scheduler.step()
    return loss.item(), [p.detach().numpy() for p in model.parameters()]


def on_arrays(name: str, steps: int, settings: dict[str, Any]) -> tuple[float, list[Array]]:
    """Train NumPy arrays; the module is only what the loss is computed with, from copies of them."""
    model = network()
    weights = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    optimizer = getattr(refoptim, name)(weights.values(), **settings)
    scheduler = refoptim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(steps):
        copies = {key: torch.tensor(x, requires_grad=True) for key, x in weights.items()}
        loss = loss_of(lambda x, copies=copies: torch.func.functional_call(model, copies, (x,)))  # type: ignore[misc]
        loss.backward()
        optimizer.step(grads=[p.grad.numpy() for p in copies.values()])
        scheduler.step()
    return loss.item(), list(weights.values())


WAYS: tuple[Training, ...] = (plain, as_torch, on_arrays)


def digest(arrays: Iterable[Array]) -> str:
    """Return the SHA-256 of the bytes of arrays."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays)).hexdigest()


def names() -> list[str]:
    """Return the optimizers that train a network with a gradient a step."""
    classes = [x for x in vars(refoptim).values() if inspect.isclass(x) and issubclass(x, refoptim.Optimizer)]
    return sorted(x.__name__ for x in classes if x is not refoptim.Optimizer and x.__name__ not in WHOLE)


def main() -> None:
    """Read the command line, train in each way, and print the losses and the digests of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizer", nargs="?", default="AdamW", choices=names(), help="its name (default: AdamW)")
    parser.add_argument("--steps", type=int, default=200, help="how many steps (default: 200)")
    parser.add_argument("--lr", type=float, default=0.03, help="the learning rate (default: 0.03)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"lr": args.lr}
    found = set()
    for way in WAYS:
        loss, weights = way(args.optimizer, args.steps, settings)
        found.add(digest(weights))
        print(f"{way.__name__:10} loss {loss:.6f}  sha256 {digest(weights)[:16]}")
    print("the same bits" if len(found) == 1 else "the bits differ")


if __name__ == "__main__":
    main()
