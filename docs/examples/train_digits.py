"""Train a small network on the handwritten digits that scikit-learn ships, with any optimizer of refoptim.

SparseAdam alone is left out: the gradients here are dense.

    python docs/examples/train_digits.py
    python docs/examples/train_digits.py SGD --lr 0.1 --set momentum=0.9 --set nesterov=True
    python docs/examples/train_digits.py LBFGS --epochs 20 --set line_search_fn=strong_wolfe

The gradients are written by hand in NumPy; refoptim changes the weights in place.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import trange

import refoptim

Array = Any
Batch = tuple[Array, Array]


class Network:
    """Two layers: 64 pixels, 256 hidden units, 10 digits, with ReLU between and softmax at the end."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.w1 = refoptim.Parameter(rng.normal(0, 64**-0.5, (64, 256)).astype(np.float32), name="w1")
        self.b1 = refoptim.Parameter(np.zeros(256, np.float32), name="b1")
        self.w2 = refoptim.Parameter(rng.normal(0, 256**-0.5, (256, 10)).astype(np.float32), name="w2")
        self.b2 = refoptim.Parameter(np.zeros(10, np.float32), name="b2")

    def parameters(self) -> list[refoptim.Parameter]:
        """Return the weights and biases."""
        return [self.w1, self.b1, self.w2, self.b2]

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the hidden units and the log-probabilities of the digits, shapes (n, 256) and (n, 10)."""
        hidden = np.maximum(x @ self.w1.data + self.b1.data, 0)
        logits = hidden @ self.w2.data + self.b2.data
        logits -= logits.max(axis=1, keepdims=True)
        return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def loss(self, x: Array, y: Array) -> float:
        """Return the mean cross entropy and leave its gradient in the parameters."""
        hidden, log_p = self.forward(x)
        d_logits = np.exp(log_p)
        d_logits[np.arange(len(y)), y] -= 1
        d_logits /= np.float32(len(y))
        d_hidden = (d_logits @ self.w2.data.T) * (hidden > 0)
        self.w2.grad, self.b2.grad = hidden.T @ d_logits, d_logits.sum(axis=0)
        self.w1.grad, self.b1.grad = x.T @ d_hidden, d_hidden.sum(axis=0)
        return -float(log_p[np.arange(len(y)), y].mean())

    def accuracy(self, x: Array, y: Array) -> float:
        """Return the share of digits that are recognized."""
        return float((self.forward(x)[1].argmax(axis=1) == y).mean())


def digits() -> tuple[Array, Array, Array, Array]:
    """Return training images, test images, training labels and test labels; images are rows of 64 numbers in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    parts: tuple[Array, ...] = train_test_split(
        (x / 16).astype(np.float32), y, test_size=0.2, random_state=0, stratify=y
    )
    return parts[0], parts[1], parts[2], parts[3]


def batches(x: Array, y: Array, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Cut the shuffled data into batches."""
    order = rng.permutation(len(y))
    for start in range(0, len(y), size):
        chosen = order[start : start + size]
        yield x[chosen], y[chosen]


def make_optimizer(name: str, network: Network, settings: dict[str, Any]) -> refoptim.Optimizer:
    """Make an optimizer by name; Muon gets the matrices alone, and the biases stay zero."""
    if name != "Muon":
        optimizer: refoptim.Optimizer = getattr(refoptim, name)(network.parameters(), **settings)
        return optimizer
    return refoptim.Muon([network.w1, network.w2], **{"lr": 0.02, **settings})


def train(name: str, settings: dict[str, Any], epochs: int, batch: int, seed: int) -> float:
    """Train with an optimizer and return the accuracy on the test images."""
    rng = np.random.default_rng(seed)
    x, x_test, y, y_test = digits()
    network = Network(rng)
    optimizer = make_optimizer(name, network, settings)
    if name in ("LBFGS", "ConjugateGradient"):
        batch = len(y)
    progress = trange(epochs, desc=name)
    for _ in progress:
        for x_batch, y_batch in batches(x, y, batch, rng):
            loss = optimizer.step(closure(network, x_batch, y_batch))
        progress.set_postfix(loss=f"{loss:.4f}", test=f"{network.accuracy(x_test, y_test):.2%}")
    return network.accuracy(x_test, y_test)


def closure(network: Network, x: Array, y: Array) -> Callable[[], float]:
    """Return what an optimizer calls to learn the loss and the gradient."""
    return lambda: network.loss(x, y)


def names() -> list[str]:
    """Return the optimizers that take dense gradients."""
    classes = [x for x in vars(refoptim).values() if inspect.isclass(x) and issubclass(x, refoptim.Optimizer)]
    return sorted(x.__name__ for x in classes if x not in (refoptim.Optimizer, refoptim.SparseAdam))


def setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``; the value is a Python literal or a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main() -> None:
    """Read the command line, train, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizer", nargs="?", default="AdamW", choices=names(), help="its name (default: AdamW)")
    parser.add_argument("--lr", type=float, help="the learning rate (default: the optimizer's own)")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter"
    )
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: 40)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the shuffling (default: 0)")
    args = parser.parse_args()
    settings = dict(args.set) | ({} if args.lr is None else {"lr": args.lr})
    try:
        accuracy = train(args.optimizer, settings, args.epochs, args.batch, args.seed)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(f"test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
