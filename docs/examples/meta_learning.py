"""Learn a learning rate: differentiate the loss after some steps of training by the settings of the steps.

A linear classifier of the handwritten digits that scikit-learn ships is trained for a few steps of SGD with momentum,
by ``refoptim.functional`` on tensors of torch. autograd then goes back through all steps, and Adam, on NumPy's arrays,
moves the logarithm of the learning rate and the logit of the momentum so that the loss on held-back digits falls.

    python docs/examples/meta_learning.py
    python docs/examples/meta_learning.py --lr 10 --steps 30
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import refoptim

Tensor = Any


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images to train on and to hold back, rows of 64 numbers in [0, 1], and the labels of both."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split((x / 16).astype(np.float32), y, test_size=0.5, random_state=0, stratify=y)
    return tuple(torch.from_numpy(part) for part in parts)


def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross entropy of a linear classifier."""
    matrix, bias = weights
    return torch.nn.functional.cross_entropy(x @ matrix + bias, y)


def trained(x: Tensor, y: Tensor, lr: Tensor, momentum: Tensor, steps: int) -> list[Tensor]:
    """Train from zero, in a way that can be differentiated, and return the weights."""
    weights, state = [torch.zeros(64, 10, requires_grad=True), torch.zeros(10, requires_grad=True)], None
    for t in range(1, steps + 1):
        grads = torch.autograd.grad(loss(weights, x, y), weights, create_graph=True)
        weights, state = refoptim.functional.sgd(weights, grads, state, t, lr=lr, momentum=momentum)
    return weights


def learned(lr: float, momentum: float, steps: int, rounds: int) -> list[tuple[float, float, float]]:
    """Learn the settings; return the held-back loss, the learning rate and the momentum of each round."""
    x, held_x, y, held_y = digits()
    settings = np.array([np.log(lr), np.log(momentum / (1 - momentum))])
    optimizer = refoptim.Adam([settings], lr=0.2)
    history = []
    for _ in range(rounds):
        given = torch.tensor(settings, requires_grad=True)
        rate, factor = given[0].exp(), given[1].sigmoid()
        held = loss(trained(x, y, rate, factor, steps), held_x, held_y)
        history.append((held.item(), rate.item(), factor.item()))
        (slope,) = torch.autograd.grad(held, given)
        optimizer.step(grads=[slope.numpy()])
    return history


def main() -> None:
    """Read the command line, learn, and print the first and the last round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.05, help="the learning rate to begin with (default: 0.05)")
    parser.add_argument("--momentum", type=float, default=0.5, help="the momentum to begin with (default: 0.5)")
    parser.add_argument("--steps", type=int, default=10, help="steps of a training (default: 10)")
    parser.add_argument("--rounds", type=int, default=20, help="trainings to learn from (default: 20)")
    args = parser.parse_args()
    if not args.lr > 0 or not 0 < args.momentum < 1 or args.steps < 1 or args.rounds < 1:
        parser.error("lr must be positive, momentum between 0 and 1, and there must be a step and a round")
    history = learned(args.lr, args.momentum, args.steps, args.rounds)
    for i in (0, len(history) - 1):
        held, lr, momentum = history[i]
        print(f"round {i + 1}: held-back loss {held:.4f} with lr={lr:.3f}, momentum={momentum:.3f}")


if __name__ == "__main__":
    main()
